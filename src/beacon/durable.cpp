// SPDX-License-Identifier: Apache-2.0
#include "beacon/durable.hpp"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <stdexcept>
#include <utility>

#include "beacon/handle.hpp"

namespace penstock::beacon {
namespace {

using std::chrono::nanoseconds;

/// A pull outlives short polls, so that idling does not cost a request for each.
constexpr milliseconds kShortestPull{1'000};
/// And ends soon after a source has gone.
constexpr milliseconds kLongestPull{5'000};
constexpr milliseconds kPullGrace{500};
constexpr milliseconds kPullPause{10};
constexpr std::size_t kLargestPull = 10'000;

/// nats.c 3.4 writes a fraction without its leading zeros, so that 45 ms became 450 and what lay between was never read: up to
/// a tenth of a second is given up instead, toward the past.
nanoseconds start_of(std::chrono::system_clock::time_point time) {
  const auto asked = std::chrono::duration_cast<nanoseconds>(time.time_since_epoch());
  const auto second = std::chrono::floor<std::chrono::seconds>(asked);
  return asked - second < milliseconds{100} ? nanoseconds{second} : asked;
}

}  // namespace

Durable::Durable(Spec spec, const BeaconSourceOptions& options)
    : spec_{std::move(spec)}, options_{options}, settlements_{options.confirm_acks} {}

bool Durable::prepare(jsCtx* js, const std::shared_ptr<Connection>& connection) {
  jsConsumerConfig config;
  jsConsumerConfig_Init(&config);
  config.Durable = spec_.name.c_str();
  if (!spec_.subject.empty()) config.FilterSubject = spec_.subject.c_str();
  config.DeliverPolicy = js_DeliverAll;
  if (options_.start_sequence) {
    config.DeliverPolicy = js_DeliverByStartSequence;
    config.OptStartSeq = *options_.start_sequence;
  } else if (options_.start_time) {
    config.DeliverPolicy = js_DeliverByStartTime;
    config.OptStartTime = start_of(*options_.start_time).count();
  }
  // A group that exists goes on where it is; where it began once cannot be changed and must be given as it was.
  jsConsumerInfo* known = nullptr;
  const auto asked = js_GetConsumerInfo(&known, js, spec_.stream.c_str(), spec_.name.c_str(), nullptr, nullptr);
  const ConsumerInfoHandle earlier{known};
  const bool absent = asked == NATS_NOT_FOUND;
  if (asked == NATS_OK) {
    config.DeliverPolicy = known->Config->DeliverPolicy;
    config.OptStartSeq = known->Config->OptStartSeq;
    config.OptStartTime = known->Config->OptStartTime;
  }
  config.AckPolicy = js_AckExplicit;
  config.ReplayPolicy = js_ReplayInstant;
  config.AckWait = std::chrono::duration_cast<nanoseconds>(options_.ack_wait).count();
  config.MaxAckPending = spec_.max_ack_pending;
  config.MaxDeliver = -1;  // how often is the consumer's policy, and JetStream would stop without a word
  jsConsumerInfo* made = nullptr;
  jsErrCode code{};
  const auto status = js_AddConsumer(&made, js, spec_.stream.c_str(), &config, nullptr, &code);
  const ConsumerInfoHandle info{made};
  if (status != NATS_OK) {
    throw std::runtime_error{"cannot make the consumer \"" + spec_.name + "\" of the stream \"" + spec_.stream +
                             "\": " + last_error(status) + (code == JSStreamNotFoundErr ? "; declare the stream first" : "")};
  }
  // Sequences begin anew with a stream that was deleted and made again, so old settlements would be of other messages. After a
  // restart nats-server 2.9 tells a slightly other time for the same consumer.
  constexpr nanoseconds slack = std::chrono::seconds{1};
  const bool other = made_ != 0 && (absent || std::abs(info->Created - made_) > slack.count());
  if (other) settlements_.forget();
  made_ = info->Created;
  ready_ = true;
  settlements_.use(connection);
  return other;
}

void Durable::suspend() {
  settlements_.use(nullptr);
  ready_ = false;
  credit_ = 0;
}

void Durable::pull(Connection& connection, const std::string& inbox, const std::string& tag, std::size_t count,
                   milliseconds wait) {
  const auto expires = std::clamp(wait, kShortestPull, kLongestPull);
  const auto batch = std::min(count, kLargestPull);
  const std::string subject = "$JS.API.CONSUMER.MSG.NEXT." + spec_.stream + '.' + spec_.name;
  const std::string reply = inbox + '.' + tag + '-' + std::to_string(++pulls_);
  const std::string body = R"({"batch":)" + std::to_string(batch) + R"(,"expires":)" +
                           std::to_string(std::chrono::duration_cast<nanoseconds>(expires).count()) + '}';
  const auto status = natsConnection_PublishRequestString(connection.get(), subject.c_str(), reply.c_str(), body.c_str());
  if (status != NATS_OK) return connection.condemn();
  credit_ = batch;
  next_pull_ = SteadyClock::now() + kPullPause;
  pull_ends_ = SteadyClock::now() + expires + kPullGrace;
}

std::string Durable::farewell() const {
  return want_again(pulling() ? pull_ends_ - SteadyClock::now() : SteadyClock::duration::zero());
}

void Durable::count_delivery() {
  if (credit_ > 0) --credit_;
  next_pull_ = {};
}

bool Durable::end_pull(std::string_view number) {
  if (number != std::to_string(pulls_)) return false;
  credit_ = 0;
  return true;
}

}  // namespace penstock::beacon
