// SPDX-License-Identifier: Apache-2.0
#include "penstock/dead_letter.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "core/base64.hpp"
#include "core/envelope_internal.hpp"
#include "core/sha1.hpp"
#include "core/syntax.hpp"
#include "core/text.hpp"
#include "core/uuid_internal.hpp"
#include "penstock/uuid.hpp"

namespace penstock {
namespace {

constexpr std::size_t longest_message = 1024;
constexpr std::size_t longest_text = 255;
constexpr std::size_t longest_key = 512;
constexpr std::string_view dlq = "dlq-";

std::string_view find(const Headers& headers, std::string_view name) {
  for (const Header& header : headers) {
    if (header.value && text::iequals(header.name, name)) return *header.value;
  }
  return {};
}

/// What an earlier trip to a dead-letter channel wrote; `dlq-replay-…` belongs to whoever replays.
bool is_overwritten(const std::string& name) {
  return text::istarts_with(name, dlq) && !text::istarts_with(name, "dlq-replay-");
}

bool is_own_anywhere(const std::string& name) {
  constexpr std::array bindings{Binding::kafka, Binding::amqp, Binding::nats};
  return std::any_of(bindings.begin(), bindings.end(), [&](Binding binding) { return envelope::is_own(name, binding); });
}

std::string hash_of(const Wire& wire) {
  std::string all;
  const auto add = [&](const std::optional<std::string>& part) {
    all += part ? std::to_string(part->size()) + ":" + *part : std::string{"-"};
  };
  add(wire.key);
  add(wire.payload);
  for (const Header& header : wire.headers) {
    add(header.name);
    add(header.value);
  }
  const auto digest = sha1(all);
  return base64::encode({reinterpret_cast<const char*>(digest.data()), digest.size()});
}

bool is_event(const Message& message) {
  if (!message.defect.empty()) return false;
  try {
    validate(message.event);
  } catch (const InvalidEvent&) {
    return false;
  }
  return true;
}

/// The original with an id of its own, and without the headers of an earlier trip.
Event from_event(const DeadLetter& letter) {
  Event event = letter.message.event;
  event.id = derived_id(letter.group, event.source, event.id, position::dead_letter);
  event.headers.erase(
      std::remove_if(event.headers.begin(), event.headers.end(), [](const Header& h) { return is_overwritten(h.name); }),
      event.headers.end());
  return event;
}

/// Whatever it was, as far as it can travel: payload and headers as they came, those that look like attributes under another
/// name.
Event from_malformed(const DeadLetter& letter) {
  const Message& message = letter.message;
  const Origin& origin = message.origin;
  Event event;
  event.source = "/penstock/" + letter.group;
  if (!syntax::is_uri_reference(event.source)) event.source = "/penstock";
  const std::string place =
      std::to_string(origin.partition) + ":" + std::to_string(origin.position) + ":" + hash_of(message.wire);
  event.id = derived_id(letter.group, origin.channel, place, position::malformed);
  event.type = "penstock.malformed.v1";
  event.data = message.wire.payload;
  if (event.data) event.content_type = "application/octet-stream";
  if (message.wire.key) {
    if (text::is_ce_string(*message.wire.key) && message.wire.key->size() <= longest_key) {
      event.key = *message.wire.key;
    } else {
      event.headers.push_back({"dlq-original-key-base64", base64::encode(*message.wire.key)});
    }
  }
  for (const Header& header : message.wire.headers) {
    if (is_overwritten(header.name) || header.name.find('\0') != std::string::npos) continue;
    Header copy = header;
    if (is_own_anywhere(copy.name)) copy.name = "dlq-header-" + std::string{text::prefix(copy.name, 200)};
    event.headers.push_back(std::move(copy));
  }
  return event;
}

/// "attempts exhausted" of "attempts exhausted: connection refused"; "error" where the reason names no class.
std::string class_of(const DeadLetter& letter) {
  if (!letter.message.defect.empty()) return "malformed";
  const std::size_t colon = letter.reason.find(':');
  if (colon == std::string::npos || colon == 0 || colon > 64) return "error";
  const std::string name = letter.reason.substr(0, colon);
  const bool plain = std::all_of(name.begin(), name.end(), [](char c) {
    return text::is_alpha(c) || text::is_digit(c) || c == ' ' || c == '-' || c == '_' || c == '.';
  });
  return plain ? name : "error";
}

std::string message_of(const DeadLetter& letter) {
  if (!letter.attempts.empty() && !letter.attempts.back().error.empty()) return letter.attempts.back().error;
  return letter.reason.empty() ? letter.message.defect : letter.reason;
}

std::int64_t attempts_of(const DeadLetter& letter) {
  // Not their number: some do not count, and a long history is cut.
  return letter.attempts.empty() ? 0 : std::int64_t{letter.attempts.back().number};
}

}  // namespace

std::string dead_channel(std::string_view channel) { return std::string{channel} + ".dead"; }

std::string dead_letters_of(std::string_view channel) { return "penstock.dead." + std::string{channel}; }

Event to_event(const DeadLetter& letter) {
  const Message& message = letter.message;
  const Origin& origin = message.origin;
  const bool readable = is_event(message);
  Event event = readable ? from_event(letter) : from_malformed(letter);
  const auto add = [&](std::string_view name, std::string_view value, std::size_t most = longest_text) {
    const std::string text{text::clean(value, most)};
    const std::string_view trimmed = text::trim(text);
    if (!trimmed.empty()) event.headers.push_back({std::string{dlq} + std::string{name}, std::string{trimmed}});
  };

  // A message that was replayed and failed again goes on counting, and keeps its first failure.
  const Headers& before = readable ? message.event.headers : message.wire.headers;
  const bool again = find(before, "dlq-consumer-group") == letter.group;
  std::int64_t attempts = attempts_of(letter);
  std::string_view first_failed_at = letter.attempts.empty() ? std::string_view{} : letter.attempts.front().at;
  if (again) {
    const std::string_view count = find(before, "dlq-attempts");
    std::int32_t earlier = 0;
    std::from_chars(count.data(), count.data() + count.size(), earlier);
    attempts += std::max(earlier, 0);
    if (const std::string_view first = find(before, "dlq-first-failed-at"); !first.empty()) first_failed_at = first;
  }

  if (readable) add("original-id", message.event.id, longest_message);
  add("original-topic", origin.channel);
  if (origin.partition >= 0) add("partition", std::to_string(origin.partition));
  if (origin.position >= 0) add("offset", std::to_string(origin.position));
  add("consumer-group", letter.group);
  add("timestamp", message.event.time);
  add("attempts", std::to_string(attempts));
  add("first-failed-at", first_failed_at);
  if (!letter.attempts.empty()) add("last-failed-at", letter.attempts.back().at);
  add("error-class", class_of(letter));
  add("error-message", message_of(letter), longest_message);
  return event;
}

}  // namespace penstock
