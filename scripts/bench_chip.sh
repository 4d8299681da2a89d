#!/usr/bin/env bash
# Everything that the targets of a CPU family ask for, on the machine it runs on: each benchmark's JSON in
# a folder named after the CPU, then one table of target against measured. A quiet machine takes about an
# hour; parts can be run one by one, and the table shows what is there.
#
# usage: scripts/bench_chip.sh [PART...] [--out DIR]
#   PART   attention   bench_attention
#          model       bench_model three times: the compressed and the dense cache beside Torch's SDPA
#          smollm2     scripts/bench_transformers.sh with the default model
#          qwen        the same with 3118 tokens of Qwen2.5-Coder-1.5B (make_default_model.sh --model)
#          layer       the same with one layer of LLaMA-2-7B's shapes (random weights, made here)
#          llama_cpp   scripts/bench_llama_cpp.sh
#          busy        scripts/bench_busy.sh
#          table       only the table
#   --out DIR   where the JSON goes (results/chip/CPU)
#   What a part needs and is not there is said, and the other parts go on.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

all=(attention model smollm2 qwen layer llama_cpp busy)
parts=() out=""
while (($#)); do
  case $1 in
    -h | --help) sed -n '2,/^source/{/^#/s/^# \{0,1\}//p}' "$0" && exit 0 ;;
    --out)
      [[ -n ${2:-} ]] || fail "--out: expected a folder"
      out=$2 && shift
      ;;
    attention | model | smollm2 | qwen | layer | llama_cpp | busy) parts+=("$1") ;;
    table) parts+=(none) ;;
    *) fail "unknown argument $1 (expected ${all[*]}, table, --out DIR)" ;;
  esac
  shift
done
((${#parts[@]})) || parts=("${all[@]}")

bin=${RILLKV_BENCH_BIN:-build/release/bin}
cpu=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)
amx=false
grep -qw amx_tile /proc/cpuinfo && amx=true
if [[ -z $out ]]; then
  out=results/chip/$(tr -cs '[:alnum:]\n' '-' <<<"${cpu,,}")
  [[ $amx == true ]] && out+=-amx
fi
mkdir -p "$out" || fail "cannot make the folder $out"
if [[ ${parts[*]} != none ]]; then # A table alone may be of another machine's figures.
  printf '{"cpu": "%s", "amx": %s, "cores": %d}\n' "$cpu" "$amx" "$(nproc)" >"$out/machine.json"
  lscpu >"$out/lscpu.txt" 2>/dev/null || true
fi
[[ $amx == true || ${parts[*]} == none ]] ||
  say "this CPU has no tile unit (amx_tile): no figure here is one of the AMX kernels"

layer_model=build/llama2-7b-layer
qwen_model=models/qwen2.5-coder-1.5b

make_layer() {
  [[ -f $layer_model/config.json ]] ||
    show .venv-reference/bin/python scripts/make_llama2_shaped.py --out "$layer_model" --hidden 4096 \
      --layers 1 --shards 1 --positions 8192
}

part() {
  case $1 in
    attention) show "$bin/bench_attention" --json "$out/attention.json" ;;
    model)
      for run in 1 2 3; do
        show "$bin/bench_model" --model "$RILLKV_MODEL_DIR" --dtype bfloat16 --depths 0,4096 \
          --json "$out/model-$run.json" || return 1
      done
      ;;
    smollm2) show scripts/bench_transformers.sh --json "$out/smollm2.json" ;;
    qwen)
      show scripts/bench_transformers.sh --model "$qwen_model" --prompt-tokens 3118 \
        --sides compressed,dense --json "$out/qwen.json"
      ;;
    layer)
      make_layer && show scripts/bench_transformers.sh --model "$layer_model" --depths 4096 \
        --json "$out/layer.json"
      ;;
    llama_cpp) show scripts/bench_llama_cpp.sh --json "$out/llama_cpp.json" ;;
    busy)
      [[ -x scripts/bench_busy.sh ]] || { say "no bench_busy.sh here" && return 1; }
      show scripts/bench_busy.sh --json "$out/busy.json"
      ;;
    none) ;;
  esac
}

failed=()
for name in "${parts[@]}"; do
  [[ $name == none ]] || say "part $name, load $(cut -d ' ' -f 1 /proc/loadavg)"
  part "$name" || failed+=("$name")
done
python3 scripts/bench_chip.py "$out"
((${#failed[@]} == 0)) || fail "parts without a figure: ${failed[*]}"
