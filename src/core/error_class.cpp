// SPDX-License-Identifier: Apache-2.0
#include "core/error_class.hpp"

#include <cxxabi.h>

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <memory>

namespace penstock::error_class {

std::string name_of(const std::type_info& type) {
  int status = 0;
  const std::unique_ptr<char, decltype(&std::free)> name{abi::__cxa_demangle(type.name(), nullptr, nullptr, &status),
                                                         &std::free};
  return status == 0 && name ? std::string{name.get()} : std::string{type.name()};
}

std::vector<std::string> lineage(const std::type_info& type) {
  std::vector<const std::type_info*> types{&type};
#if defined(__GLIBCXX__)
  // The Itanium ABI tells the bases of a class; libstdc++ declares how.
  for (std::size_t i = 0; i < types.size(); ++i) {
    if (const auto* one = dynamic_cast<const abi::__si_class_type_info*>(types[i])) {
      types.push_back(one->__base_type);
    } else if (const auto* many = dynamic_cast<const abi::__vmi_class_type_info*>(types[i])) {
      for (unsigned int base = 0; base < many->__base_count; ++base) {
        types.push_back(many->__base_info[base].__base_type);
      }
    }
  }
#endif
  std::vector<std::string> names;
  for (const std::type_info* each : types) {
    if (std::string name = name_of(*each); std::find(names.begin(), names.end(), name) == names.end()) {
      names.push_back(std::move(name));
    }
  }
  return names;
}

std::vector<std::string> of_current_exception() {
  const std::type_info* type = abi::__cxa_current_exception_type();
  return type == nullptr ? std::vector<std::string>{} : lineage(*type);
}

}  // namespace penstock::error_class
