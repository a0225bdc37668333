// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>
#include <utility>

#include "core/retry_policy.hpp"
#include "core/text.hpp"

namespace penstock {
namespace {

using nlohmann::ordered_json;

constexpr const char* a_duration = "give a whole number with one of the units ms, s, min, h and d, as \"30s\"";

[[noreturn]] void refuse(const std::string& field, const std::string& value, const std::string& remedy) {
  throw std::invalid_argument{"RetryPolicy: " + field + " is " + value + ": " + remedy};
}

std::string shown(const ordered_json& value) {
  return text::clean(value.dump(-1, ' ', false, ordered_json::error_handler_t::replace), 80);
}

std::string listed(std::initializer_list<const char*> names) {
  std::string all;
  for (const char* name : names) all += (all.empty() ? "" : ", ") + std::string{name};
  return all;
}

/// Of two members with one name a parser keeps one and says nothing; here it is an error.
ordered_json parsed(std::string_view text) {
  std::vector<std::set<std::string>> names;
  const auto once = [&names](int /*depth*/, ordered_json::parse_event_t event, ordered_json& value) {
    if (event == ordered_json::parse_event_t::object_start) {
      names.emplace_back();
    } else if (event == ordered_json::parse_event_t::object_end) {
      names.pop_back();
    } else if (event == ordered_json::parse_event_t::key && !names.back().insert(value.get<std::string>()).second) {
      refuse("the field " + shown(value), "given twice", "give it once");
    }
    return true;
  };
  try {
    return ordered_json::parse(text.begin(), text.end(), once);
  } catch (const ordered_json::exception& error) {
    throw std::invalid_argument{"RetryPolicy: the text " + text::shown(text) +
                                " is no JSON: " + text::clean(error.what(), 200) + "; give one object"};
  }
}

void only(const ordered_json& object, const std::string& path, std::initializer_list<const char*> known) {
  for (const auto& [name, value] : object.items()) {
    if (std::none_of(known.begin(), known.end(), [&name = name](const char* each) { return name == each; })) {
      refuse(path + text::clean(name, 80), shown(value), "there is no such field; known here: " + listed(known));
    }
  }
}

const ordered_json& object_at(const ordered_json& value, const std::string& field) {
  if (!value.is_object()) refuse(field, shown(value), "give an object, as {\"kind\": \"fixed\", \"delay\": \"5s\"}");
  return value;
}

std::string text_at(const ordered_json& value, const std::string& field, const std::string& remedy) {
  if (!value.is_string()) refuse(field, shown(value), remedy);
  return value.get<std::string>();
}

RetryPolicy::Duration duration_at(const ordered_json& value, const std::string& field) {
  const auto time = retry::from_text(text_at(value, field, a_duration));
  if (!time) refuse(field, shown(value), a_duration);
  return *time;
}

const ordered_json& required(const ordered_json& object, const std::string& path, const char* name, const char* remedy) {
  const auto found = object.find(name);
  if (found == object.end()) refuse(path + name, "missing", remedy);
  return *found;
}

double factor_at(const ordered_json& value, const std::string& field) {
  constexpr const char* remedy = "give a number of 1 or more";
  if (!value.is_number()) refuse(field, shown(value), remedy);
  const auto factor = value.get<double>();
  if (!(factor >= 1.0) || factor > std::numeric_limits<double>::max()) refuse(field, shown(value), remedy);
  return factor;
}

int attempts_at(const ordered_json& value, const std::string& field) {
  constexpr std::uint64_t most = std::numeric_limits<int>::max();
  // A number that was written with a minus or a point is not unsigned here.
  if (!value.is_number_unsigned() || value.get<std::uint64_t>() < 1 || value.get<std::uint64_t>() > most) {
    refuse(field, shown(value), "give a whole number from 1 to " + std::to_string(most) + "; the first try counts");
  }
  return static_cast<int>(value.get<std::uint64_t>());
}

Jitter jitter_at(const ordered_json& value, const std::string& field) {
  constexpr const char* remedy = "give none, full, equal or decorrelated";
  const std::string name = text_at(value, field, remedy);
  for (const Jitter jitter : {Jitter::none, Jitter::full, Jitter::equal, Jitter::decorrelated}) {
    if (name == retry::to_text(jitter)) return jitter;
  }
  refuse(field, shown(value), remedy);
}

}  // namespace

class RetryPolicy::Json {
 public:
  static ordered_json write(const RetryPolicy& policy) {
    ordered_json json = shape(policy);
    if (policy.cap_) json["cap"] = retry::to_text(*policy.cap_);
    json["attempts"] = policy.attempts_;
    if (policy.within_) json["within"] = retry::to_text(*policy.within_);
    json["jitter"] = retry::to_text(policy.jitter_);
    if (policy.rules_) json["on"] = rules(*policy.rules_);
    return json;
  }

  /// `path` is "" or "on[2].retry."
  static RetryPolicy read(const ordered_json& json, const std::string& path) {
    RetryPolicy policy = begun(json, path);
    if (const auto cap = json.find("cap"); cap != json.end()) policy.cap(duration_at(*cap, path + "cap"));
    if (const auto most = json.find("attempts"); most != json.end()) policy.attempts(attempts_at(*most, path + "attempts"));
    if (const auto total = json.find("within"); total != json.end()) policy.within(duration_at(*total, path + "within"));
    if (const auto jitter = json.find("jitter"); jitter != json.end()) policy.jitter(jitter_at(*jitter, path + "jitter"));
    if (const auto rules = json.find("on"); rules != json.end()) add_rules(policy, *rules);
    return policy;
  }

 private:
  static ordered_json shape(const RetryPolicy& policy) {
    switch (policy.kind_) {
      case Kind::immediate: return {{"kind", "immediate"}};
      case Kind::fixed: return {{"kind", "fixed"}, {"delay", retry::to_text(policy.delays_.front())}};
      case Kind::linear: return {{"kind", "linear"}, {"delay", retry::to_text(policy.delays_.front())}};
      case Kind::exponential:
        return {{"kind", "exponential"}, {"delay", retry::to_text(policy.delays_.front())}, {"factor", policy.factor_}};
      case Kind::schedule: break;
    }
    ordered_json delays = ordered_json::array();
    for (const Duration delay : policy.delays_) delays.push_back(retry::to_text(delay));
    return {{"kind", "schedule"}, {"delays", std::move(delays)}};
  }

  static ordered_json rules(const std::vector<Rule>& rules) {
    ordered_json json = ordered_json::array();
    for (const Rule& rule : rules) {
      if (rule.matches) {
        throw std::logic_error{"RetryPolicy: the rule '" + rule.name +
                               "' is a function and cannot be written as JSON; name a class with on() and Verdict::as()"};
      }
      json.push_back({{"error", rule.name}, {"retry", write(rule.policy)}});
    }
    return json;
  }

  /// Only what its kind can have is taken; a rule has no rules.
  static void check_fields(const ordered_json& json, const std::string& path, const std::string& kind) {
    const char* on = path.empty() ? "on" : "kind";
    if (kind == "none") {
      only(json, path, {"kind", on});
    } else if (kind == "immediate") {
      only(json, path, {"kind", "attempts", "cap", "within", "jitter", on});
    } else if (kind == "exponential") {
      only(json, path, {"kind", "delay", "factor", "cap", "attempts", "within", "jitter", on});
    } else if (kind == "schedule") {
      only(json, path, {"kind", "delays", "cap", "attempts", "within", "jitter", on});
    } else {
      only(json, path, {"kind", "delay", "cap", "attempts", "within", "jitter", on});
    }
  }

  static RetryPolicy begun(const ordered_json& json, const std::string& path) {
    constexpr const char* kinds = "give none, immediate, fixed, linear, exponential or schedule";
    const ordered_json& named = required(json, path, "kind", kinds);
    const std::string kind = text_at(named, path + "kind", kinds);
    constexpr std::array known{"none", "immediate", "fixed", "linear", "exponential", "schedule"};
    if (std::find(known.begin(), known.end(), kind) == known.end()) refuse(path + "kind", shown(named), kinds);
    check_fields(json, path, kind);
    if (kind == "none") return none();
    if (kind == "immediate") return immediate();
    if (kind == "schedule") return schedule(delays_at(required(json, path, "delays", "give a list of times"), path + "delays"));
    const Duration delay = duration_at(required(json, path, "delay", a_duration), path + "delay");
    if (kind == "fixed") return fixed(delay);
    if (kind == "linear") return linear(delay);
    const auto factor = json.find("factor");
    return factor == json.end() ? exponential(delay) : exponential(delay, factor_at(*factor, path + "factor"));
  }

  static std::vector<Duration> delays_at(const ordered_json& json, const std::string& field) {
    if (!json.is_array()) refuse(field, shown(json), "give a list of times, as [\"5s\", \"1min\"]");
    std::vector<Duration> delays;
    for (std::size_t i = 0; i < json.size(); ++i) {
      delays.push_back(duration_at(json[i], field + "[" + std::to_string(i) + "]"));
    }
    return delays;
  }

  static void add_rules(RetryPolicy& policy, const ordered_json& json) {
    if (!json.is_array()) refuse("on", shown(json), "give a list of {\"error\": …, \"retry\": …}");
    for (std::size_t i = 0; i < json.size(); ++i) {
      const std::string path = "on[" + std::to_string(i) + "]";
      const ordered_json& rule = object_at(json[i], path);
      const std::string inside = path + ".";
      only(rule, inside, {"error", "retry"});
      constexpr const char* remedy = "give the name of a class of errors";
      const ordered_json& named = required(rule, inside, "error", remedy);
      std::string name = text_at(named, inside + "error", remedy);
      if (name.empty()) refuse(inside + "error", "\"\"", remedy);
      const ordered_json& other = required(rule, inside, "retry", "give a policy, as {\"kind\": \"none\"}");
      policy.on(std::move(name), read(object_at(other, inside + "retry"), inside + "retry."));
    }
  }
};

std::string RetryPolicy::to_json() const {
  // A class's name need not be UTF-8; what is not becomes U+FFFD, as no JSON can hold it.
  return Json::write(*this).dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

RetryPolicy RetryPolicy::from_json(std::string_view json) {
  const ordered_json value = parsed(json);
  return Json::read(object_at(value, "the policy"), "");
}

}  // namespace penstock
