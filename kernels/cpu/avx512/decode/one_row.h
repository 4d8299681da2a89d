// Scores of a single query row over a key block (several_rows.h has those of several, which
// share rotated keys). With one row it is cheaper never to form a rotated key:
//
//   q~ . R(t0 + j) (x, y) = c_j u + s_j w,   u = r1 x + r2 y,   w = r2 x - r1 y,   r = R(-t0) q~
//
// with R(j) = (c_j, s_j). u and w are sums of what each channel's code adds, as two words of a
// dword: of up to 4 bits one vpermd on a table of 16 made for this row and block, beyond one
// vpmulhrsw. vpdpwssd multiplies by (c_j, s_j) and adds. There is no product of keys and queries at
// all, and tokens come out in their natural order.
#pragma once

#include <cstdint>

#include "kernels/cpu/avx512/decode/pairs.h"
#include "kernels/cpu/generic/with_dtype.h"

namespace rillkv::kernels::cpu::avx512 {
namespace {

/// sum |(u, w)| times 2^15 stays below 2^31: of 65536, 64 pairs may lose 5 roundings of 1/2 in both
/// u and w, sqrt(2) 2.5 64 = 227.
constexpr float kMaxTurnedSum = 65300.0f;
/// Of one pair, a word. So is what half the range of one channel adds, at most 16 / 15.5 as much.
constexpr float kMaxTurned = 31600.0f;

template <int kD>
struct alignas(64) OneRowTables {
  static constexpr int kPairs = kD / 2;
  /// (u, w) as words: of the channels' centres, and what half a range of each channel adds.
  int32_t centre[kPairs], first[kPairs], second[kPairs];
};

/// Fills the tables' parts; returns the unit of (u, w).
template <int kD, class Keys>
float prepare_one_row(const Keys& keys, const float* query, const float* rotation,
                      OneRowTables<kD>& s) {
  constexpr int kPairs = kD / 2, kVectors = kPairs / 16;
  F r1[kVectors], r2[kVectors], most = _mm512_setzero_ps(), total = most;
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) {
    const int i = 16 * v;
    turn_back<kPairs>(query, rotation, i, r1[v], r2[v]);
    const F codes = keys.largest_codes(i);
    const auto largest = [&](int channel) {  // of |lo + step code|
      const F first = keys.lo(channel);
      const F last = _mm512_fmadd_ps(keys.step(channel), codes, first);
      return _mm512_max_ps(_mm512_abs_ps(first), _mm512_abs_ps(last));
    };
    const F x = largest(i), y = largest(kPairs + i);
    const F rr = _mm512_fmadd_ps(r1[v], r1[v], _mm512_mul_ps(r2[v], r2[v]));
    const F kk = _mm512_fmadd_ps(x, x, _mm512_mul_ps(y, y));
    const F norm = _mm512_sqrt_ps(_mm512_mul_ps(rr, kk));  // |(u, w)| <= |r| |(x, y)|
    most = _mm512_max_ps(most, norm);
    total = _mm512_add_ps(total, norm);
  }
  const float unit = unit_for(most, total, kMaxTurned, kMaxTurnedSum);
  const F inverse = inverse_unit(unit);
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) {
    const int i = 16 * v;
    const F a = _mm512_mul_ps(r1[v], inverse), b = _mm512_mul_ps(r2[v], inverse);
    const F half = half_the_codes(keys.largest_codes(i));
    const F range1 = _mm512_mul_ps(half, keys.step(i));
    const F range2 = _mm512_mul_ps(half, keys.step(kPairs + i));
    const F x = _mm512_add_ps(range1, keys.lo(i));
    const F y = _mm512_add_ps(range2, keys.lo(kPairs + i));
    const auto store = [&](F u, F w, int32_t* to) {
      _mm512_store_si512(to + i, pack_words(round_to_int(u), round_to_int(w)));
    };
    store(_mm512_fmadd_ps(a, x, _mm512_mul_ps(b, y)), _mm512_fmsub_ps(b, x, _mm512_mul_ps(a, y)),
          s.centre);
    store(_mm512_mul_ps(a, range1), _mm512_mul_ps(b, range1), s.first);
    store(_mm512_mul_ps(b, range2), _mm512_fnmadd_ps(a, range2, _mm512_setzero_ps()), s.second);
  }
  return unit;
}

/// 2^15 z of the tokens 16 k + i, in both words of lane i.
template <int kWidth>
RILLKV_INLINE I repeated_words(const SignedCodes<kWidth>& codes, int k) {
  const int byte = 0x00800080 + k / 2 * 0x01000100;
  return _mm512_shuffle_epi8(
      k % 2 == 0 ? codes.even : codes.odd,
      _mm512_set4_epi32(byte + 0x0C000C00, byte + 0x08000800, byte + 0x04000400, byte));
}

/// Adds the pairs of one width to the sums of 8 x 16 tokens.
template <int kD, int kWidth, class Keys>
RILLKV_INLINE void add_turned_pairs(const Keys& keys, Ahead& ahead, const OneRowTables<kD>& s,
                                    const int16_t* turns, I (&sums)[8]) {
  for_each_pair<kWidth>(
      keys, ahead, [&](int p, const PairCodes& pair) __attribute__((always_inline)) {
        const I centre = _mm512_set1_epi32(s.centre[p]);
        const I first = _mm512_set1_epi32(s.first[p]), second = _mm512_set1_epi32(s.second[p]);
        const int16_t* turn = turns + p * (2 * kTokens);
        if constexpr (kWidth <= 4) {
          const I z = table_of_words<kWidth>();
          const I x = _mm512_add_epi16(centre, _mm512_mulhrs_epi16(z, first));
          const I y = _mm512_mulhrs_epi16(z, second);
#pragma GCC unroll 8
          for (int k = 0; k < 8; ++k) {
            const auto field = [&](I of) __attribute__((always_inline)) {
              return k == 0 ? of : _mm512_srli_epi32(of, static_cast<unsigned>(4 * k));
            };
            const I turned = _mm512_add_epi16(_mm512_permutexvar_epi32(field(pair.high1), x),
                                              _mm512_permutexvar_epi32(field(pair.high2), y));
            add_products(sums[k], turned, turn + 32 * k);
          }
        } else if constexpr (kWidth == 5 && Keys::kIndexed) {
          const auto [z0, z1] = tables_of_16_dwords();
          const I x0 = _mm512_add_epi16(centre, _mm512_mulhrs_epi16(z0, first));
          const I x1 = _mm512_add_epi16(centre, _mm512_mulhrs_epi16(z1, first));
          const I y0 = _mm512_mulhrs_epi16(z0, second), y1 = _mm512_mulhrs_epi16(z1, second);
#pragma GCC unroll 8
          for (int k = 0; k < 8; ++k) {
            const auto field = [&](I even, I odd) __attribute__((always_inline)) {
              const I bytes = k % 2 == 0 ? even : odd;
              return k < 2 ? bytes : _mm512_srli_epi32(bytes, static_cast<unsigned>(k / 2 * 8));
            };
            const I turned =
                _mm512_add_epi16(_mm512_permutex2var_epi32(x0, field(pair.high1, pair.low1), x1),
                                 _mm512_permutex2var_epi32(y0, field(pair.high2, pair.low2), y1));
            add_products(sums[k], turned, turn + 32 * k);
          }
        } else {
          const SignedCodes<kWidth> x(pair.high1, pair.low1), y(pair.high2, pair.low2);
#pragma GCC unroll 8
          for (int k = 0; k < 8; ++k) {
            const I turned = _mm512_add_epi16(
                _mm512_add_epi16(centre, _mm512_mulhrs_epi16(repeated_words(x, k), first)),
                _mm512_mulhrs_epi16(repeated_words(y, k), second));
            add_products(sums[k], turned, turn + 32 * k);
          }
        }
      });
}

template <int kD, int kWidth, class Keys>
__attribute__((noinline)) void add_turned_pairs_apart(const Keys& keys, Ahead& ahead,
                                                      const OneRowTables<kD>& s,
                                                      const int16_t* turns, I (&sums)[8]) {
  I here[8];
#pragma GCC unroll 8
  for (int k = 0; k < 8; ++k) here[k] = sums[k];
  add_turned_pairs<kD, kWidth>(keys, ahead, s, turns, here);
#pragma GCC unroll 8
  for (int k = 0; k < 8; ++k) sums[k] = here[k];
}

/// Scores of a row to p, in log2 units. `turns` is AttentionParams::in_block_fixed.
template <int kD, class Keys>
void score_one_row(const Keys& keys, const float* rotation, const int16_t* turns, Ahead& ahead,
                   const float* query, OneRowTables<kD>& s, float* p) {
  const float unit = prepare_one_row<kD>(keys, query, rotation, s);
  I sums[8];
#pragma GCC unroll 8
  for (int k = 0; k < 8; ++k) sums[k] = _mm512_setzero_si512();
  for_each_width([&](auto width) __attribute__((always_inline)) {
    if constexpr (Keys::kApart) {
      if (keys.pairs_of(width) != 0) {
        add_turned_pairs_apart<kD, width>(keys, ahead, s, turns, sums);
      }
    } else {
      add_turned_pairs<kD, width>(keys, ahead, s, turns, sums);
    }
  });
  const F factor = _mm512_set1_ps(unit / kFixedOne);
#pragma GCC unroll 8
  for (int k = 0; k < 8; ++k) {
    _mm512_store_ps(p + 16 * k, _mm512_mul_ps(factor, _mm512_cvtepi32_ps(sums[k])));
  }
}

}  // namespace
}  // namespace rillkv::kernels::cpu::avx512
