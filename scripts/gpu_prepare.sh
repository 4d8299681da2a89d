#!/usr/bin/env bash
# Makes .gpu/: what scripts/gpu_check.sh runs on a machine that has a GPU and nothing else of ours: no
# registry, no Debian packages, another place for the sources. Runs without a GPU, after setup.sh.
#
# usage: scripts/gpu_prepare.sh [--out DIR] [CMAKE_OPTION...]
#   --out DIR   instead of .gpu; the build itself stays in build/gpu
#
# Programs for sm_90, stripped, and the libraries that `ldd` finds beyond what the other machine has:
# glibc, libstdc++, the driver, and LibTorch with its own, which are those of its Python package of
# the version in scripts/versions.env. They are found through LD_LIBRARY_PATH.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

out="$RILLKV_ROOT/.gpu"
most_mib=57
programs=(rillkv_cuda_tests rillkv_cuda_core_tests rillkv_cuda_queue_tests bench_attention bench_cuda prefill)
case ${1:-} in
  -h | --help) sed -n '2,/^source/{/^#/s/^# \{0,1\}//p}' "$0" && exit 0 ;;
  --out)
    [[ -n ${2:-} ]] || fail "--out: expected a folder"
    out=$2
    shift 2
    ;;
esac

build="$RILLKV_ROOT/build/gpu"
log="$build-configure.log"
mkdir -p build
# The PTX executor takes the vector instructions of the machine that builds it: not here, the other
# machine may lack them.
show cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DRILLKV_CUDA=ON \
  -DRILLKV_CUDA_ARCHITECTURES=90 -DRILLKV_BUILD_BENCHMARKS=ON -DRILLKV_HOST_HAS_AVX512=0 \
  -DRILLKV_HOST_HAS_AVX2=0 "$@" >"$log" || {
  tail -n 20 "$log" >&2
  fail "CMake failed; its output is in $log"
}
show cmake --build "$build" -j "$(compile_jobs)" --target "${programs[@]}" ||
  fail "the build of ${programs[*]} failed"

# Whole or absent: made beside its final place, then renamed.
made="$out.partial"
rm -rf "$made"
mkdir -p "$made/bin" "$made/lib"
for program in "${programs[@]}"; do
  strip -o "$made/bin/$program" "$build/bin/$program" || fail "cannot strip $program"
  # A path in DT_RPATH would come before LD_LIBRARY_PATH.
  readelf -d "$made/bin/$program" | grep -q '(RPATH)' &&
    fail "$program has an RPATH, which LD_LIBRARY_PATH cannot override: expected a RUNPATH"
done

# What the other machine has itself: glibc, the compiler's libraries, LibTorch and CUDA's.
theirs='^(ld-linux.*|linux-vdso|lib(c|m|rt|dl|util|pthread|resolv|stdc\+\+|gcc_s|gomp|torch.*|c10.*|cu.*|nv.*|shm))\.so'
ldd "$made"/bin/* | awk '$2 == "=>" { print $1, $3, $4 }' | sort -u >"$made/needed"
while read -r name path more; do
  [[ $name =~ $theirs ]] && continue
  [[ $path == /* ]] || fail "$name is needed and not found here: $path $more"
  cp -L "$path" "$made/lib/$name"
  strip --strip-unneeded "$made/lib/$name" 2>/dev/null || true
done <"$made/needed"
rm "$made/needed"

torch=$(sed -n 's/^torch==//p' <<<"$RILLKV_TORCH_PACKAGES")
{
  echo "commit $(git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)$(git diff --quiet HEAD 2>/dev/null || echo ' with local changes')"
  echo "torch $torch"
  echo "architectures 90"
} >"$made/built.txt"
rm -rf "$out"
mv "$made" "$out"

say "$out, for sm_90 and torch $torch"
du -a --apparent-size -BK "$out" | sort -k2
bytes=$(find "$out" -type f -printf '%s\n' | awk '{ sum += $1 } END { print sum + 0 }')
printf '== %s: %d bytes, %.1f of at most %d MiB\n' "$out" "$bytes" \
  "$(awk -v b="$bytes" 'BEGIN { print b / 1048576 }')" "$most_mib"
((bytes <= most_mib * 1048576)) || fail "$out holds $bytes bytes: expected at most $most_mib MiB"
