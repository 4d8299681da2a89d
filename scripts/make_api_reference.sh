#!/usr/bin/env bash
# Makes the API reference from the doc comments of the public headers: BUILD/api/html/index.html. What
# Doxygen warns about (a reference to nothing, a tag that is none) is an error.
#
# usage: scripts/make_api_reference.sh [BUILD]
#   BUILD   the build folder; default: build/release
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

[[ ${1:-} == -h || ${1:-} == --help ]] && sed -n '2,/^source/{/^#/s/^# \{0,1\}//p}' "$0" && exit 0

command -v doxygen >/dev/null || fail "no doxygen: scripts/setup.sh installs it"
out="${1:-build/release}/api"
rm -rf "$out"
mkdir -p "$out"
log="$out/warnings.log"
version=$(sed -n 's/^project(rillkv VERSION \([0-9.]*\).*/\1/p' CMakeLists.txt)

# Comments beside fields are plain ones in the headers; the filter turns them into documentation,
# but for those with a "<", which Doxygen would take for a tag.
doxygen - >"$out/doxygen.log" <<CONFIG || fail "$(sort -u "$log")"
PROJECT_NAME           = RillKV
PROJECT_NUMBER         = $version
PROJECT_BRIEF          = "KV cache compression for LLaMA models while they prefill"
OUTPUT_DIRECTORY       = "$out"
INPUT                  = include/rillkv
RECURSIVE              = YES
FILE_PATTERNS          = *.h
INPUT_FILTER           = "sed -E 's|([;,{] +)// ([^<]*)$|\\1///< \\2|'"
STRIP_FROM_PATH        = include
STRIP_FROM_INC_PATH    = include
JAVADOC_AUTOBRIEF      = YES
MARKDOWN_SUPPORT       = YES
EXTRACT_ALL            = YES
EXTRACT_STATIC         = YES
HIDE_UNDOC_RELATIONS   = YES
# The public headers' macros: TORCH_MODULE(Name) makes a holder class of NameImpl.
ENABLE_PREPROCESSING   = YES
MACRO_EXPANSION        = YES
EXPAND_ONLY_PREDEF     = YES
PREDEFINED             = "TORCH_MODULE(name)=class name : public torch::nn::ModuleHolder<name##Impl> {};"
GENERATE_LATEX         = NO
HAVE_DOT               = NO
QUIET                  = YES
WARN_IF_UNDOCUMENTED   = NO
WARN_NO_PARAMDOC       = NO
WARN_AS_ERROR          = FAIL_ON_WARNINGS
WARN_LOGFILE           = "$log"
CONFIG
[[ ! -s $log ]] || fail "$(sort -u "$log")"
say "API reference: $out/html/index.html"
