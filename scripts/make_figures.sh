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

# pareto NAME SET FOLDER: both protocols, of the presets' own rows (not of variants beside them).
pareto() {
  local protocol preset
  for protocol in stress prefill; do
    local files=()
    for preset in configs/presets/*.json; do
      files+=("$3/$(basename "$preset" .json)-$protocol.json")
    done
    local name=$1
    [[ $protocol == stress ]] || name+=-prefill
    draw "$name" pareto --protocol $protocol --set "$2" -- "${files[@]}"
  done
}

pareto pareto wikitext2 $results/quality
pareto pareto-gpl-3 gpl3 $results/gpl-3
pareto pareto-qwen qwen2.5-coder-0.5b $results/qwen2.5-coder-0.5b
draw needle needle -- $results/needle.json
draw memory memory -- $results/memory/*.json
draw speed speed -- $results/speed/*.json
draw layers layers -- $results/quality/balanced-stress.json
draw layers-seed layers -- $results/quality/seed-stress.json
