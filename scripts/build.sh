#!/usr/bin/env bash
# Configures and builds one preset into build/PRESET; programs land in build/PRESET/bin.
#
# usage: scripts/build.sh [release|debug|asan] [--target TARGET] [CMAKE_OPTION...]
#   --target TARGET   only this, rillkv_programs for instance; default: everything
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

preset=release
if [[ ${1:-} == -h || ${1:-} == --help ]]; then
  sed -n '2,/^source/{/^#/s/^# \{0,1\}//p}' "$0" && exit 0
elif [[ $# -gt 0 && $1 != -* ]]; then
  preset=$1
  shift
fi
[[ $preset =~ ^(release|debug|asan)$ ]] || fail "unknown preset $preset (release, debug, asan)"

target=all
if [[ ${1:-} == --target ]]; then
  [[ -n ${2:-} ]] || fail "--target: expected a target's name"
  target=$2
  shift 2
fi

say "building preset $preset"
log="$RILLKV_ROOT/build/$preset-configure.log"
mkdir -p build
show cmake --preset "$preset" "$@" >"$log" || {
  tail -n 20 "$log" >&2
  fail "CMake failed; its output is in $log"
}
grep -E '^-- RillKV' "$log" || true
show cmake --build --preset "$preset" -j "$(compile_jobs)" --target "$target" || fail "the build of preset $preset failed"
