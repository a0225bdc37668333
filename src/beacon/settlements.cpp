// SPDX-License-Identifier: Apache-2.0
#include "beacon/settlements.hpp"

#include <nats/nats.h>

#include "beacon/handle.hpp"

namespace penstock::beacon {
namespace {

constexpr milliseconds kPatience{2'000};

/// Whether the server says that it has it, or that there is nobody any more whom it could concern.
bool ask(Connection& connection, const std::string& subject, const std::string& words) {
  if (!connection.alive()) return false;
  natsMsg* answer = nullptr;
  const auto status =
      natsConnection_RequestString(&answer, connection.get(), subject.c_str(), words.c_str(), kPatience.count());
  const MessageHandle owned{answer};
  if (status == NATS_OK || status == NATS_NO_RESPONDERS) return true;
  connection.condemn();
  return false;
}

}  // namespace

std::string want_again(std::chrono::nanoseconds delay) {
  return delay.count() <= 0 ? "-NAK" : R"(-NAK {"delay": )" + std::to_string(delay.count()) + '}';
}

std::uint64_t Settlements::enter(std::string subject) {
  const std::lock_guard lock{mutex_};
  open_.emplace(++last_, Open{std::move(subject), SteadyClock::now()});
  return last_;
}

bool Settlements::send(const std::string& subject, const std::string& words) {
  if (!connection_ || !connection_->alive()) return false;
  if (natsConnection_PublishString(connection_->get(), subject.c_str(), words.c_str()) == NATS_OK) return true;
  connection_->condemn();
  return false;
}

void Settlements::send_or_keep(std::string subject, const std::string& words) {
  if (!send(subject, words)) unsent_.emplace_back(std::move(subject), words);
}

void Settlements::ask_or_keep(std::shared_ptr<Connection> connection, std::uint64_t generation, std::string subject,
                              const std::string& words) {
  while (true) {
    if (connection && ask(*connection, subject, words)) return;
    const std::lock_guard lock{mutex_};
    if (generation_ != generation) return;  // it would settle a message of another consumer
    if (connection_ == connection || !connection_) {
      unsent_.emplace_back(std::move(subject), words);
      return;
    }
    connection = connection_;  // which came meanwhile
  }
}

void Settlements::settle(std::uint64_t receipt, const std::string& words) {
  std::string subject;
  std::shared_ptr<Connection> connection;
  std::uint64_t generation = 0;
  {
    const std::lock_guard lock{mutex_};
    const auto found = open_.find(receipt);
    if (found == open_.end()) return;
    subject = std::move(found->second.subject);
    open_.erase(found);
    if (!confirm_) return send_or_keep(std::move(subject), words);
    connection = connection_;
    generation = generation_;
  }
  ask_or_keep(std::move(connection), generation, std::move(subject), words);
}

void Settlements::touch(std::uint64_t receipt, milliseconds pause) {
  const std::lock_guard lock{mutex_};
  const auto found = open_.find(receipt);
  const auto now = SteadyClock::now();
  if (found == open_.end() || now - found->second.signed_at < pause) return;
  if (send(found->second.subject, "+WPI")) found->second.signed_at = now;
}

void Settlements::say(const std::string& subject, const std::string& words) {
  const std::lock_guard lock{mutex_};
  static_cast<void>(send(subject, words));
}

void Settlements::use(const std::shared_ptr<Connection>& connection) {
  std::vector<std::pair<std::string, std::string>> unsent;
  std::uint64_t generation = 0;
  {
    const std::lock_guard lock{mutex_};
    connection_ = connection;
    if (!connection_) return;
    unsent.swap(unsent_);
    generation = generation_;
    if (!confirm_) {
      for (auto& [subject, words] : unsent) send_or_keep(std::move(subject), words);
      return;
    }
  }
  for (auto& [subject, words] : unsent) ask_or_keep(connection, generation, std::move(subject), words);
}

void Settlements::give_back(const std::string& words, milliseconds ack_wait) {
  const std::lock_guard lock{mutex_};
  const auto now = SteadyClock::now();
  for (const auto& [receipt, open] : open_) {
    if (now - open.signed_at < ack_wait) static_cast<void>(send(open.subject, words));
  }
  open_.clear();
}

void Settlements::forget() {
  const std::lock_guard lock{mutex_};
  ++generation_;
  open_.clear();
  unsent_.clear();
}

void Settlements::end() {
  const std::lock_guard lock{mutex_};
  ++generation_;
  open_.clear();
  unsent_.clear();
  connection_.reset();
}

}  // namespace penstock::beacon
