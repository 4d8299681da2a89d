// Scores of a single query row over a key block (avx512_decode.cpp has those of several, which
// share rotated keys). With one row it is cheaper never to form a rotated key:
//
//   q~ . R(t0 + j) (x, y) = c_j u + s_j w,   u = r1 x + r2 y,   w = r2 x - r1 y,   r = R(-t0) q~
//
// with R(j) = (c_j, s_j). u and w are sums of what each channel's code adds, and a code has 16
// values (beyond 4 bits: two fields of 16), so that one vpermd on a table made for this row and
// block gives both, as two words of a dword; vpdpwssd multiplies by (c_j, s_j) and adds. There is
// no product of keys and queries at all, and tokens come out in their natural order.
#pragma once

#include "kernels/cpu/avx512_decode_pairs.h"

namespace rillkv::kernels::cpu::avx512 {
namespace {

/// sum |(u, w)| times 2^15 stays below 2^31: of 65536, 64 pairs may lose 4 roundings of 1/2 in both
/// u and w, sqrt(2) 2 64 = 181.
constexpr float kMaxTurnedSum = 65300.0f;
constexpr float kMaxTurned = 32700.0f;  // of one pair, roundings included

template <int kD>
struct alignas(64) OneRowTables {
  static constexpr int kPairs = kD / 2;
  /// R(j): word 2 i of register k is the cosine of token 16 k + i, word 2 i + 1 its sine.
  int16_t turns[kPairs][kTokens / 16][32];
  /// What a pair's tables are made of: u and w of lo and of one step, of both channels.
  float lo_u1[kPairs], lo_w1[kPairs], lo_u2[kPairs], lo_w2[kPairs];
  float step_u1[kPairs], step_w1[kPairs], step_u2[kPairs], step_w2[kPairs];
};

template <int kD>
void start_one_row(const AttentionParams& params, OneRowTables<kD>& s) {
  const F one = _mm512_set1_ps(kFixedOne);
  for (int p = 0; p < kD / 2; ++p) {
    for (int k = 0; k < kTokens / 16; ++k) {
      const auto fixed = [&](const float* table) {
        return round_to_int(_mm512_mul_ps(_mm512_loadu_ps(table + p * kTokens + 16 * k), one));
      };
      _mm512_store_si512(s.turns[p][k], pack_words(fixed(params.rotations.in_block_cos),
                                                   fixed(params.rotations.in_block_sin)));
    }
  }
}

/// Fills the tables' parts; returns the unit of (u, w).
template <int kD>
float prepare_one_row(const uint8_t* block, const float* query, const float* rotation,
                      OneRowTables<kD>& s) {
  constexpr int kPairs = kD / 2, kVectors = kPairs / 16;
  const uint16_t* lo = reinterpret_cast<const uint16_t*>(block);
  const uint16_t* step =
      reinterpret_cast<const uint16_t*>(block + format::channel_step_offset(kD, false));
  const uint8_t* widths = block + format::channel_widths_offset(kD, false);
  F r1[kVectors], r2[kVectors], most = _mm512_setzero_ps(), total = most;
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) {
    const int i = 16 * v;
    turn_back<kPairs>(query, rotation, i, r1[v], r2[v]);
    const F codes = largest_codes(widths + i);
    const auto largest = [&](int channel) {  // of |lo + step code|
      const F first = Simd::load_half(lo + channel);
      const F last = _mm512_fmadd_ps(Simd::load_half(step + channel), codes, first);
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
    const auto store = [&](const uint16_t* of, float* u1, float* w1, float* u2, float* w2) {
      const F x = Simd::load_half(of + i), y = Simd::load_half(of + kPairs + i);
      _mm512_store_ps(u1 + i, _mm512_mul_ps(a, x));
      _mm512_store_ps(w1 + i, _mm512_mul_ps(b, x));
      _mm512_store_ps(u2 + i, _mm512_mul_ps(b, y));
      _mm512_store_ps(w2 + i, _mm512_sub_ps(_mm512_setzero_ps(), _mm512_mul_ps(a, y)));
    };
    store(lo, s.lo_u1, s.lo_w1, s.lo_u2, s.lo_w2);
    store(step, s.step_u1, s.step_w1, s.step_u2, s.step_w2);
  }
  return unit;
}

/// Adds the pairs of one width to the sums of 8 x 16 tokens.
template <int kD, int kWidth>
RILLKV_INLINE void add_turned_pairs(const PairSets& sets, const BlockPlanes& planes,
                                    Prefetch& ahead, const OneRowTables<kD>& s, I (&sums)[8]) {
  const F codes = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const F high_codes = _mm512_mul_ps(codes, _mm512_set1_ps(kHighStep<kWidth>));
  for_each_pair<kWidth>(
      sets, planes, ahead, [&](int p, const PairCodes& pair) __attribute__((always_inline)) {
        const auto affine = [&](F code, float lo_u, float lo_w, float step_u, float step_w) {
          return pack_words(
              round_to_int(_mm512_fmadd_ps(code, _mm512_set1_ps(step_u), _mm512_set1_ps(lo_u))),
              round_to_int(_mm512_fmadd_ps(code, _mm512_set1_ps(step_w), _mm512_set1_ps(lo_w))));
        };
        const I table1 = affine(high_codes, s.lo_u1[p], s.lo_w1[p], s.step_u1[p], s.step_w1[p]);
        const I table2 = affine(high_codes, s.lo_u2[p], s.lo_w2[p], s.step_u2[p], s.step_w2[p]);
        I rest1 = _mm512_setzero_si512(), rest2 = rest1;
        if constexpr (kWidth > 4) {
          rest1 = affine(codes, 0.0f, 0.0f, s.step_u1[p], s.step_w1[p]);
          rest2 = affine(codes, 0.0f, 0.0f, s.step_u2[p], s.step_w2[p]);
        }
#pragma GCC unroll 8
        for (int k = 0; k < 8; ++k) {
          const auto field = [&](I of) __attribute__((always_inline)) {
            return k == 0 ? of : _mm512_srli_epi32(of, static_cast<unsigned>(4 * k));
          };
          I turned = _mm512_add_epi16(_mm512_permutexvar_epi32(field(pair.high1), table1),
                                      _mm512_permutexvar_epi32(field(pair.high2), table2));
          if constexpr (kWidth > 4) {
            turned = _mm512_add_epi16(
                turned, _mm512_add_epi16(_mm512_permutexvar_epi32(field(pair.low1), rest1),
                                         _mm512_permutexvar_epi32(field(pair.low2), rest2)));
          }
          sums[k] = _mm512_dpwssd_epi32(sums[k], turned, _mm512_load_si512(s.turns[p][k]));
        }
      });
}

/// Scores of a row to p, in log2 units.
template <int kD>
void score_one_row(const uint8_t* block, const float* rotation, const PairSets& sets,
                   const uint8_t* next_block, const float* query, OneRowTables<kD>& s, float* p) {
  const float unit = prepare_one_row<kD>(block, query, rotation, s);
  const BlockPlanes planes(block + format::channel_codes_offset(kD, false), sets);
  Prefetch ahead(next_block, static_cast<size_t>(planes.end - block), kD / 2);
  I sums[8];
#pragma GCC unroll 8
  for (int k = 0; k < 8; ++k) sums[k] = _mm512_setzero_si512();
  add_turned_pairs<kD, 1>(sets, planes, ahead, s, sums);
  add_turned_pairs<kD, 2>(sets, planes, ahead, s, sums);
  add_turned_pairs<kD, 3>(sets, planes, ahead, s, sums);
  add_turned_pairs<kD, 4>(sets, planes, ahead, s, sums);
  add_turned_pairs<kD, 5>(sets, planes, ahead, s, sums);
  add_turned_pairs<kD, 6>(sets, planes, ahead, s, sums);
  add_turned_pairs<kD, 7>(sets, planes, ahead, s, sums);
  add_turned_pairs<kD, 8>(sets, planes, ahead, s, sums);
  const F factor = _mm512_set1_ps(unit / kFixedOne);
#pragma GCC unroll 8
  for (int k = 0; k < 8; ++k) {
    _mm512_store_ps(p + 16 * k, _mm512_mul_ps(factor, _mm512_cvtepi32_ps(sums[k])));
  }
}

}  // namespace
}  // namespace rillkv::kernels::cpu::avx512
