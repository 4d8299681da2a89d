#!/usr/bin/env bash
# From a fresh Debian 12 machine to a report: installs, builds, gets the default model and prefills a
# long text in chunks with the compressed cache.
#
# usage: scripts/quickstart.sh [PREFILL_ARGUMENT...]
#   RILLKV_TEXT   the text to prefill; default: the GPL, which every Debian machine has
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

[[ ${1:-} == -h || ${1:-} == --help ]] && sed -n '2,/^source/{/^#/s/^# \{0,1\}//p}' "$0" && exit 0

scripts/setup.sh
scripts/build.sh release --target rillkv_programs
scripts/make_default_model.sh

text=${RILLKV_TEXT:-/usr/share/common-licenses/GPL-3}
[[ -r $text ]] || text=$RILLKV_ROOT/README.md
say "prefilling $text"
show build/release/bin/prefill --model "$RILLKV_MODEL_DIR" --prompt-file "$text" \
  --max-new-tokens 48 "$@"
