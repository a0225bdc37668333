// SPDX-License-Identifier: Apache-2.0
#include "beacon/reply.hpp"

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <system_error>
#include <vector>

namespace penstock::beacon {
namespace {

using Status = Outcome::Status;

// Error codes of the JetStream API. Those newer than the oldest client library we build with are not in its enum.
enum Code : int {
  kAccountResourcesExceeded = 10002,
  kInsufficientResources = 10023,
  kMemoryResourcesExceeded = 10028,
  kNotEnabledForAccount = 10039,
  kStorageResourcesExceeded = 10047,
  kMessageExceedsMaximum = 10054,
  kStreamNotFound = 10059,
  kStreamNotMatch = 10060,
  kNotEnabled = 10076,
  kStoreFailed = 10077,
  kStreamSealed = 10109,
};

template <class Number>
bool read(std::string_view text, Number& into) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), into);
  return error == std::errc{} && end == text.data() + text.size();
}

/// `{"stream":"NAME", "seq":N}`, as nats-server writes nearly all of its answers. What is not exactly that is for the parser,
/// which takes twenty allocations.
bool is_plain_ack(std::string_view body) {
  const auto skip = [&](std::string_view expected) {
    const bool there = body.substr(0, expected.size()) == expected;
    if (there) body.remove_prefix(expected.size());
    return there;
  };
  if (!skip("{\"stream\":\"")) return false;
  const auto end = body.find_first_of("\"\\");
  if (end == 0 || end == std::string_view::npos) return false;
  body.remove_prefix(end);
  if (!skip("\",")) return false;
  skip(" ");
  if (!skip("\"seq\":")) return false;
  const auto digits = body.find_first_not_of("0123456789");
  std::uint64_t sequence = 0;
  if (digits == std::string_view::npos || !read(body.substr(0, digits), sequence) || sequence == 0) return false;
  return body.substr(digits) == "}";
}

}  // namespace

Outcome outcome_of_send(natsStatus status, const std::string& text) {
  const std::string said = text.empty() ? std::string{natsStatus_GetText(status)} : text;
  switch (status) {
    case NATS_MAX_PAYLOAD:
      return {Status::rejected,
              "larger than the server takes: " + said + "; raise max_payload of nats-server or send a reference"};
    case NATS_NO_SERVER_SUPPORT:
      return {Status::rejected, "the server takes no headers: " + said + "; nats-server 2.2 or newer is needed"};
    case NATS_INVALID_SUBJECT:
    case NATS_INVALID_ARG: return {Status::rejected, "NATS cannot carry it: " + said};
    case NATS_CONNECTION_CLOSED:
    case NATS_DRAINING:
    case NATS_INSUFFICIENT_BUFFER: return {Status::retryable, "not sent: " + said};
    default: return {Status::unknown, "may have been sent: " + said};
  }
}

Outcome outcome_of_refusal(int code, int err_code, const std::string& description) {
  const std::string said = description + " (JetStream error " + std::to_string(err_code) + ")";
  switch (err_code) {
    case kAccountResourcesExceeded:
    case kInsufficientResources:
    case kMemoryResourcesExceeded:
    case kStorageResourcesExceeded:
    case kStoreFailed: return {Status::retryable, said + "; the stream or the server is full"};
    case kMessageExceedsMaximum: return {Status::rejected, said + "; raise max_msg_size of the stream or send a reference"};
    case kStreamNotMatch:
      return {Status::rejected, said + "; another stream owns the subject: remove it there, then declare the stream"};
    case kStreamNotFound: return {Status::rejected, said + "; declare the stream first"};
    case kNotEnabled:
    case kNotEnabledForAccount:
      return {Status::rejected, said + "; run nats-server with --jetstream, and enable it for the account"};
    case kStreamSealed: return {Status::rejected, said};
    default: break;
  }
  // An answer with an error says that nothing was stored; its class says whether trying again can help.
  return {code >= 500 ? Status::retryable : Status::rejected, said};
}

Outcome outcome_of_reply(std::string_view body) {
  if (is_plain_ack(body)) return {Status::confirmed, {}};
  const auto json = nlohmann::json::parse(body.begin(), body.end(), nullptr, false);
  if (!json.is_object()) return {Status::unknown, "an answer that is no PubAck"};
  if (const auto error = json.find("error"); error != json.end() && error->is_object()) {
    const auto number = [&](const char* name) {
      const auto field = error->find(name);
      return field != error->end() && field->is_number_integer() ? field->get<int>() : 0;
    };
    const auto text = error->find("description");
    return outcome_of_refusal(number("code"), number("err_code"),
                              text != error->end() && text->is_string() ? text->get<std::string>() : "refused");
  }
  const auto stream = json.find("stream");
  const auto sequence = json.find("seq");
  if (stream == json.end() || !stream->is_string() || sequence == json.end() || !sequence->is_number_unsigned() ||
      sequence->get<std::uint64_t>() == 0) {
    return {Status::unknown, "an answer that is no PubAck"};
  }
  return {Status::confirmed, {}};  // "duplicate": true is as good: it was stored before
}

std::optional<Delivery> delivery_of(std::string_view reply_subject) {
  static constexpr std::string_view kPrefix = "$JS.ACK.";
  if (reply_subject.substr(0, kPrefix.size()) != kPrefix) return std::nullopt;
  std::vector<std::string_view> tokens;
  for (std::size_t begin = 0; begin <= reply_subject.size();) {
    const auto dot = std::min(reply_subject.find('.', begin), reply_subject.size());
    tokens.push_back(reply_subject.substr(begin, dot - begin));
    begin = dot + 1;
  }
  std::size_t stream = 0;
  if (tokens.size() == 9) {
    stream = 2;
  } else if (tokens.size() >= 11) {
    stream = 4;
  } else {
    return std::nullopt;
  }
  Delivery delivery;
  if (!read(tokens[stream + 2], delivery.deliveries) || !read(tokens[stream + 3], delivery.sequence)) return std::nullopt;
  return delivery;
}

}  // namespace penstock::beacon
