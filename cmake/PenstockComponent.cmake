# SPDX-License-Identifier: Apache-2.0
include(CMakePackageConfigHelpers)
include(GNUInstallDirs)
find_package(Threads REQUIRED)

# penstock_add_component(<name>
#   HEADERS <public headers, below include/>
#   [COMPONENTS <components it builds on>]      linked PUBLIC
#   [PKG_PUBLIC <pkg-config modules>]           users compile against them too
#   [PKG_PRIVATE <pkg-config modules>]          an implementation detail
#   [HEADER_ONLY <targets>])                    used while building only, never needed by users
#
# Sources are the .cpp files of the calling folder. Target penstock_<name>, alias penstock::<name>, library libpenstock-<name>.
function(penstock_add_component name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "HEADERS;COMPONENTS;PKG_PUBLIC;PKG_PRIVATE;HEADER_ONLY")
  file(GLOB sources CONFIGURE_DEPENDS "*.cpp")
  if(NOT sources)
    message(STATUS "penstock::${name} has no sources yet")
    return()
  endif()
  set(target penstock_${name})
  add_library(${target} ${sources})
  add_library(penstock::${name} ALIAS ${target})
  list(TRANSFORM arg_HEADERS PREPEND "${PROJECT_SOURCE_DIR}/include/")
  target_sources(${target} PUBLIC FILE_SET HEADERS BASE_DIRS "${PROJECT_SOURCE_DIR}/include" FILES ${arg_HEADERS})
  target_compile_features(${target} PUBLIC cxx_std_20)
  target_include_directories(${target} PRIVATE "${PROJECT_SOURCE_DIR}/src")
  set_target_properties(${target} PROPERTIES
    EXPORT_NAME ${name}
    OUTPUT_NAME penstock-${name}
    VERSION ${PROJECT_VERSION}
    SOVERSION ${PROJECT_VERSION_MAJOR}
    CXX_EXTENSIONS OFF
    CXX_VISIBILITY_PRESET hidden
    VISIBILITY_INLINES_HIDDEN ON
    POSITION_INDEPENDENT_CODE ON
    INSTALL_RPATH "$ORIGIN" # finds core beside itself, also under a prefix that the loader does not know
    VERIFY_INTERFACE_HEADER_SETS ON)

  set(requires "")
  foreach(component IN LISTS arg_COMPONENTS)
    target_link_libraries(${target} PUBLIC penstock::${component})
    list(APPEND requires penstock-${component})
  endforeach()
  foreach(scope IN ITEMS PUBLIC PRIVATE)
    foreach(module IN LISTS arg_PKG_${scope})
      find_package(PkgConfig REQUIRED)
      pkg_check_modules(${module} REQUIRED IMPORTED_TARGET GLOBAL ${module})
      target_link_libraries(${target} ${scope} PkgConfig::${module})
    endforeach()
  endforeach()
  foreach(header_only IN LISTS arg_HEADER_ONLY)
    target_link_libraries(${target} PRIVATE $<BUILD_INTERFACE:${header_only}>)
  endforeach()

  if(PENSTOCK_INSTALL)
    install(TARGETS ${target} EXPORT penstock-${name}-targets FILE_SET HEADERS)
    install(EXPORT penstock-${name}-targets NAMESPACE penstock:: DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/penstock)
    set(PC_NAME penstock-${name})
    set(PC_REQUIRES ${requires} ${arg_PKG_PUBLIC})
    list(JOIN PC_REQUIRES " " PC_REQUIRES)
    list(JOIN arg_PKG_PRIVATE " " PC_REQUIRES_PRIVATE)
    configure_file("${PROJECT_SOURCE_DIR}/cmake/penstock.pc.in" "${PROJECT_BINARY_DIR}/penstock-${name}.pc" @ONLY)
    install(FILES "${PROJECT_BINARY_DIR}/penstock-${name}.pc" DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
  endif()
  set_property(GLOBAL APPEND PROPERTY PENSTOCK_COMPONENTS ${name})
  set_property(GLOBAL PROPERTY PENSTOCK_${name}_NEEDS "${arg_COMPONENTS}")
  set_property(GLOBAL PROPERTY PENSTOCK_${name}_PKG "${arg_PKG_PUBLIC};${arg_PKG_PRIVATE}")
endfunction()
