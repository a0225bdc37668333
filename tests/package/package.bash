#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Steps of the package tests, run by ctest, which sets SOURCE, BUILD, CMAKE, GENERATOR, CC, CXX, LAUNCHER and COMPONENTS:
#   install static|shared            builds and installs penstock into $BUILD/<kind>/prefix
#   project NAME static|shared       builds and runs tests/package/NAME against it, and looks at what it links
#   page static|shared               the same with what docs/getting-started.md says, for CMake and for pkg-config
#   pkg_config static|shared         the same without CMake
#   refusal                          what find_package says to a wrong wish
#   subdirectory                     penstock inside another project
set -euo pipefail
: "${SOURCE:?}" "${BUILD:?}" "${CMAKE:?}" "${GENERATOR:?}" "${CC:?}" "${CXX:?}" "${COMPONENTS:?}"
here=$SOURCE/tests/package
read -ra all <<<"$COMPONENTS"
flags='-O1 -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror'

die() { printf 'package: %s\n' "$*" >&2; exit 1; }
has() { [[ " $COMPONENTS " == *" $1 "* ]]; }
# The library that each component stands for, as ldd names it.
declare -A library=([postgres]=libpqxx [conduit]=librdkafka [lane]=librabbitmq [beacon]=libnats)

configure() { # SOURCE BUILD ARGUMENT…
  local from=$1 to=$2; shift 2
  "$CMAKE" -S "$from" -B "$to" -G "$GENERATOR" -DCMAKE_BUILD_TYPE=Release -DCMAKE_C_COMPILER="$CC" -DCMAKE_CXX_COMPILER="$CXX" \
    ${LAUNCHER:+"-DCMAKE_C_COMPILER_LAUNCHER=$LAUNCHER" "-DCMAKE_CXX_COMPILER_LAUNCHER=$LAUNCHER"} "$@"
}
build() { "$CMAKE" --build "$1" --parallel 2; }
shared() { [[ $1 == shared ]] && echo ON || echo OFF; }
chosen() { # the switches for these components and no others
  local component
  for component in postgres conduit lane beacon; do
    [[ " $* " == *" $component "* ]] && echo "-DPENSTOCK_WITH_${component^^}=ON" || echo "-DPENSTOCK_WITH_${component^^}=OFF"
  done
}

# links PROGRAM COMPONENT…: the program needs the libraries of these components and core's, and of no other, neither theirs nor
# ours, neither itself nor through another.
links() {
  local program=$1 component listed; shift
  listed=$(readelf -d "$program" | grep NEEDED; ldd "$program")
  for component in "${all[@]}"; do
    [[ " core $* " == *" $component "* || $listed != *"libpenstock-$component.so"* ]] ||
      die "$program must not link libpenstock-$component.so: $listed"
  done
  listed=$(ldd "$program")
  [[ $listed != *'not found'* ]] || die "$program lacks a library: $listed"
  for component in "${!library[@]}"; do
    if [[ " $* " == *" $component "* ]]; then
      [[ $listed == *"${library[$component]}"* ]] || die "$program should link ${library[$component]}: $listed"
    else
      [[ $listed != *"${library[$component]}"* ]] || die "$program must not link ${library[$component]}: $listed"
    fi
  done
}
# needed LIBRARY COMPONENT…: the same of a shared library's own list, where each component adds its own and nothing else.
needed() {
  local file=$1 component listed; shift
  listed=$(readelf -d "$file" | grep NEEDED)
  for component in "${!library[@]}"; do
    if [[ " $* " == *" $component "* ]]; then
      [[ $listed == *"[${library[$component]}"* ]] || die "$file should need ${library[$component]}: $listed"
    else
      [[ $listed != *"[${library[$component]}"* ]] || die "$file must not need ${library[$component]}: $listed"
    fi
  done
}

install() {
  local kind=$1 dir=$BUILD/$1 component file
  rm -rf "$dir/prefix"
  mapfile -t switches < <(chosen "${all[@]}")
  configure "$SOURCE" "$dir/build" "${switches[@]}" -DBUILD_SHARED_LIBS="$(shared "$kind")" -DCMAKE_INSTALL_LIBDIR=lib \
    -DCMAKE_CXX_FLAGS_RELEASE=-O0 -DPENSTOCK_BUILD_TESTS=OFF -DPENSTOCK_BUILD_EXAMPLES=OFF -DCMAKE_INSTALL_PREFIX="$dir/prefix"
  build "$dir/build"
  "$CMAKE" --install "$dir/build"
  # No header of a client library, and none of ours that would need one in the include path.
  ! grep -rnE '#include *[<"](nats|librdkafka|amqp|rabbitmq-c|pqxx|libpq|nlohmann|spdlog)' "$dir/prefix/include" ||
    die 'an installed header includes a client library'
  if [[ $kind == shared ]]; then
    for component in "${all[@]}"; do
      file=$dir/prefix/lib/libpenstock-$component.so
      [[ -e $file ]] || die "$file was not installed"
      needed "$file" "$component"
    done
  else
    for component in "${all[@]}"; do
      [[ -e $dir/prefix/lib/libpenstock-$component.a ]] || die "libpenstock-$component.a was not installed"
    done
  fi
}

project() {
  local name=$1 kind=$2 dir=$BUILD/$2/$1
  rm -rf "$dir"
  configure "$here/$name" "$dir" -DCMAKE_PREFIX_PATH="$BUILD/$kind/prefix" -DCMAKE_CXX_FLAGS_RELEASE="$flags" \
    -DCMAKE_FIND_USE_PACKAGE_REGISTRY=OFF
  build "$dir"
  "$dir/user"
  case $name in
    core) links "$dir/user" testing ;;
    beacon) links "$dir/user" beacon testing ;;
    beacon_only) links "$dir/user" beacon ;;
    everything) links "$dir/user" "${all[@]}" ;;
  esac
}

page() {
  local kind=$1 dir=$BUILD/$1/page page=$SOURCE/docs/getting-started.md block words
  rm -rf "$dir"
  mkdir -p "$dir"
  block=$(sed -n '/^```cmake$/,/^```$/p' "$page" | grep -v '^```')
  printf '%s\n' 'cmake_minimum_required(VERSION 3.25)' 'project(my_service LANGUAGES C CXX)' 'add_executable(my_service main.cpp)' "$block" \
    >"$dir/CMakeLists.txt"
  printf '%s\n' '#include <penstock/lane.hpp>' '#include <penstock/outbox.hpp>' '#include <stdexcept>' 'int main() {' \
    '  penstock::Outbox{"", {.source = "/s"}}.signal();' \
    '  try { penstock::Lane{{.url = ""}}; } catch (const std::invalid_argument&) { return 0; }' '  return 1;' '}' >"$dir/main.cpp"
  configure "$dir" "$dir/build" -DCMAKE_PREFIX_PATH="$BUILD/$kind/prefix" -DCMAKE_CXX_FLAGS_RELEASE="$flags"
  build "$dir/build"
  "$dir/build/my_service"
  links "$dir/build/my_service" postgres lane
  words=$(grep -o '`pkg-config [^`]*`' "$page" | tr -d '`')
  PKG_CONFIG_PATH=$BUILD/$kind/prefix/lib/pkgconfig bash -c "$words" >/dev/null || die "the page's '$words' fails"
}

pkg_config() {
  local kind=$1 dir=$BUILD/$1/pkg_config prefix=$BUILD/$1/prefix modules=(penstock-core penstock-testing) static=() source=core
  rm -rf "$dir"
  mkdir -p "$dir"
  if has beacon; then modules+=(penstock-beacon) source=beacon; fi
  [[ $kind == shared ]] || static=(--static)
  export PKG_CONFIG_PATH=$prefix/lib/pkgconfig${PKG_CONFIG_PATH:+:$PKG_CONFIG_PATH}
  pkg-config --validate "${modules[@]}"
  local cflags libs component
  for component in "${all[@]}"; do
    pkg-config --exists --print-errors "penstock-$component" || die "pkg-config does not know penstock-$component"
    libs=$(pkg-config "${static[@]}" --libs "penstock-$component")
    [[ " $libs " == *" -lpenstock-$component "* ]] || die "penstock-$component: --libs says '$libs'"
    # Statically it names what the client libraries need in turn, whose packages need not be here.
    [[ $kind == shared ]] || continue
    # shellcheck disable=SC2086
    "$CXX" -x c++ - -x none -o "$dir/linked" -Wl,--no-as-needed $libs -Wl,-rpath-link,"$prefix/lib" <<<'int main() {}' ||
      die "nothing can be linked with what pkg-config says of penstock-$component: $libs"
  done
  cflags=$(pkg-config --cflags "${modules[@]}")
  libs=$(pkg-config "${static[@]}" --libs "${modules[@]}")
  # Word splitting is what pkg-config's output is for.
  # shellcheck disable=SC2086
  ${LAUNCHER:-} "$CXX" -std=c++20 $flags $cflags -c "$here/$source/main.cpp" -o "$dir/user.o"
  # shellcheck disable=SC2086
  "$CXX" "$dir/user.o" -o "$dir/user" $libs -Wl,-rpath,"$prefix/lib" -Wl,-rpath-link,"$prefix/lib"
  "$dir/user"
  # shellcheck disable=SC2046
  links "$dir/user" testing $(has beacon && echo beacon)
}

refuses() { # EXPECTED ARGUMENT…
  local expected=$1 dir=$BUILD/refusal said; shift
  rm -rf "$dir"
  if said=$(configure "$here/refusal" "$dir" -DCMAKE_PREFIX_PATH="$BUILD/static/prefix" "$@" 2>&1); then
    die "find_package accepted $*"
  fi
  said=$(tr -s ' \n' ' ' <<<"$said")
  [[ $said == *"$expected"* ]] || die "find_package does not say '$expected' but: $said"
}
refusal() {
  refuses "penstock has no component 'nonsense' here; this installation has: core" -DWISH='REQUIRED;COMPONENTS;core;nonsense'
  refuses 'requested version "99' -DVERSION=99 -DWISH='REQUIRED;COMPONENTS;core'
  rm -rf "$BUILD/refusal"
  configure "$here/refusal" "$BUILD/refusal" -DCMAKE_PREFIX_PATH="$BUILD/static/prefix" \
    -DWISH='REQUIRED;COMPONENTS;core;OPTIONAL_COMPONENTS;nonsense' || die 'an optional component that is missing is an error'
}

subdirectory() {
  local dir=$BUILD/subdirectory
  rm -rf "$dir/install"
  mapfile -t switches < <(chosen "$(has beacon && echo beacon)")
  configure "$here/subdirectory" "$dir" "${switches[@]}" -DPENSTOCK_SOURCE="$SOURCE" -DCMAKE_CXX_FLAGS_RELEASE=-O0
  build "$dir"
  "$dir/user"
  # shellcheck disable=SC2046
  links "$dir/user" $(has beacon && echo beacon)
  "$CMAKE" --install "$dir" --prefix "$dir/install"
  [[ ! -e $dir/install/include/penstock ]] || die 'penstock installs itself with the project around it'
}

"$@"
