#!/usr/bin/env bash
# Draws what scripts/make_results.sh left in results/ into benchmarks/figures/, where the README's
# pictures are. What has no results yet is named and left out.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

[[ ${1:-} == -h || ${1:-} == --help ]] && sed -n '2,/^source/{/^#/s/^# \{0,1\}//p}' "$0" && exit 0

python=$RILLKV_ROOT/.venv-tools/bin/python
[[ -x $python ]] || fail "no $python: run scripts/setup.sh"
results=results
figures=benchmarks/figures
mkdir -p $figures
shopt -s nullglob

# draw NAME KIND [OPTION...] -- FILE...
draw() {
  local name=$1 kind=$2 options=()
  shift 2
  while [[ $1 != -- ]]; do options+=("$1") && shift; done
  shift
  local files=()
  local file
  for file in "$@"; do [[ -s $file ]] && files+=("$file"); done
  if ((${#files[@]} == 0)); then
    say "$name: no results"
    return
  fi
  show "$python" scripts/plot.py "$kind" "${options[@]}" "${files[@]}" -o "$figures/$name.png"
}

draw pareto pareto --protocol stress -- $results/quality/*-stress.json
draw pareto-prefill pareto --protocol prefill -- $results/quality/*-prefill.json
draw needle needle -- $results/needle.json
draw memory memory -- $results/memory/*.json
draw speed speed -- $results/speed/*.json
draw layers layers -- $results/quality/balanced-stress.json
draw layers-seed layers -- $results/quality/seed-stress.json
