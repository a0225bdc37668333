// SPDX-License-Identifier: Apache-2.0
#include "lane/routing_key.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include "lane/topology.hpp"

namespace penstock::lane {
namespace {

constexpr std::array<std::pair<std::string_view, std::string Event::*>, 4> fields{
    {{"type", &Event::type}, {"source", &Event::source}, {"subject", &Event::subject}, {"key", &Event::key}}};

}  // namespace

RoutingKey::RoutingKey(std::string_view pattern) {
  const auto refuse = [pattern](const std::string& why) {
    throw std::invalid_argument{"routing key '" + std::string{pattern.substr(0, 80)} + "' " + why};
  };
  std::string fixed;
  std::string_view rest = pattern;
  while (true) {
    const std::size_t brace = std::min(rest.find_first_of("{}"), rest.size());
    Part part{.text = std::string{rest.substr(0, brace)}};
    fixed += part.text;
    if (brace == rest.size()) {
      if (!part.text.empty() || parts_.empty()) parts_.push_back(std::move(part));
      break;
    }
    const std::size_t end = rest.find('}', brace);
    const std::string_view name =
        end == std::string_view::npos || rest[brace] == '}' ? std::string_view{} : rest.substr(brace + 1, end - brace - 1);
    const auto* const field = std::find_if(fields.begin(), fields.end(), [&](const auto& item) { return item.first == name; });
    if (field == fields.end()) refuse("has a brace that stands for nothing; give {type}, {source}, {subject} or {key}");
    part.field = field->second;
    parts_.push_back(std::move(part));
    rest.remove_prefix(end + 1);
  }
  check_routing_key(fixed);
}

RoutingKey RoutingKey::fixed(std::string text) {
  RoutingKey key;
  key.parts_.push_back({.text = std::move(text)});
  return key;
}

std::string_view RoutingKey::of(const Event& event, std::string& room) const {
  if (parts_.size() == 1) {
    const Part& only = parts_.front();
    if (only.field == nullptr) return only.text;
    if (only.text.empty()) return event.*only.field;
  }
  room.clear();
  for (const Part& part : parts_) {
    room += part.text;
    if (part.field != nullptr) room += event.*part.field;
  }
  return room;
}

}  // namespace penstock::lane
