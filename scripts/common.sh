# Shared by the scripts: sourced, not run.
set -euo pipefail

RILLKV_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
RILLKV_VENV="$RILLKV_ROOT/.venv"
RILLKV_MODEL_DIR="$RILLKV_ROOT/models/smollm2-135m-instruct"
cd "$RILLKV_ROOT"
source scripts/versions.env

say() { printf '== %s\n' "$*"; }
fail() {
  printf '%s: %s\n' "$(basename "$0")" "$*" >&2
  exit 1
}
# What is run is shown.
show() {
  printf '+ %s\n' "$*"
  "$@"
}

# Parallel compile jobs: one needs up to 2.5 GB.
compile_jobs() {
  local by_memory
  by_memory=$(awk '/^MemAvailable/ { print int($2 / 2500000) }' /proc/meminfo)
  local cores
  cores=$(nproc)
  local jobs=$((by_memory < cores ? by_memory : cores))
  echo $((jobs > 0 ? jobs : 1))
}

# A file's packages as words, newlines gone.
words() { tr '\n' ' ' <<<"$1"; }

# make_venv DIR: an environment of Debian's python3.
make_venv() {
  local dir=$1
  if ! "$dir/bin/python" -c '' 2>/dev/null; then
    rm -rf "$dir"
    show /usr/bin/python3 -m venv "$dir" || fail "cannot make a Python environment in $dir"
  fi
}

# pip_install DIR STAMP ARGUMENTS...: once for the same arguments.
pip_install() {
  local dir=$1 stamp="$1/rillkv-$2.installed"
  shift 2
  if [[ "$(cat "$stamp" 2>/dev/null)" != "$*" ]]; then
    make_venv "$dir"
    show "$dir/bin/python" -m pip install --quiet --disable-pip-version-check "$@" ||
      fail "pip could not install: $*"
    printf '%s' "$*" >"$stamp"
  fi
}
