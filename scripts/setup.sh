#!/usr/bin/env bash
# Installs what the build needs: Debian packages (only if one is missing) and, into .venv, the pinned
# Python packages that carry LibTorch and the default model; into .venv-tools what the scripts that tune,
# plot and lint use.
#
# usage: scripts/setup.sh [--reference]
#   --reference   also .venv-reference, with what the scripts that make reference values need
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

reference=0
for argument in "$@"; do
  case $argument in
    --reference) reference=1 ;;
    -h | --help) sed -n '2,/^source/{/^#/s/^# \{0,1\}//p}' "$0" && exit 0 ;;
    *) fail "unknown argument $argument (expected --reference)" ;;
  esac
done

command -v apt-get >/dev/null || fail "this needs a Debian system (no apt-get found)"
[[ $(uname -m) == x86_64 ]] || fail "the Torch package is for x86_64, this machine is $(uname -m)"

missing=()
for package in $RILLKV_DEBIAN_PACKAGES; do
  [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] ||
    missing+=("$package")
done
if ((${#missing[@]})); then
  say "installing Debian packages: ${missing[*]}"
  as_root=()
  if ((EUID != 0)); then
    command -v sudo >/dev/null || fail "missing ${missing[*]}: run as root, or install sudo"
    as_root=(sudo)
  fi
  show "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq update ||
    fail "apt-get update failed"
  show "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y \
    --no-install-recommends "${missing[@]}" >/dev/null || fail "apt-get could not install ${missing[*]}"
else
  say "Debian packages: all there"
fi

say "Python packages in .venv"
pip_install "$RILLKV_VENV" torch --no-deps $(words "$RILLKV_TORCH_PACKAGES")
pip_install "$RILLKV_VENV" model --no-deps $(words "$RILLKV_MODEL_PACKAGES")
if command -v nvcc >/dev/null || [[ -x ${CUDA_HOME:-/usr/local/cuda}/bin/nvcc ]]; then
  pip_install "$RILLKV_VENV" cuda-tools --no-deps $(words "$RILLKV_CUDA_TOOL_PACKAGES")
fi
say "Python packages of the scripts in .venv-tools"
pip_install "$RILLKV_ROOT/.venv-tools" tools $(words "$RILLKV_TOOLS_PACKAGES")
if ((reference)); then
  say "Python packages in .venv-reference"
  pip_install "$RILLKV_ROOT/.venv-reference" reference $(words "$RILLKV_REFERENCE_PACKAGES")
fi
say "set-up complete"
