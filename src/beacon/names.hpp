// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <string_view>

// Names as NATS wants them. Every mapping is injective, so two names never meet.
namespace penstock::beacon {

/// Every byte outside [A-Za-z0-9_-] and `also` as two upper-case hex digits behind `escape`.
std::string escape(std::string_view text, char escape, std::string_view also = {});
void append_escaped(std::string& result, std::string_view text, char escape, std::string_view also = {});
/// Undoes `escape`; empty when the text is not one of its results.
std::optional<std::string> unescape(std::string_view text, char escape);

/// The channel's subject is its own name. Throws std::invalid_argument for what NATS cannot take as a literal subject.
const std::string& subject_of(const std::string& channel);
/// JetStream's names cannot hold a dot: "orders.dead" is the stream "orders=2Edead". Throws as `subject_of` does.
std::string stream_of(const std::string& channel);
/// The durable consumer of a group, in the same way. Throws std::invalid_argument for an empty or overlong name.
std::string durable_of(const std::string& group);
/// That of one partition: no group's own name, whatever it is.
std::string durable_of(const std::string& group, int partition);

/// Throws std::invalid_argument, with the rule it breaks, for what cannot be the subject of a stream, wildcards allowed.
void check_stream_subject(std::string_view subject);

/// Whether a stream's subject, which may hold wildcards, takes a literal one.
bool covers(std::string_view pattern, std::string_view subject);

/// `Nats-Msg-Id`: the event's identity, safe as a header, and short enough for the server to remember.
std::string message_id(const std::string& source, const std::string& id);

}  // namespace penstock::beacon
