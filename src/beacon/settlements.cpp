// SPDX-License-Identifier: Apache-2.0
#include "beacon/settlements.hpp"

#include <nats/nats.h>

namespace penstock::beacon {

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

void Settlements::settle(std::uint64_t receipt, const std::string& words) {
  const std::lock_guard lock{mutex_};
  const auto found = open_.find(receipt);
  if (found == open_.end()) return;
  auto subject = std::move(found->second.subject);
  open_.erase(found);
  send_or_keep(std::move(subject), words);
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

void Settlements::use(std::shared_ptr<Connection> connection) {
  const std::lock_guard lock{mutex_};
  connection_ = std::move(connection);
  if (!connection_) return;
  for (auto& [subject, words] : std::exchange(unsent_, {})) send_or_keep(std::move(subject), words);
}

void Settlements::give_back() {
  const std::lock_guard lock{mutex_};
  for (const auto& [receipt, open] : open_) static_cast<void>(send(open.subject, "-NAK"));
  open_.clear();
}

void Settlements::forget() {
  const std::lock_guard lock{mutex_};
  open_.clear();
  unsent_.clear();
}

void Settlements::end() {
  const std::lock_guard lock{mutex_};
  open_.clear();
  unsent_.clear();
  connection_.reset();
}

}  // namespace penstock::beacon
