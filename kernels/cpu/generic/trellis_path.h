// The trellis search of one row in registers of four floats: the metrics of states 0 .. 3 and of 4
// .. 7. trellis.h defines the search. Included by files compiled for AVX.
//
// State n is reached from n / 2 and n / 2 + 4, so a shuffle of one cycle brings each half's
// predecessors into place: unpacklo of (0 1 2 3) is (0 0 1 1), unpackhi (2 2 3 3). One token is
// that, an addition and a minimum.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/generic/inline.h"
#include "kernels/trellis.h"

namespace rillkv::kernels::cpu {
namespace {

/// distances: [count][4] d_j, 16-byte aligned. chosen: [count] out, bit n: state n is best reached
/// from n / 2 + 4. Returns the state of least metric.
RILLKV_INLINE int advance_states(const float* distances, int count, uint8_t* chosen) {
  __m128 low = _mm_setr_ps(0.0f, kUnreached, kUnreached, kUnreached);
  __m128 high = _mm_set1_ps(kUnreached);
  for (int t = 0; t < count; ++t) {
    // The subsets from n / 2 are 0 2 2 0 | 1 3 3 1, those from n / 2 + 4 are 2 0 0 2 | 3 1 1 3.
    const __m128 d = _mm_load_ps(distances + 4 * t);
    const __m128 first_low =
        _mm_add_ps(_mm_unpacklo_ps(low, low), _mm_permute_ps(d, _MM_SHUFFLE(0, 2, 2, 0)));
    const __m128 other_low =
        _mm_add_ps(_mm_unpacklo_ps(high, high), _mm_permute_ps(d, _MM_SHUFFLE(2, 0, 0, 2)));
    const __m128 first_high =
        _mm_add_ps(_mm_unpackhi_ps(low, low), _mm_permute_ps(d, _MM_SHUFFLE(1, 3, 3, 1)));
    const __m128 other_high =
        _mm_add_ps(_mm_unpackhi_ps(high, high), _mm_permute_ps(d, _MM_SHUFFLE(3, 1, 1, 3)));
    const int chosen_low = _mm_movemask_ps(_mm_cmplt_ps(other_low, first_low));
    const int chosen_high = _mm_movemask_ps(_mm_cmplt_ps(other_high, first_high));
    chosen[t] = static_cast<uint8_t>(chosen_low | chosen_high << 4);
    low = _mm_min_ps(other_low, first_low);
    high = _mm_min_ps(other_high, first_high);
  }
  alignas(16) float metrics[kTrellisStates];
  _mm_store_ps(metrics, low);
  _mm_store_ps(metrics + 4, high);
  int state = 0;
  for (int s = 1; s < kTrellisStates; ++s) state = metrics[s] < metrics[state] ? s : state;
  return state;
}

/// Bit t % 64 of path[t / 64] becomes u of token t < count.
RILLKV_INLINE void trace_back(const uint8_t* chosen, int count, int state, uint64_t* path) {
  uint32_t at = static_cast<uint32_t>(state);
  int t = count - 1;
  for (int word = t / 64; word >= 0; --word) {
    uint64_t bits = 0;
    for (; t >= 64 * word; --t) {
      bits = bits << 1 | (at & 1);
      at = at >> 1 | (static_cast<uint32_t>(chosen[t]) << 2 >> at & 4);
    }
    path[word] = bits;
  }
}

}  // namespace
}  // namespace rillkv::kernels::cpu
