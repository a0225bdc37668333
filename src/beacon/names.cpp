// SPDX-License-Identifier: Apache-2.0
#include "beacon/names.hpp"

#include <cstddef>
#include <cstdint>
#include <stdexcept>

#include "penstock/uuid.hpp"

namespace penstock::beacon {
namespace {

// nats-server refuses names above 255 bytes.
constexpr std::size_t kLongestName = 255;
constexpr std::size_t kLongestMessageId = 200;

bool plain(char c) {
  return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
}

int digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

}  // namespace

void append_escaped(std::string& result, std::string_view text, char escape, std::string_view also) {
  static constexpr char kDigits[] = "0123456789ABCDEF";
  for (const char c : text) {
    if (plain(c) || also.find(c) != std::string_view::npos) {
      result += c;
    } else {
      const auto byte = static_cast<std::uint8_t>(c);
      result += escape;
      result += kDigits[byte >> 4U];
      result += kDigits[byte & 15U];
    }
  }
}

std::string escape(std::string_view text, char escape, std::string_view also) {
  std::string result;
  result.reserve(text.size());
  append_escaped(result, text, escape, also);
  return result;
}

std::optional<std::string> unescape(std::string_view text, char escape) {
  std::string result;
  result.reserve(text.size());
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != escape) {
      result += text[i];
      continue;
    }
    if (i + 2 >= text.size() || digit(text[i + 1]) < 0 || digit(text[i + 2]) < 0) return std::nullopt;
    result += static_cast<char>(digit(text[i + 1]) * 16 + digit(text[i + 2]));
    i += 2;
  }
  return result;
}

const std::string& subject_of(const std::string& channel) {
  bool good = !channel.empty() && channel.front() != '.' && channel.back() != '.' && channel.find("..") == std::string::npos;
  for (const char c : channel) good = good && (plain(c) || c == '.');
  if (!good || escape(channel, '=').size() > kLongestName) {
    throw std::invalid_argument{
        "Beacon: \"" + channel +
        "\" is no name for a stream: use letters, digits, '_', '-' and single dots between them, at most 255"};
  }
  return channel;
}

std::string stream_of(const std::string& channel) { return escape(subject_of(channel), '='); }

std::string durable_of(const std::string& group) {
  std::string name = escape(group, '=');
  if (name.empty() || name.size() > kLongestName) {
    throw std::invalid_argument{"Beacon: the group \"" + group +
                                "\" must have 1 to 255 characters, each other than [A-Za-z0-9_-] counting as three"};
  }
  return name;
}

std::string durable_of(const std::string& group, int partition) {
  std::string name = durable_of(group) + "=p" + std::to_string(partition);  // "=p" is no escape
  if (name.size() > kLongestName) {
    throw std::invalid_argument{"Beacon: the group \"" + group + "\" is too long for consumers of partitions; with \"=p" +
                                std::to_string(partition) + "\" behind it, it must be at most 255"};
  }
  return name;
}

void check_stream_subject(std::string_view subject) {
  const auto refuse = [&](const std::string& why) {
    throw std::invalid_argument{"Beacon: the subject \"" + std::string{subject} + "\" of a stream " + why};
  };
  if (subject.empty() || subject.size() > kLongestName) refuse("must have 1 to 255 bytes");
  for (std::string_view rest = subject;;) {
    const auto dot = rest.find('.');
    const auto part = rest.substr(0, dot);
    if (part.empty()) refuse("has nothing between two dots, or at an end");
    for (const char c : part) {
      if (static_cast<unsigned char>(c) <= ' ' || c == '\x7f') refuse("has a space or control character");
    }
    if (part.size() > 1 && part.find_first_of("*>") != std::string_view::npos)
      refuse("has a wildcard that is not alone between dots");
    if (part == ">" && dot != std::string_view::npos) refuse("has '>' before its end");
    if (dot == std::string_view::npos) return;
    rest.remove_prefix(dot + 1);
  }
}

bool covers(std::string_view pattern, std::string_view subject) {
  while (true) {
    const auto pattern_dot = pattern.find('.');
    const auto subject_dot = subject.find('.');
    const auto token = pattern.substr(0, pattern_dot);
    if (token == ">") return !subject.empty();
    if (token != "*" && token != subject.substr(0, subject_dot)) return false;
    if (pattern_dot == std::string_view::npos || subject_dot == std::string_view::npos) return pattern_dot == subject_dot;
    pattern.remove_prefix(pattern_dot + 1);
    subject.remove_prefix(subject_dot + 1);
  }
}

std::string message_id(const std::string& source, const std::string& id) {
  // ':' is in neither part once they are escaped, so different pairs stay different.
  std::string result;
  result.reserve(id.size() + source.size() + 1);
  append_escaped(result, id, '%', ".~");
  result += ':';
  append_escaped(result, source, '%', ".~/");
  if (result.size() > kLongestMessageId) result = derived_id("penstock beacon", source, id, 0);
  return result;
}

}  // namespace penstock::beacon
