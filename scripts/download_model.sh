#!/usr/bin/env bash
# Downloads a checkpoint from its hub with huggingface_hub's client `hf`, for users who have access.
# LLaMA-2 is gated: accept its licence on the model's page first, then log in with an access token.
#
# usage: scripts/download_model.sh [MODEL [FOLDER]]
#   MODEL      default: meta-llama/Llama-2-7b-hf (13.5 GB); any safetensors LLaMA works
#   FOLDER     default: models/NAME, NAME being the last part of MODEL in lower case
#   HF_TOKEN   access token; not needed after `.venv-hub/bin/hf auth login`
#
# Then: build/release/bin/prefill --model FOLDER --prompt "..."
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

[[ ${1:-} == -h || ${1:-} == --help ]] && sed -n '2,/^source/{/^#/s/^# \{0,1\}//p}' "$0" && exit 0
(($# <= 2)) || fail "expected at most MODEL and FOLDER, found $# arguments"
model=${1:-meta-llama/Llama-2-7b-hf}
[[ $model =~ ^[A-Za-z0-9._-]+/[A-Za-z0-9._-]+$ ]] ||
  fail "expected MODEL as owner/name, found $model"
name=${model##*/}
folder=${2:-models/${name,,}}

if [[ -e $folder/config.json ]]; then
  say "$folder is there"
  exit 0
fi
pip_install "$RILLKV_ROOT/.venv-hub" hub $(words "$RILLKV_HUB_PACKAGES")
hub=.venv-hub/bin/hf
if [[ -z ${HF_TOKEN:-} ]] && ! "$hub" auth token >/dev/null 2>&1; then
  fail "no access token: run $hub auth login, or set HF_TOKEN"
fi

# Into a folder beside the final one: an interrupted download resumes, and is never taken for a model.
partial=$folder.partial
mkdir -p "$partial"
say "downloading $model"
show "$hub" download "$model" --local-dir "$partial" --include '*.json' --include '*.safetensors' \
  --include tokenizer.model ||
  fail "could not download $model: no access to it yet (accept its licence on its page), a wrong name, or no network"
[[ -e $partial/config.json ]] || fail "$model has no config.json"
compgen -G "$partial/*.safetensors" >/dev/null || fail "$model has no safetensors files"
rm -rf "$partial/.cache"
mv "$partial" "$folder"
say "$folder is complete"
