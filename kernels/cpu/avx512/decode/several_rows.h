// Scores of several query rows over a key block (one_row.h has those of one): a pair's channels
// become 16-bit integers (lo + step code) in a unit of the pair, are rotated within the block by
// R(j) in 16-bit fixed point and brought together, both channels of a token in one dword. R(t0)
// goes to the queries: r = R(-t0) q~, rounded to 16 bits in a unit of the row and block, so that
// one vpdpwssd adds a pair of 16 tokens. The unit of r bounds sum |r_p| so that no sum leaves 32
// bits. Two or three rows add as keys are rotated, with all sums in registers; more read the keys
// from a tile of the block.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/avx512/decode/decode.h"
#include "kernels/cpu/avx512/decode/pairs.h"
#include "kernels/cpu/generic/with_dtype.h"

namespace rillkv::kernels::cpu::avx512 {
namespace {

constexpr int kMaxRows = StreamedDecode::kMaxRows;
constexpr int kRowsAtOnce = 2;            // from the tile
constexpr float kMaxKey = 23000.0f;       // times sqrt(2), what a rotation may make of it, < 2^15
constexpr float kMaxQuery = 32700.0f;     // of one coefficient
constexpr float kMaxQuerySum = 65000.0f;  // times 2^15 stays below 2^31, roundings included

/// Of several rows: what a task keeps between blocks, and the tiles of the block at hand.
template <int kD>
struct alignas(64) SharedTiles {
  static constexpr int kPairs = kD / 2;
  /// R(j) in fixed point: word 2 i of register k is token 16 k + i, word 2 i + 1 token 64 beyond.
  int16_t cosines[kPairs][4][32];
  int16_t sines[kPairs][4][32];
  union {
    /// (x, y) of a pair's tokens: see finish_scores for their order.
    int32_t keys[kPairs][8][16];
    /// Codes, four tokens a dword: [side][token / 4][register][byte], see unpack_values.
    uint8_t values[kTokens * kD];
  };
  // Keys of the block, in the pair's unit: see table_of_words, in both words of a dword.
  int32_t centre[kD], range[kD];
  float unit[kPairs];
  int32_t coefficients[kMaxRows][kPairs];  // (r_p, r_p') as words
};

/// Centres and ranges of all channels, in units that make the pair's largest value kMaxKey.
template <int kD, class Keys>
void prepare_keys(const Keys& keys, SharedTiles<kD>& s) {
  constexpr int kPairs = kD / 2;
  for (int i = 0; i < kPairs; i += 16) {
    const F codes = keys.largest_codes(i);
    const F lo1 = keys.lo(i), lo2 = keys.lo(kPairs + i);
    const F step1 = keys.step(i), step2 = keys.step(kPairs + i);
    F most = _mm512_max_ps(_mm512_abs_ps(lo1), _mm512_abs_ps(lo2));
    most = _mm512_max_ps(most, _mm512_abs_ps(_mm512_fmadd_ps(step1, codes, lo1)));
    most = _mm512_max_ps(most, _mm512_abs_ps(_mm512_fmadd_ps(step2, codes, lo2)));
    const F inverse = _mm512_maskz_div_ps(_mm512_cmp_ps_mask(most, _mm512_setzero_ps(), _CMP_GT_OQ),
                                          _mm512_set1_ps(kMaxKey), most);
    const F half = _mm512_mul_ps(half_the_codes(codes), inverse);
    const auto store = [&](int channel, F lo_of, F step_of) {
      const F range = _mm512_mul_ps(step_of, half);
      const I words = round_to_int(range);
      const I centres = round_to_int(_mm512_fmadd_ps(lo_of, inverse, range));
      _mm512_store_si512(s.range + channel, pack_words(words, words));
      _mm512_store_si512(s.centre + channel, pack_words(centres, centres));
    };
    store(i, lo1, step1);
    store(kPairs + i, lo2, step2);
    _mm512_store_ps(s.unit + i, _mm512_mul_ps(most, _mm512_set1_ps(1.0f / kMaxKey)));
  }
}

/// r = R(-t0) q~ times the pairs' units, as words; returns their own unit.
template <int kD>
float prepare_query(const float* query, const float* rotation, const float* unit,
                    int32_t* coefficients) {
  constexpr int kPairs = kD / 2, kVectors = kPairs / 16;
  F r1[kVectors], r2[kVectors], most = _mm512_setzero_ps(), total = most;
#pragma GCC unroll 4
  for (int i = 0; i < kVectors; ++i) {
    const F u = _mm512_load_ps(unit + 16 * i);
    turn_back<kPairs>(query, rotation, 16 * i, r1[i], r2[i]);
    r1[i] = _mm512_mul_ps(u, r1[i]);
    r2[i] = _mm512_mul_ps(u, r2[i]);
    const F norm = _mm512_sqrt_ps(_mm512_fmadd_ps(r1[i], r1[i], _mm512_mul_ps(r2[i], r2[i])));
    most = _mm512_max_ps(most, norm);
    total = _mm512_add_ps(total, norm);
  }
  const float result = unit_for(most, total, kMaxQuery, kMaxQuerySum);
  const F inverse = inverse_unit(result);
#pragma GCC unroll 4
  for (int i = 0; i < kVectors; ++i) {
    _mm512_storeu_si512(coefficients + 16 * i,
                        pack_words(round_to_int(_mm512_mul_ps(r1[i], inverse)),
                                   round_to_int(_mm512_mul_ps(r2[i], inverse))));
  }
  return result;
}

/// The values of a channel's tokens as words; those of kField = k are the tokens 16 k + i and, in
/// the upper words, 64 + 16 k + i.
template <int kWidth, bool kIndexed>
class ChannelValues {
 public:
  RILLKV_INLINE ChannelValues(I high, I low, int32_t centre, int32_t range)
      : codes_(high, low), centre_(_mm512_set1_epi32(centre)), range_(_mm512_set1_epi32(range)) {}

  template <int kField>
  RILLKV_INLINE I get() const {
    const I bytes = kField % 2 == 0 ? codes_.even : codes_.odd;
    const I words =
        kField < 2 ? _mm512_slli_epi16(bytes, 8) : _mm512_and_si512(bytes, _mm512_set1_epi16(-256));
    return _mm512_add_epi16(centre_, _mm512_mulhrs_epi16(words, range_));
  }

 private:
  SignedCodes<kWidth> codes_;
  I centre_, range_;
};
template <int kWidth, bool kIndexed>
requires(kWidth <= 4) class ChannelValues<kWidth, kIndexed> {
 public:
  RILLKV_INLINE ChannelValues(I high, I, int32_t centre, int32_t range)
      : codes_(high),
        table_(_mm512_add_epi16(
            _mm512_set1_epi32(centre),
            _mm512_mulhrs_epi16(table_of_words<kWidth>(), _mm512_set1_epi32(range)))) {}

  /// A code is found at bits 1..4 of its word, because the table has every entry twice.
  template <int kField>
  RILLKV_INLINE I get() const {
    const I index = kField == 0 ? _mm512_slli_epi16(codes_, 1)
                                : _mm512_srli_epi16(codes_, kField == 0 ? 0 : 4 * kField - 1);
    return _mm512_permutexvar_epi16(index, table_);
  }

 private:
  I codes_, table_;
};

template <>
class ChannelValues<5, true> {
 public:
  RILLKV_INLINE ChannelValues(I even, I odd, int32_t centre, int32_t range)
      : even_(even),
        odd_(odd),
        table_(
            _mm512_add_epi16(_mm512_set1_epi32(centre),
                             _mm512_mulhrs_epi16(table_of_32_words(), _mm512_set1_epi32(range)))) {}

  template <int kField>
  RILLKV_INLINE I get() const {
    const I bytes = kField % 2 == 0 ? even_ : odd_;
    return _mm512_permutexvar_epi16(kField < 2 ? bytes : _mm512_srli_epi16(bytes, 8), table_);
  }

 private:
  I even_, odd_, table_;
};

/// Looks up and rotates the pairs of one width: use<register>(pair, keys) gets the (x, y) of 16
/// tokens; see store_scores for which.
template <int kD, int kWidth, class Keys, class Use>
RILLKV_INLINE void rotate_pairs(const Keys& keys, Ahead& ahead, const SharedTiles<kD>& s,
                                const Use& use) {
  for_each_pair<kWidth>(
      keys, ahead, [&](int p, const PairCodes& codes) __attribute__((always_inline)) {
        const int q = p + kD / 2;
        const ChannelValues<kWidth, kWidth == 5 && Keys::kIndexed> first(codes.high1, codes.low1,
                                                                         s.centre[p], s.range[p]);
        const ChannelValues<kWidth, kWidth == 5 && Keys::kIndexed> second(codes.high2, codes.low2,
                                                                          s.centre[q], s.range[q]);
        const auto add_field = [&]<int kField>() __attribute__((always_inline)) {
          const I x = first.template get<kField>(), y = second.template get<kField>();
          const I c = _mm512_load_si512(s.cosines[p][kField]);
          const I sine = _mm512_load_si512(s.sines[p][kField]);
          const I turned_x =
              _mm512_sub_epi16(_mm512_mulhrs_epi16(x, c), _mm512_mulhrs_epi16(y, sine));
          const I turned_y =
              _mm512_add_epi16(_mm512_mulhrs_epi16(y, c), _mm512_mulhrs_epi16(x, sine));
          use.template operator()<2 * kField>(p, _mm512_unpacklo_epi16(turned_x, turned_y));
          use.template operator()<2 * kField + 1>(p, _mm512_unpackhi_epi16(turned_x, turned_y));
        };
        add_field.template operator()<0>();
        add_field.template operator()<1>();
        add_field.template operator()<2>();
        add_field.template operator()<3>();
      });
}
template <int kD, class Keys, class Use>
RILLKV_INLINE void rotate_all_pairs(const Keys& keys, Ahead& ahead, const SharedTiles<kD>& s,
                                    const Use& use) {
  for_each_width([&](auto width) __attribute__((always_inline)) {
    rotate_pairs<kD, width>(keys, ahead, s, use);
  });
}

/// Sums of 32 tokens to scores. Registers 2 k and 2 k + 1 hold the tokens 16 k .. and 64 + 16 k ..
/// interleaved: lane 4 l + 2 a + b of register 2 k + h is 64 b + 16 k + 4 l + 2 h + a.
RILLKV_INLINE void store_scores(I a, I b, F factor, float* scores) {
  const I first = _mm512_setr_epi32(0, 2, 16, 18, 4, 6, 20, 22, 8, 10, 24, 26, 12, 14, 28, 30);
  const I second = _mm512_add_epi32(first, _mm512_set1_epi32(1));
  const auto to_float = [&](I order) __attribute__((always_inline)) {
    return _mm512_mul_ps(factor, _mm512_cvtepi32_ps(_mm512_permutex2var_epi32(a, order, b)));
  };
  _mm512_store_ps(scores, to_float(first));
  _mm512_store_ps(scores + 64, to_float(second));
}

template <int R>
RILLKV_INLINE void clear_sums(I (&sum)[R][8]) {
#pragma GCC unroll 3
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) sum[r][i] = _mm512_setzero_si512();
  }
}

/// Sums of the rows from `row` on to their scores in p.
template <int R>
RILLKV_INLINE void finish_scores(const I (&sum)[R][8], int row, const float* units,
                                 float (*p)[kTokens]) {
#pragma GCC unroll 3
  for (int r = 0; r < R; ++r) {
    const F factor = _mm512_set1_ps(units[row + r] * (32768.0f / kFixedOne));
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
      store_scores(sum[r][2 * k], sum[r][2 * k + 1], factor, p[row + r] + 16 * k);
    }
  }
}

/// Scores of R rows from the tile of keys.
template <int kD, int R>
void score_rows(const SharedTiles<kD>& s, int row, const float* units, float (*p)[kTokens]) {
  I sum[R][8];
  clear_sums<R>(sum);
  for (int pair = 0; pair < kD / 2; ++pair) {
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      const I x = _mm512_load_si512(s.keys[pair][i]);
#pragma GCC unroll 2
      for (int r = 0; r < R; ++r) add_products(sum[r][i], x, s.coefficients[row + r][pair]);
    }
  }
  finish_scores<R>(sum, row, units, p);
}

/// Scores of all R rows without the tile, while there are registers for their sums.
template <int kD, int R, class Keys>
void score_rows_at_once(const Keys& keys, Ahead& next, const SharedTiles<kD>& s, const float* units,
                        float (*p)[kTokens]) {
  I sum[R][8];
  clear_sums<R>(sum);
  rotate_all_pairs<kD>(
      keys, next, s, [&]<int i>(int pair, I x) __attribute__((always_inline)) {
#pragma GCC unroll 3
        for (int r = 0; r < R; ++r) {
          add_products(sum[r][i], x, s.coefficients[r][pair]);
        }
      });
  finish_scores<R>(sum, 0, units, p);
}

/// Scores of all rows to p, in log2 units.
template <int kD, class Keys>
void score_block(const Keys& keys, const float* rotation, Ahead& next, const StreamedRows& rows,
                 SharedTiles<kD>& s, float (*p)[kTokens]) {
  prepare_keys<kD>(keys, s);
  float units[kMaxRows];
  for (int r = 0; r < rows.count; ++r) {
    units[r] = prepare_query<kD>(rows.queries + static_cast<size_t>(r) * rows.query_stride,
                                 rotation, s.unit, s.coefficients[r]);
  }
  if (rows.count == 2) return score_rows_at_once<kD, 2>(keys, next, s, units, p);
  if (rows.count == 3) return score_rows_at_once<kD, 3>(keys, next, s, units, p);
  rotate_all_pairs<kD>(
      keys, next, s, [&]<int i>(int pair, I x) __attribute__((always_inline)) {
        _mm512_store_si512(s.keys[pair][i], x);
      });
  for (int r = 0; r < rows.count; r += kRowsAtOnce) {
    const auto score =
        rows.count - r >= kRowsAtOnce ? score_rows<kD, kRowsAtOnce> : score_rows<kD, 1>;
    score(s, r, units, p);
  }
}

/// R(j) in fixed point, once a task.
template <int kD>
void prepare_turns(const AttentionParams& params, SharedTiles<kD>& s) {
  const F one = _mm512_set1_ps(kFixedOne);
  for (int p = 0; p < kD / 2; ++p) {
    const auto convert = [&](const float* from, int16_t(&to)[4][32]) {
      for (int k = 0; k < 4; ++k) {
        const F a = _mm512_loadu_ps(from + 16 * k), b = _mm512_loadu_ps(from + 64 + 16 * k);
        _mm512_store_si512(to[k], pack_words(round_to_int(_mm512_mul_ps(a, one)),
                                             round_to_int(_mm512_mul_ps(b, one))));
      }
    };
    convert(params.rotations.in_block_cos + p * kTokens, s.cosines[p]);
    convert(params.rotations.in_block_sin + p * kTokens, s.sines[p]);
  }
}

}  // namespace
}  // namespace rillkv::kernels::cpu::avx512
