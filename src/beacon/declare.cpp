// SPDX-License-Identifier: Apache-2.0
#include "beacon/declare.hpp"

#include <algorithm>
#include <optional>
#include <set>
#include <stdexcept>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "beacon/connection.hpp"
#include "beacon/handle.hpp"
#include "beacon/names.hpp"
#include "beacon/partitions.hpp"

namespace penstock::beacon {
namespace {

constexpr milliseconds kConnectTimeout{5'000};

/// NATS knows what is wrong, and trying again would not help.
class Refused : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

class Silent final : public Listener {};

std::string list(const std::set<std::string>& names) {
  std::string text;
  for (const auto& name : names) text += (text.empty() ? "" : ", ") + name;
  return '[' + text + ']';
}

std::set<std::string> subjects_of(const StreamSpec& spec) {
  const auto& subjects = spec.subjects.empty() ? beacon::subjects_of(spec.name, spec.partitions) : spec.subjects;
  return {subjects.begin(), subjects.end()};
}

std::string seconds(std::int64_t nanoseconds) {
  if (nanoseconds == 0) return "none";
  if (nanoseconds % 1'000'000'000 == 0) return std::to_string(nanoseconds / 1'000'000'000) + " s";
  return std::to_string(nanoseconds) + " ns";
}

jsRetentionPolicy policy(StreamSpec::Retention retention) {
  switch (retention) {
    case StreamSpec::Retention::interest: return js_InterestPolicy;
    case StreamSpec::Retention::work_queue: return js_WorkQueuePolicy;
    default: return js_LimitsPolicy;
  }
}

std::string shown(jsRetentionPolicy retention) {
  return retention == js_InterestPolicy ? "interest" : retention == js_WorkQueuePolicy ? "work queue" : "limits";
}

std::optional<StreamInfoHandle> look_up(jsCtx* js, const std::string& stream) {
  jsStreamInfo* found = nullptr;
  jsErrCode code{};
  const auto status = js_GetStreamInfo(&found, js, stream.c_str(), nullptr, &code);
  StreamInfoHandle info{found};
  if (status == NATS_OK) return info;
  if (status == NATS_NOT_FOUND || code == JSStreamNotFoundErr) return std::nullopt;
  throw std::runtime_error{"cannot look up the stream \"" + stream + "\": " + last_error(status)};
}

void create(jsCtx* js, const StreamSpec& wanted, const std::string& stream) {
  const auto subjects = subjects_of(wanted);
  std::vector<const char*> names;
  names.reserve(subjects.size());
  for (const auto& subject : subjects) names.push_back(subject.c_str());
  jsStreamConfig config;
  jsStreamConfig_Init(&config);
  config.Name = stream.c_str();
  config.Subjects = names.data();
  config.SubjectsLen = static_cast<int>(names.size());
  config.Storage = js_FileStorage;
  config.Retention = policy(wanted.retention);
  config.MaxAge = wanted.max_age.count();
  config.MaxBytes = wanted.max_bytes;
  config.Duplicates = wanted.duplicate_window.count();
  config.Replicas = wanted.replicas;
  jsStreamInfo* made = nullptr;
  jsErrCode code{};
  const auto status = js_AddStream(&made, js, &config, nullptr, &code);
  const StreamInfoHandle info{made};
  if (status == NATS_OK) return;
  const auto text = "cannot create the stream \"" + stream + "\": " + last_error(status);
  // Somebody else's declaration won, or the server is not ready: look again. Anything else it said with a code is final.
  if (code != 0 && code != JSStreamNameExistErr && code != JSClusterNotAvailErr && code != JSClusterNotLeaderErr &&
      code != JSInsufficientResourcesErr) {
    throw Refused{text};
  }
  throw std::runtime_error{text};
}

void attempt(const Servers& servers, const StreamSpec& wanted, const std::string& stream, milliseconds wait) {
  const auto listener = std::make_shared<Silent>();
  const Connection connection{servers, {}, listener, std::min(wait, kConnectTimeout)};
  const auto js = jetstream(connection, wait);
  auto found = look_up(js.get(), stream);
  if (!found) {
    create(js.get(), wanted, stream);
    found = look_up(js.get(), stream);
    if (!found) throw std::runtime_error{"the stream \"" + stream + "\" was made and is not there"};
  }
  if (const auto text = difference(wanted, *(*found)->Config); !text.empty()) {
    throw Refused{"the stream \"" + stream + "\" exists with another setting: " + text +
                  ". Change the declaration, or the stream with the nats tool"};
  }
}

}  // namespace

std::string difference(const StreamSpec& wanted, const jsStreamConfig& found) {
  std::string text;
  const auto differ = [&](std::string_view what, const std::string& want, const std::string& have) {
    if (want == have) return;
    text += (text.empty() ? "" : "; ") + std::string{what} + ": wanted " + want + ", found " + have;
  };
  std::set<std::string> subjects;
  for (int i = 0; i < found.SubjectsLen; ++i) subjects.insert(found.Subjects[i]);
  differ("subjects", list(subjects_of(wanted)), list(subjects));
  differ("retention", shown(policy(wanted.retention)), shown(found.Retention));
  differ("max_age", seconds(wanted.max_age.count()), seconds(found.MaxAge));
  differ("max_bytes", std::to_string(std::max<std::int64_t>(wanted.max_bytes, -1)),
         std::to_string(found.MaxBytes == 0 ? -1 : found.MaxBytes));
  differ("duplicate_window", seconds(wanted.duplicate_window.count()), seconds(found.Duplicates));
  differ("replicas", std::to_string(wanted.replicas), std::to_string(found.Replicas));
  differ("storage", "file", found.Storage == js_FileStorage ? "file" : "memory");
  return text;
}

void declare_stream(const Servers& servers, const StreamSpec& wanted, milliseconds timeout, std::shared_ptr<Logger> logger) {
  const auto stream = stream_of(wanted.name);
  for (const std::string& subject : wanted.subjects) check_stream_subject(subject);
  check_partitions(wanted.partitions, wanted.name);
  if (wanted.partitions > 0 && !wanted.subjects.empty()) {
    throw std::invalid_argument{"Beacon: subjects and partitions of \"" + wanted.name +
                                "\" are two ways to say what it takes; give one of them"};
  }
  if (wanted.replicas < 1) throw std::invalid_argument{"Beacon: replicas of \"" + wanted.name + "\" must be at least 1"};
  if (wanted.max_age.count() < 0) throw std::invalid_argument{"Beacon: max_age of \"" + wanted.name + "\" is negative"};
  if (wanted.duplicate_window.count() <= 0) {
    throw std::invalid_argument{"Beacon: duplicate_window of \"" + wanted.name + "\" must be more than nothing"};
  }
  if (wanted.max_age.count() > 0 && wanted.duplicate_window > wanted.max_age) {
    throw std::invalid_argument{"Beacon: duplicate_window of \"" + wanted.name + "\" is longer than its max_age: shorten it"};
  }
  Speech speech{std::move(logger)};
  Backoff backoff;
  const auto deadline = SteadyClock::now() + timeout;
  while (true) {
    try {
      const auto rest = std::chrono::ceil<milliseconds>(deadline - SteadyClock::now());
      attempt(servers, wanted, stream, std::clamp(rest, milliseconds{1}, milliseconds{5'000}));
      return;
    } catch (const Refused&) {
      throw;
    } catch (const std::runtime_error& failure) {
      const auto pause = backoff.next();
      if (SteadyClock::now() + pause >= deadline) throw;
      speech.say_rarely(LogLevel::warn, "declare", failure.what());
      std::this_thread::sleep_for(pause);
    }
  }
}

}  // namespace penstock::beacon
