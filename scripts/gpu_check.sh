#!/usr/bin/env bash
# Everything to know about the CUDA kernels on a machine with a GPU, in one command and at most nine
# minutes. scripts/gpu_prepare.sh has made .gpu/ before, on another machine; this one needs Python
# with the LibTorch of scripts/versions.env and numpy, and uses CUDA's own tools where it has them.
#
# usage: scripts/gpu_check.sh [--out DIR] [--bin DIR] [--dry-run] [--only STEP,...]
#   --out DIR    results; default: $OUT, or results/gpu
#   --bin DIR    the programs; default: .gpu/bin
#   --dry-run    no GPU: the same commands must get as far as asking for one, Python's steps compute
#                something small on the CPU, and prefill runs there. What remains to fail on a GPU is
#                what the steps measure.
#   --only ...   these steps alone, and the checkpoint that they read
#   RILLKV_GPU_PYTHON   the Python to use; default: python3
#
# Each step has its own time limit and what is left of the whole; one that fails does not stop the
# others. What matters most comes first: whether results are right, attention beside Torch's, the model,
# the tools. Earlier results in DIR go. At most eight files: summary.txt and steps.json (what each step ended with), log.txt (what it
# printed), attention.json, sdpa.json, kernels.json, prefill.json, ncu.txt. Nothing of the GPU is set.
set -uo pipefail

begin=$(date +%s)
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
out=${OUT:-results/gpu}
bin=.gpu/bin
dry=0
only=
fail() {
  printf 'gpu_check.sh: %s\n' "$*" >&2
  exit 2
}
while (($#)); do
  case $1 in
    -h | --help) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0" && exit 0 ;;
    --out | --bin | --only)
      [[ -n ${2:-} ]] || fail "$1: expected a value"
      declare "${1#--}=$2"
      shift
      ;;
    --dry-run) dry=1 ;;
    *) fail "unknown argument $1 (--help lists them)" ;;
  esac
  shift
done
[[ -x $bin/bench_cuda ]] || fail "no $bin/bench_cuda: scripts/gpu_prepare.sh makes it, before this machine"

all_steps=machine,environment,queue_tests,kernel_tests,core_tests,bench_attention,sdpa,checkpoint,prefill,prefill_device,bench_cuda,bench_slices,memcheck,racecheck,ncu
wants() { [[ -z $only || ",$only," == *",$1,"* ]]; }
for name in ${only//,/ }; do
  [[ ",$all_steps," == *",$name,"* ]] || fail "--only: no step $name: expected some of $all_steps"
done
if [[ -n $only ]] && { wants prefill || wants prefill_device || wants bench_cuda; }; then only+=,checkpoint; fi

total_s=540       # of all steps
kill_after_s=5    # after a step's limit, for what ignores it
log_bytes=1000000 # a step may print
python=${RILLKV_GPU_PYTHON:-python3}
rm -rf "${out:?}"/{summary.txt,steps.json,log.txt,attention.json,sdpa.json,kernels.json,prefill.json,ncu.txt}
mkdir -p "$out" || fail "cannot make $out"
out=$(cd "$out" && pwd)
bin=$(cd "$bin" && pwd)
work=$(mktemp -d) || fail "cannot make a temporary folder"
ulimit -c 0                # the core of a program that uses a GPU can fill a disk,
ulimit -f $((4 * 1048576)) # and so can one that never stops printing: 4 GiB a file
trap 'rm -rf "$work"' EXIT

# LibTorch and what it needs are the Python package's, before the build machine's own paths.
site=$("$python" -c 'import importlib.util, pathlib
spec = importlib.util.find_spec("torch")
print(pathlib.Path(spec.origin).parents[1] if spec else "")' 2>/dev/null)
if ((!dry)); then
  path="$bin/../lib"
  for folder in /usr/local/cuda/lib64 "$site"/nvidia/*/lib "$site/torch/lib"; do
    [[ -d $folder ]] && path="$folder:$path"
  done
  export LD_LIBRARY_PATH="$path${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
else
  export CUDA_VISIBLE_DEVICES=
fi
export RILLKV_TEST_DATA_DIR="$PWD/tests/data"
export RILLKV_PTX_DIR="$work" # nothing on a GPU reads PTX
export PYTHONUNBUFFERED=1

dry_run=()
((dry)) && dry_run=(--dry-run)

names=()
statuses=()
times=()
notes=()

# What every step so far ended with; written after each, so that it is there if this script is killed.
write_steps() {
  local i
  {
    printf '{"dry_run": %s, "seconds": %d, "steps": [\n' "$( ((dry)) && echo true || echo false)" $(($(date +%s) - begin))
    for i in "${!names[@]}"; do
      ((i)) && printf ',\n'
      printf '  {"name": "%s", "status": %d, "seconds": %s, "note": "%s"}' "${names[i]}" "${statuses[i]}" "${times[i]}" "${notes[i]//\"/}"
    done
    printf '\n]}\n'
  } >"$work/steps.json"
  cp "$work/steps.json" "$out/steps.json"
}

# step NAME SECONDS COMMAND...: its output goes to the log, its status to the summary. $judge says how
# the output counts, $remark is added to the note.
judge=
remark=
step() {
  local name=$1 limit=$2 file="$work/output" status started left note=
  shift 2
  wants "$name" || return 0
  left=$((total_s - kill_after_s - ($(date +%s) - begin)))
  ((limit > left)) && limit=$left
  printf '\n======== %s: %s\n' "$name" "$*" >>"$out/log.txt"
  started=$(date +%s.%N)
  if ((limit <= 0)); then
    : >"$file"
    status=125 note="no time left"
  else
    timeout -k "$kill_after_s" "$limit" "$@" >"$file" 2>&1 </dev/null
    status=$?
    ((status == 124 || status == 137)) && note="stopped after $limit s"
    if ((dry)) && [[ $judge == measures ]]; then
      # As far as asking for a device, which is not there: arguments were understood.
      if ((status == 1)) && grep -qE 'no CUDA device|built without CUDA' "$file"; then
        status=0 note="asked for a GPU"
      elif ((status == 0)); then
        status=1 note="expected to ask for a GPU"
      fi
    elif [[ $judge == gtest || $judge == gtest_anywhere ]]; then
      local tests
      # What was stopped keeps its status and its note.
      tests=$(gtest_note "$file" "$status" "$judge") || ((status != 0)) || status=1
      note+="${note:+, }$tests"
    elif [[ $judge == ncu ]] && ((status == 0)) && ! grep -q 'rillkv_' "$work/ncu.txt" 2>/dev/null; then
      # It may have no right to the counters, which it says in its own log.
      status=1 note="no kernel profiled: $(grep -hm 1 '==ERROR==' "$work/ncu.txt" "$file" 2>/dev/null | cut -c 1-160)"
    fi
    note+="${remark:+${note:+; }$remark}"
  fi
  times+=("$(awk -v a="$started" -v b="$(date +%s.%N)" 'BEGIN { printf "%.1f", b - a }')")
  if (($(stat -c %s "$file") > log_bytes)); then
    {
      head -c $((log_bytes / 2)) "$file"
      printf '\n[... left out ...]\n'
      tail -c $((log_bytes / 2)) "$file"
    } >>"$out/log.txt"
  else
    cat "$file" >>"$out/log.txt"
  fi
  [[ $name == machine || $name == environment ]] && cat "$file" >>"$work/machine.txt"
  names+=("$name")
  statuses+=("$status")
  notes+=("${note//[$'\n\t\\']/ }")
  write_steps
  printf '%-22s %4s %7s s  %s\n' "$name" "$status" "${times[-1]}" "${notes[-1]}"
  if ((status != 0)); then tail -n 4 "$file" | cut -c 1-300 | sed 's/^/    | /'; fi
  return 0
}

# How many tests ran. None, or on a machine without a GPU where there should be one, is a failure; of
# those that need none (gtest_anywhere) one that skips is one, too.
gtest_note() {
  local file=$1 status=$2 judge=$3 ran skipped failed
  ran=$(sed -nE 's/^\[==========\] ([0-9]+) tests? .* ran\..*/\1/p' "$file" | tail -n 1)
  skipped=$(sed -nE 's/^\[  SKIPPED \] ([0-9]+) tests?, .*/\1/p' "$file" | tail -n 1)
  failed=$(sed -nE 's/^\[  FAILED  \] ([0-9]+) tests?, .*/\1/p' "$file" | tail -n 1)
  echo "${ran:-0} tests, ${skipped:-0} skipped, ${failed:-0} failed"
  ((status == 0 && ${ran:-0} > 0)) || return 1
  if [[ $judge == gtest_anywhere ]]; then
    ((${skipped:-0} == 0))
  elif ((dry)); then
    # Without a GPU every one of them skips.
    ((${skipped:-0} == ran))
  else
    ! grep -q '^no GPU$' "$file"
  fi
}

have() { command -v "$1" >/dev/null || [[ -x /usr/local/cuda/bin/$1 ]]; }
export PATH="$PATH:/usr/local/cuda/bin"

judge=
if have nvidia-smi && ((!dry)); then
  step machine 15 nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm,clocks.max.sm,clocks.mem,power.limit,temperature.gpu,ecc.mode.current,mig.mode.current --format=csv
else
  step machine 15 uname -a
fi
# Names, versions and libraries: whatever is missing shows here, in one line each.
step environment 40 "$python" scripts/gpu_environment.py --bin "$bin" "${dry_run[@]}"

# The queue over a run-time library that its test plays: if this fails, no launch can be trusted.
judge=gtest_anywhere
step queue_tests 15 "$bin/rillkv_cuda_queue_tests"
judge=gtest
step kernel_tests 90 "$bin/rillkv_cuda_tests" '--gtest_filter=*/gpu'
step core_tests 90 "$bin/rillkv_cuda_core_tests" '--gtest_filter=*/gpu'

judge=measures
step bench_attention 120 "$bin/bench_attention" --device cuda --json "$out/attention.json" --depths 4096,16384,32768,131072
judge=
step sdpa 60 "$python" scripts/gpu_sdpa.py --json "$out/sdpa.json" --depths 4096,16384,32768,131072 "${dry_run[@]}"

# A real model's way, on random weights of SmolLM2's shapes; a small one on the CPU in a dry run.
judge=
model="$work/model"
if ((dry)); then
  step checkpoint 30 "$python" scripts/gpu_checkpoint.py --out "$model" --layers 2 --vocab 512 --tokens 300 --ids "$work/ids.txt"
  step prefill 60 "$bin/prefill" --model "$model" --token-ids "$work/ids.txt" --device cpu --dtype float32 --max-new-tokens 3 --quiet --json "$out/prefill.json"
  judge=measures
  step prefill_device 60 "$bin/prefill" --model "$model" --token-ids "$work/ids.txt" --device cuda --max-new-tokens 256 --baseline
else
  step checkpoint 30 "$python" scripts/gpu_checkpoint.py --out "$model" --ids "$work/ids.txt"
  step prefill 60 "$bin/prefill" --model "$model" --token-ids "$work/ids.txt" --device cuda --max-new-tokens 256 --quiet --json "$out/prefill.json"
  step prefill_device 60 "$bin/prefill" --model "$model" --token-ids "$work/ids.txt" --device cuda --max-new-tokens 256 --baseline
fi

judge=measures
step bench_cuda 90 "$bin/bench_cuda" --device cuda --model "$model" --json "$out/kernels.json"
# Prefill the other way, for the log: bench_attention's lines say which.
step bench_slices 60 env RILLKV_PREFILL=slices "$bin/bench_attention" --device cuda --depths 4096,32768

# What the tools of CUDA say; where one is missing, or in a dry run, the command alone.
few='*CudaAttentionTest.SplitsGiveTheSameAsOne/gpu:*CudaAttentionTest.Sinks/gpu:*CudaStepsTest.EveryTailAndNoBlocks/gpu:*CudaIngestTest.*/gpu:*CudaPackBlocksTest.*/gpu:*CudaSlices.PartsOfASlice/gpu:*CudaRotateTest.*/gpu'
judge=gtest
((dry)) || have compute-sanitizer || remark="without compute-sanitizer: the tests alone"
sanitizer() { ((!dry)) && have compute-sanitizer && printf 'compute-sanitizer --tool %s --error-exitcode 9 --print-limit 20' "$1"; }
for tool in memcheck racecheck; do
  # shellcheck disable=SC2046 # words
  step "$tool" 60 $(sanitizer "$tool") "$bin/rillkv_cuda_tests" "--gtest_filter=$few"
done
judge=measures
remark=
entries=(--device cuda --once --only 'decode,merge,prefill,ingest,pack')
if ((!dry)) && have ncu; then
  judge=ncu
  step ncu 75 ncu --clock-control none --target-processes application-only --kernel-name 'regex:rillkv_' \
    --launch-count 24 --section SpeedOfLight --section LaunchStats --section Occupancy \
    --section SchedulerStats --section WarpStateStats --section MemoryWorkloadAnalysis \
    --metrics gpu__time_duration.sum,smsp__inst_executed.sum,dram__bytes.sum \
    --log-file "$work/ncu.txt" "$bin/bench_cuda" "${entries[@]}"
  [[ -f $work/ncu.txt ]] && head -c 4000000 "$work/ncu.txt" >"$out/ncu.txt"
else
  ((dry)) || remark="without ncu: the launches alone"
  step ncu 60 "$bin/bench_cuda" "${entries[@]}"
fi

failed=0
{
  [[ -f $work/machine.txt ]] && cat "$work/machine.txt"
  for i in "${!names[@]}"; do
    printf '%-22s status %3d  %6s s  %s\n' "${names[i]}" "${statuses[i]}" "${times[i]}" "${notes[i]}"
  done
  "$python" scripts/gpu_summary.py "$out"
} >"$out/summary.txt" 2>&1
for status in "${statuses[@]}"; do ((status != 0)) && failed=$((failed + 1)); done
echo
cat "$out/summary.txt"
printf '%d of %d steps failed, %d s, results in %s\n' "$failed" "${#names[@]}" $(($(date +%s) - begin)) "$out"
((failed == 0))
