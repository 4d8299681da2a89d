#!/usr/bin/env bash
# A model in Hugging Face's own program (transformers, in .venv-reference) and in bench_model, taking
# turns: the first prompt, a prompt after 4096 tokens and decode, with the same token ids, threads and
# bf16 weights. Before anything is timed the last logits of both sides are compared. Starting a process and
# loading weights is in no figure; the first prompt of a process (cold) has a row of its own. Hugging
# Face runs with sdpa and eager attention, dynamic and static cache, bf16 and fp32 in the first round,
# then with those that led in something. Optional: nothing else needs it.
#
# usage: scripts/bench_transformers.sh [OPTION...]
#   --model DIR          the checkpoint (models/smollm2-135m-instruct)
#   --prompt-tokens N    a whole prompt of N tokens and decode after it, instead of 512 tokens at
#                        the depths
#   --depths N,N         tokens cached before the prompts of 512 (0,4096)
#   --rounds N           how often the sides take turns (3)
#   --repetitions N      prompts a round (3)
#   --threads N          on both sides (the number of cores)
#   --variants A,B       Hugging Face's, such as sdpa/dynamic/bf16 (all)
#   --sides A,B          ours: compressed, dense, torch (all; torch is our copy of the model on Torch's
#                        SDPA and holds the weights a second time)
#   --text FILE          where the token ids come from (the GPL, which every Debian machine has)
#   --json FILE          the figures, for programs
#   RILLKV_BENCH_BIN=DIR                where our programs are (build/release/bin)
#   RILLKV_BENCH_WRAPPER="COMMAND..."   runs each timing under a command (say, one that waits for a
#                                       quiet machine)
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

model=$RILLKV_MODEL_DIR prompt=512 depths=0,4096 rounds=3 repetitions=3 threads=$(nproc) variants=""
sides=compressed,dense,torch text=/usr/share/common-licenses/GPL-3 json=""

# number OPTION VALUE: fails on what is none.
number() { [[ $2 =~ ^[1-9][0-9]*$ ]] || fail "$1: expected a number of at least 1, got '$2'"; }
while (($#)); do
  [[ $1 == -h || $1 == --help ]] && sed -n '2,/^source/{/^#/s/^# \{0,1\}//p}' "$0" && exit 0
  value=${2:-}
  case $1 in
    --model | --text | --json | --variants) [[ -n $value ]] || fail "$1: expected a value" ;;&
    --model) model=$value ;;
    --text) text=$value ;;
    --json) json=$value ;;
    --variants) variants=$value ;;
    --prompt-tokens) number "$1" "$value" && prompt=$value depths=0 ;;
    --rounds) number "$1" "$value" && rounds=$value ;;
    --repetitions) number "$1" "$value" && repetitions=$value ;;
    --threads) number "$1" "$value" && threads=$value ;;
    --depths)
      [[ $value =~ ^[0-9]+(,[0-9]+)*$ ]] || fail "--depths: expected numbers and commas, got '$value'"
      depths=$value
      ;;
    --sides)
      [[ $value =~ ^compressed(,dense)?(,torch)?$ ]] ||
        fail "--sides: expected compressed, then dense, then torch, got '$value'"
      sides=$value
      ;;
    *) fail "unknown argument $1 (--help lists them)" ;;
  esac
  shift 2
done

bin=${RILLKV_BENCH_BIN:-build/release/bin}
hf="$RILLKV_ROOT/.venv-reference/bin/python"
[[ -f $model/config.json ]] ||
  fail "no model in $model: scripts/make_default_model.sh makes one"
[[ -r $text ]] || fail "cannot read $text"
for program in bench_model prefill; do
  [[ -x $bin/$program ]] ||
    fail "no $bin/$program: run scripts/build.sh release -DRILLKV_BUILD_BENCHMARKS=ON"
done
[[ -x $hf ]] || fail "no .venv-reference: run scripts/setup.sh --reference"
"$hf" -c 'import safetensors, transformers' 2>/dev/null ||
  fail "no transformers in .venv-reference: run scripts/setup.sh --reference"

results="$RILLKV_ROOT/build/bench_transformers/$(basename "$model")-$prompt"
rm -rf "$results" && mkdir -p "$results"
log="$results/log"
read -r -a wrapper <<<"${RILLKV_BENCH_WRAPPER:-}"
ids="$results/ids.txt"
side=("$hf" scripts/bench_transformers_side.py)
run() { "$@" >>"$log" 2>&1 || fail "$(tail -n 1 "$log") (more in $log)"; }

# our_prefill CONFIG ROUND: the cold figure and the logits.
our_prefill() {
  local file=prefill
  [[ $1 == balanced ]] || file=first
  run "${wrapper[@]}" "$bin/prefill" --model "$model" --config "$1" --dtype bfloat16 --token-ids "$ids" \
    --threads "$threads" --max-new-tokens 1 --quiet --logits-out "$results/$1-logits.safetensors" \
    --json "$results/$file-$2.json"
}

run "${side[@]}" ids --model "$model" --text "$text" --count "$prompt" --out "$ids"
our_prefill dense 1
for ((round = 1; round <= rounds; ++round)); do
  say "round $round of $rounds"
  our_prefill balanced "$round"
  run "${wrapper[@]}" "$bin/bench_model" --model "$model" --dtype bfloat16 --threads "$threads" \
    --depths "$depths" --prompt "$prompt" --repetitions "$repetitions" --sides "$sides" \
    --token-ids "$ids" --json "$results/rillkv-$round.json"
  ((round == 1)) || variants=$("$hf" scripts/bench_transformers.py best "$results")
  run "${wrapper[@]}" "${side[@]}" measure --model "$model" --token-ids "$ids" --depths "$depths" \
    --prompt "$prompt" --repetitions "$repetitions" --threads "$threads" \
    --logits-out "$results/hf-logits.safetensors" --json "$results/hf-$round.json" \
    ${variants:+--variants "$variants"}
  ((round > 1)) || run "$hf" scripts/bench_transformers.py agree "$results"
done
"$hf" scripts/bench_transformers.py table "$results" ${json:+--json "$json"}
