# SPDX-License-Identifier: Apache-2.0
# The package config: one targets file per component, and only the dependencies of the components asked for.
get_property(PENSTOCK_COMPONENTS GLOBAL PROPERTY PENSTOCK_COMPONENTS)
set(PENSTOCK_COMPONENT_TABLE "")
foreach(component IN LISTS PENSTOCK_COMPONENTS)
  get_property(needs GLOBAL PROPERTY PENSTOCK_${component}_NEEDS)
  get_property(pkg GLOBAL PROPERTY PENSTOCK_${component}_PKG)
  list(REMOVE_ITEM pkg "")
  string(APPEND PENSTOCK_COMPONENT_TABLE
    "set(_penstock_${component}_needs \"${needs}\")\nset(_penstock_${component}_pkg \"${pkg}\")\n")
endforeach()
configure_package_config_file(
  "${PROJECT_SOURCE_DIR}/cmake/penstock-config.cmake.in" "${PROJECT_BINARY_DIR}/penstock-config.cmake"
  INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/penstock)
write_basic_package_version_file("${PROJECT_BINARY_DIR}/penstock-config-version.cmake" COMPATIBILITY SameMinorVersion)
install(FILES "${PROJECT_BINARY_DIR}/penstock-config.cmake" "${PROJECT_BINARY_DIR}/penstock-config-version.cmake"
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/penstock)
