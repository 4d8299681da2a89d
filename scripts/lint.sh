#!/usr/bin/env bash
# Runs clang-tidy (checks: .clang-tidy) over sources of a configured build, without precompiled headers,
# so that a file which includes too little shows. Headers are looked at with the sources that include them.
#
# usage: scripts/lint.sh [-p BUILD] [--fix] --all | --changed [BASE] | --gate [BASE] | FILE...
#   -p BUILD    the build folder, configured; default: build/release
#   --fix       lets clang-tidy mend what it can
#   --all       every source: minutes
#   --changed   those that differ from BASE; default: where this branch left origin/main or main
#   --gate      what the tests run: kernels/cpu, and of the changed sources 32 at most
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

build=build/release
mode=files
base=
fix=()
files=()
while (($#)); do
  case $1 in
    -h | --help) sed -n '2,/^source/{/^#/s/^# \{0,1\}//p}' "$0" && exit 0 ;;
    -p) build=${2:-} && shift ;;
    --fix) fix=(--fix) ;;
    --all | --changed | --gate) mode=${1#--} ;;
    -*) fail "unknown argument $1 (--help lists them)" ;;
    *) if [[ $mode == files ]]; then files+=("$1"); else base=$1; fi ;;
  esac
  shift
done
tidy="$RILLKV_ROOT/.venv-tools/bin/clang-tidy"
[[ -x $tidy ]] || fail "no $tidy: scripts/setup.sh installs it"
[[ -f $build/compile_commands.json ]] || fail "no $build/compile_commands.json: scripts/build.sh first"

# What GCC alone understands goes, and so does the precompiled header.
mkdir -p "$build/lint"
sed -E 's# -include [^ ]*cmake_pch\.hxx##; s# -(fopenmp|fpch-preprocess|Winvalid-pch|Werror)\b##g' \
  "$build/compile_commands.json" >"$build/lint/compile_commands.json"
compiled=$(sed -nE 's#^ *"file": "'"$RILLKV_ROOT"'/(.*)",?$#\1#p' "$build/lint/compile_commands.json" |
  { grep -v '^build/' || true; } | sort -u)

# Sources that differ from where the branch began, committed or not; from HEAD~1 on the branch itself.
changed() {
  local start=$base
  if [[ -z $start ]]; then
    for start in origin/main main HEAD~1; do
      git rev-parse -q --verify "$start^{commit}" >/dev/null 2>&1 || continue
      [[ $(git rev-parse "$start") != $(git rev-parse HEAD) ]] && break
    done
  fi
  start=$(git merge-base "$start" HEAD 2>/dev/null) || {
    say "no commit to compare with: nothing counts as changed" >&2
    return
  }
  { git diff --name-only --diff-filter=d "$start" && git ls-files -o --exclude-standard; } | sort -u
}

case $mode in
  all) selected=$compiled ;;
  changed) selected=$(comm -12 <(changed) <(echo "$compiled")) ;;
  gate)
    kernels=$(grep '^kernels/cpu/' <<<"$compiled")
    others=$(comm -12 <(changed) <(echo "$compiled") | grep -v '^kernels/cpu/' || true)
    others=$(grep '^src/' <<<"$others" || true; grep -v '^src/' <<<"$others" || true)  # the library first
    # More would take minutes: a Torch file takes 7 s of a core.
    left_out=$(tail -n +33 <<<"$others")
    [[ -z $left_out ]] || say "left out, scripts/lint.sh --changed looks at them:" $left_out
    selected=$(printf '%s\n' "$kernels" "$(head -n 32 <<<"$others")")
    ;;
  files)
    ((${#files[@]})) || fail "nothing to look at (--help lists what can be)"
    selected=$(comm -12 <(realpath --relative-to=. "${files[@]}" | sort -u) <(echo "$compiled"))
    ;;
esac
selected=$(sed '/^$/d' <<<"$selected")
[[ -n $selected ]] || { say "no source to look at" && exit 0; }

jobs=$(nproc)
((${#fix[@]})) && jobs=1  # two at a time would mend a header twice
log="$build/lint/findings.log"
status=0
xargs -P "$jobs" -I{} "$tidy" --quiet -p "$build/lint" "${fix[@]}" {} <<<"$selected" >"$log" 2>&1 || status=$?
# A finding in a header comes once for every source that includes it.
findings=$(grep -E '(error|warning): ' "$log" | sed "s#^$RILLKV_ROOT/##" | sort -u || true)
if [[ -n $findings || $status != 0 ]]; then
  printf '%s\n' "${findings:-$(tail -n 20 "$log")}" >&2
  fail "$(grep -c . <<<"$findings") findings; with their lines in $log"
fi
say "$(wc -l <<<"$selected") sources without findings"
