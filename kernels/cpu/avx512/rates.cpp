#include "kernels/cpu/rates.h"

#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/generic/inline.h"

namespace rillkv::kernels::cpu::avx512 {
namespace {

constexpr int kChains = 12;

/// step(sum) on each of the chains. Empty assembly keeps the sums apart and in registers, and the
/// compiler from folding repeated steps.
template <class Step>
RILLKV_INLINE void run_chains(int64_t rounds, const Step& step) {
  __m512 sums[kChains];
#pragma GCC unroll 12
  for (__m512& sum : sums) sum = _mm512_set1_ps(1.0f);
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
    for (__m512& sum : sums) {
      sum = step(sum);
      asm volatile("" : "+v"(sum));
    }
  }
}

}  // namespace

// Products of 2^-40 leave the sums at 1.
void fp32_rounds(int64_t rounds) {
  __m512 x = _mm512_set1_ps(0x1p-20f);
  asm volatile("" : "+v"(x));
  run_chains(
      rounds, [&](__m512 sum)
                  __attribute__((always_inline)) { return _mm512_fmadd_ps(x, x, sum); });
}

void bf16_rounds(int64_t rounds) {
  __m512i x = _mm512_set1_epi16(0x3580);  // 2^-20 in bf16
  asm volatile("" : "+v"(x));
  run_chains(
      rounds, [&](__m512 sum) __attribute__((always_inline)) {
        return _mm512_dpbf16_ps(sum, (__m512bh)x, (__m512bh)x);
      });
}

}  // namespace rillkv::kernels::cpu::avx512
