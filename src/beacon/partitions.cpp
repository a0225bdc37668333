// SPDX-License-Identifier: Apache-2.0
#include "beacon/partitions.hpp"

#include <algorithm>
#include <cstddef>
#include <stdexcept>

#include "beacon/names.hpp"

namespace penstock::beacon {
namespace {

/// Each is a consumer of every group, with a request a second while it is idle.
constexpr int kMostPartitions = 256;

std::string counted(int partitions) {
  if (partitions == 0) return "no partitions";
  return std::to_string(partitions) + (partitions == 1 ? " partition" : " partitions");
}

}  // namespace

void check_partitions(int partitions, const std::string& name) {
  if (partitions < 0 || partitions > kMostPartitions) {
    throw std::invalid_argument{"Beacon: partitions of \"" + name + "\" is " + std::to_string(partitions) + "; give 1 to " +
                                std::to_string(kMostPartitions) + ", or 0 for a stream without"};
  }
  if (partitions > 0) static_cast<void>(subject_of(name + '.' + std::to_string(partitions - 1)));
}

std::uint32_t partition_of(std::string_view key, int partitions) {
  std::uint32_t hash = 2'166'136'261U;
  for (const char c : key) hash = (hash ^ static_cast<std::uint8_t>(c)) * 16'777'619U;
  return hash % static_cast<std::uint32_t>(partitions);
}

std::uint32_t partition_of(const Event& event, int partitions) {
  return partition_of(event.key.empty() ? event.id : event.key, partitions);
}

std::vector<std::string> subjects_of(const std::string& name, int partitions) {
  check_partitions(partitions, name);
  if (partitions == 0) return {subject_of(name)};
  std::vector<std::string> subjects;
  subjects.reserve(static_cast<std::size_t>(partitions));
  for (int i = 0; i < partitions; ++i) subjects.push_back(name + '.' + std::to_string(i));
  return subjects;
}

int partitions_in(const std::string& name, const std::vector<std::string>& subjects) {
  const int count = static_cast<int>(std::min<std::size_t>(subjects.size(), kMostPartitions));
  const auto expected = subjects_of(name, count);
  return std::is_permutation(subjects.begin(), subjects.end(), expected.begin(), expected.end()) ? count : 0;
}

std::string disagreement(const std::string& name, const std::vector<std::string>& subjects, const char* who, int partitions) {
  const int there = partitions_in(name, subjects);
  std::string text = "the stream of \"" + name + "\" has " + counted(there);
  if (there == 0) {
    text += " (its subjects are";
    for (const auto& subject : subjects) text += (&subject == subjects.data() ? " " : ", ") + subject;
    text += ')';
  }
  return text + ", and the " + who + " counts " + counted(partitions) + ": give both the same number";
}

}  // namespace penstock::beacon
