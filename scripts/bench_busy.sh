#!/usr/bin/env bash
# Prefill and decode of the default model beside 0, 1 and 2 busy loops of equal priority, taking turns:
# medians, and ratios to the same program without loops. The loops are pinned nowhere, as in life.
#
# usage: scripts/bench_busy.sh [--rounds N] [--loops "N..."] [--tokens N] [--other PROGRAM] [--passive]
#                              [--json FILE]
#   --rounds N         how often everything takes its turn (5)
#   --loops "0 1 2"    how many busy loops; 0 must be among them
#   --tokens N         tokens to decode (64)
#   --other PROGRAM    a second build's `prefill` to compare with
#   --passive          also with OMP_WAIT_POLICY=passive
#   --json FILE        the figures, for programs
#   RILLKV_BENCH_WRAPPER="COMMAND..."   runs each timing under a command
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

rounds=5 loops="0 1 2" tokens=64 other="" passive=0 json=""
whole() { [[ ${2:-} =~ ^[1-9][0-9]{0,5}$ ]] || fail "$1: expected a number >= 1, got '${2:-}'"; }
while (($#)); do
  case $1 in
    -h | --help) sed -n '2,/^source/{/^#/s/^# \{0,1\}//p}' "$0" && exit 0 ;;
    --rounds) whole "$@" && rounds=$2 && shift ;;
    --tokens) whole "$@" && tokens=$2 && shift ;;
    --loops)
      [[ " ${2:-} " =~ ^(\ +[0-9]{1,3})+\ +$ && " $2 " == *" 0 "* ]] ||
        fail "--loops: expected numbers, 0 among them, got '${2:-}'"
      loops=$2 && shift
      ;;
    --other)
      [[ -x ${2:-} && -f $2 ]] || fail "--other: expected a program, got '${2:-}'"
      other=$2 && shift
      ;;
    --passive) passive=1 ;;
    --json)
      [[ -n ${2:-} && -d $(dirname "$2") ]] || fail "--json: expected a file in a folder that exists, got '${2:-}'"
      json=$2 && shift
      ;;
    *) fail "unknown argument $1 (expected --rounds N, --loops \"N...\", --tokens N, --other PROGRAM, --passive, --json FILE)" ;;
  esac
  shift
done
((tokens >= 2)) || fail "--tokens: expected at least 2, got $tokens"

prefill="$RILLKV_ROOT/build/release/bin/prefill"
[[ -x $prefill ]] || fail "no build/release/bin/prefill: run scripts/build.sh release"
[[ -f $RILLKV_MODEL_DIR/config.json ]] || fail "no default model: run scripts/make_default_model.sh"
read -r -a wrapper <<<"${RILLKV_BENCH_WRAPPER:-}"

work=$(mktemp -d)
busy=()
stop_loops() {
  if ((${#busy[@]})); then
    kill "${busy[@]}" 2>/dev/null || true
    wait "${busy[@]}" 2>/dev/null || true
  fi
  busy=()
}
trap 'stop_loops; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

# Numbers that are the tokens of no text: the model goes on with more of them, for long enough.
ids() { awk -v n="$1" 'BEGIN { for (i = 0; i < n; ++i) print (i * 7919 + 1001) % 40000 + 100 }'; }
ids 36 >"$work/short.ids"
ids 512 >"$work/long.ids"

# timing NAME PROGRAM LOOPS ROUND [VARIABLE=VALUE]
timing() {
  local name=$1 program=$2 count=$3 round=$4
  shift 4
  for prompt in short long; do
    env "$@" "${wrapper[@]}" "$program" --model "$RILLKV_MODEL_DIR" --token-ids "$work/$prompt.ids" \
      --max-new-tokens "$tokens" --quiet --json "$work/$name-$count-$prompt-$round.json" \
      >/dev/null || fail "$program failed"
  done
}

for ((round = 1; round <= rounds; ++round)); do
  for count in $loops; do
    for ((i = 0; i < count; ++i)); do
      (while :; do :; done) &
      busy+=($!)
    done
    timing ours "$prefill" "$count" "$round"
    [[ -n $other ]] && timing other "$other" "$count" "$round"
    if ((passive)); then
      timing ours_passive "$prefill" "$count" "$round" OMP_WAIT_POLICY=passive
      [[ -n $other ]] && timing other_passive "$other" "$count" "$round" OMP_WAIT_POLICY=passive
    fi
    stop_loops
  done
done

RESULTS=$work ROUNDS=$rounds JSON=$json OTHER=$other /usr/bin/env python3 - <<'PYTHON'
import json, os, pathlib, platform, statistics

runs = {}
for file in sorted(pathlib.Path(os.environ["RESULTS"]).glob("*.json")):
    name, loops, prompt, _ = file.stem.rsplit("-", 3)
    run = json.loads(file.read_text())
    figures = runs.setdefault((name, int(loops)), {})
    figures.setdefault(f"ttft_{prompt}_s", []).append(run["ttft_s"])
    figures.setdefault(f"decode_{prompt}_tokens_per_s", []).append(run["decode_tokens_per_s"])

columns = ["ttft_short_s", "ttft_long_s", "decode_short_tokens_per_s", "decode_long_tokens_per_s"]
print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end, medians of {os.environ['ROUNDS']} "
      "rounds; x: of the same program without loops")
print(f"{'':14}{'loops':>6}{'36 tokens: first token':>26}{'512 tokens':>18}{'decode after 36':>22}{'after 512':>20}")
rows = []
for name in dict.fromkeys(name for name, _ in runs):
    for loops in sorted(count for other, count in runs if other == name):
        row = {"program": name, "loops": loops}
        line = f"{name:14}{loops:6}"
        for column, width in zip(columns, (26, 18, 22, 20)):
            median = statistics.median(runs[name, loops][column])
            ratio = median / statistics.median(runs[name, 0][column])
            row[column], row[column + "_ratio"] = median, ratio
            row[column + "_all"] = runs[name, loops][column]
            unit = "s" if column.startswith("ttft") else "tok/s"
            text = f"{median:.3f} {unit}" if unit == "s" else f"{median:.1f} {unit}"
            line += f"{text + f' {ratio:5.2f}x':>{width}}"
        rows.append(row)
        print(line)
if os.environ["JSON"]:
    cpu = [line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
    pathlib.Path(os.environ["JSON"]).write_text(json.dumps(
        {"cpu": cpu[0] if cpu else platform.machine(), "cores": os.cpu_count(), "rounds": int(os.environ["ROUNDS"]),
         "other": bool(os.environ["OTHER"]), "runs": rows}, indent=2) + "\n")
PYTHON
