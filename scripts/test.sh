#!/usr/bin/env bash
# Installs, builds and runs every test with CTest. What .ci/run calls.
#
# usage: scripts/test.sh [CTEST_ARGUMENT...]
#   CI=true   warnings are errors
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

[[ ${1:-} == -h || ${1:-} == --help ]] && sed -n '2,/^source/{/^#/s/^# \{0,1\}//p}' "$0" && exit 0

werror=OFF
[[ ${CI:-} == true ]] && werror=ON
scripts/setup.sh
scripts/make_default_model.sh
scripts/build.sh release -DRILLKV_WERROR=$werror -DRILLKV_BUILD_BENCHMARKS=ON

say "testing"
log="$RILLKV_ROOT/build/release-ctest.log"
status=0
show ctest --preset release -j "$(nproc)" "$@" 2>&1 | tee "$log" || status=$?
# The last line is the result.
grep -E '^[0-9]+% tests passed' "$log" | tail -n 1 || fail "CTest ran no test"
exit "$status"
