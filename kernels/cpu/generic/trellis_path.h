// The trellis search of rows in registers of four dwords. trellis.h defines the search. Included
// by files compiled for AVX.
//
// Metrics are not negative, so their bits compare as integers, at a latency of 1 instead of 2. A
// token is a chain of a shuffle, an addition and a minimum, and what the order of the states leaves
// to shuffle is free:
//
//   low:  states 0 1 3 2    high: states 7 6 4 5        labels 0 .. 7
//
//   state n is reached   from n / 2                by subset   from n / 2 + 4              by
//   low     0 1 3 2      0 0 1 1  unpacklo(low)    0 2 0 2     4 4 5 5  unpackhi(high)     2 0 2 0
//   high    7 6 4 5      3 3 2 2  unpackhi(low)    1 3 1 3     7 7 6 6  unpacklo(high)     3 1 3 1
//
// Tracing back is a chain of byte shuffles: a token's map takes each label to its predecessor's, or
// that XOR 6 for the second predecessor. The parity of a label is u, and bit 6 of a map's bytes,
// which the shuffle ignores, carries it along.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/generic/inline.h"
#include "kernels/cpu/generic/scales.h"
#include "kernels/trellis.h"

namespace rillkv::kernels::cpu {
namespace {

/// The subsets in the order in which advance_states takes their distances.
inline constexpr float kDistanceSubsets[4] = {0.0f, 2.0f, 1.0f, 3.0f};

/// A row's search: distances: [count][4] d_0 d_2 d_1 d_3, 16-byte aligned; second: [count][8] out,
/// all bits set where a label is best reached from the second predecessor; label: of the last
/// token's state of least metric.
struct RowSearch {
  const float* distances;
  __m128i* second;
  int label;
};

/// Several rows side by side: the tokens of one row are a chain whose latencies the others fill.
template <int kRows>
RILLKV_INLINE void advance_states(RowSearch (&rows)[kRows], int count) {
  const auto bits = [](__m128 x) { return _mm_castps_si128(x); };
  const auto pair = [](const float* p) {
    return _mm_castpd_ps(_mm_loaddup_pd(reinterpret_cast<const double*>(p)));
  };
  __m128 low[kRows], high[kRows];
  for (int r = 0; r < kRows; ++r) {
    low[r] = _mm_setr_ps(0.0f, kUnreached, kUnreached, kUnreached);
    high[r] = _mm_set1_ps(kUnreached);
  }
  for (int t = 0; t < count; ++t) {
#pragma GCC unroll 2
    for (int r = 0; r < kRows; ++r) {
      const float* distances = rows[r].distances + 4 * t;
      const __m128 d = _mm_load_ps(distances);
      const __m128i first_low = bits(_mm_add_ps(_mm_unpacklo_ps(low[r], low[r]), pair(distances)));
      const __m128i first_high =
          bits(_mm_add_ps(_mm_unpackhi_ps(low[r], low[r]), pair(distances + 2)));
      const __m128i other_low = bits(_mm_add_ps(_mm_unpackhi_ps(high[r], high[r]),
                                                _mm_permute_ps(d, _MM_SHUFFLE(0, 1, 0, 1))));
      const __m128i other_high = bits(_mm_add_ps(_mm_unpacklo_ps(high[r], high[r]),
                                                 _mm_permute_ps(d, _MM_SHUFFLE(2, 3, 2, 3))));
      rows[r].second[t] = _mm_packs_epi32(_mm_cmpgt_epi32(first_low, other_low),
                                          _mm_cmpgt_epi32(first_high, other_high));
      low[r] = _mm_castsi128_ps(_mm_min_epi32(first_low, other_low));
      high[r] = _mm_castsi128_ps(_mm_min_epi32(first_high, other_high));
    }
  }
  constexpr int kLabels[kTrellisStates] = {0, 1, 3, 2, 6, 7, 5, 4};  // of state s
  for (int r = 0; r < kRows; ++r) {
    alignas(16) float metrics[kTrellisStates];
    _mm_store_ps(metrics, low[r]);
    _mm_store_ps(metrics + 4, high[r]);
    int label = 0;
    for (int s = 1; s < kTrellisStates; ++s) {
      label = metrics[kLabels[s]] < metrics[label] ? kLabels[s] : label;
    }
    rows[r].label = label;
  }
}

/// Bit t % 64 of path[r][t / 64] becomes u of token t < count of row r; the other bits, up to the
/// next multiple of 16 tokens, 0.
template <int kRows>
RILLKV_INLINE void trace_back(const RowSearch (&rows)[kRows], int count,
                              uint64_t* const (&path)[kRows]) {
  alignas(16) uint8_t storage[kRows][16 + kMaxBlockSize] = {};
  const auto with_parity = [](int x) { return x | ((x ^ x >> 1 ^ x >> 2) & 1) << 6; };
  const __m128i first = _mm_setr_epi8(0, 0, 0x41, 0x41, 0x42, 0x42, 3, 3, 0, 0, 0, 0, 0, 0, 0, 0);
  const __m128i six = _mm_set1_epi8(6);
  __m128i at[kRows];
  for (int r = 0; r < kRows; ++r) {
    at[r] = _mm_set1_epi8(static_cast<char>(with_parity(rows[r].label)));
  }
  for (int t = count - 1; t >= 0; --t) {
#pragma GCC unroll 2
    for (int r = 0; r < kRows; ++r) {
      // The label's byte goes to that of token t; the three before it are written again.
      _mm_storeu_si32(storage[r] + 16 + t - 3, at[r]);
      const __m128i second = rows[r].second[t];
      const __m128i map = _mm_xor_si128(_mm_and_si128(_mm_packs_epi16(second, second), six), first);
      at[r] = _mm_shuffle_epi8(map, at[r]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int t = 0; t < count; t += 16) {
      const auto* labels = reinterpret_cast<const __m128i*>(storage[r] + 16 + t);
      const __m128i parity = _mm_slli_epi16(_mm_load_si128(labels), 1);
      const auto sixteen = static_cast<uint64_t>(_mm_movemask_epi8(parity));
      path[r][t / 64] = (t % 64 == 0 ? 0 : path[r][t / 64]) | sixteen << t % 64;
    }
  }
}

}  // namespace
}  // namespace rillkv::kernels::cpu
