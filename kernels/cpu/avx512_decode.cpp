// Decode attention of a few query rows that share a kv head (the heads of its group) over sealed
// blocks of 128 tokens, D = 64 or 128, in integers, straight from the packed codes.
//
// Keys, of one row: avx512_decode_one_row.h. Of several: a pair's channels become 16-bit integers
// (lo + step code) in a unit of the pair, are rotated within the block by R(j) in 16-bit fixed
// point and brought together, both channels of a token in one dword. R(t0) goes to the queries: r =
// R(-t0) q~, rounded to 16 bits in a unit of the row and block, so that one vpdpwssd adds a pair of
// 16 tokens. The unit of r bounds sum |r_p| so that no sum leaves 32 bits. Two or three rows add as
// keys are rotated, with all sums in registers; more read the keys from a tile of the block.
//
// Values: avx512_decode_values.h. Both halves are held to the error of bf16 code (decode_test.cpp).
//
// Memory. Blocks are visited in the order of the tables and the next is fetched beside the work on
// one (Ahead); without it cold decode takes twice as long.
#include "kernels/cpu/avx512_decode.h"

#include "kernels/cpu/avx512_decode_one_row.h"
#include "kernels/cpu/avx512_decode_pairs.h"
#include "kernels/cpu/avx512_decode_values.h"

namespace rillkv::kernels::cpu::avx512 {
namespace {

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
  int32_t coefficients[kMaxStreamedRows][kPairs];  // (r_p, r_p') as words
};

template <int kD>
struct alignas(64) Scratch {
  union {
    SharedTiles<kD> shared;
    OneRowTables<kD> one;
  };
  float p[kMaxStreamedRows][kTokens];
  ValueWeights weights[kMaxStreamedRows];
};

/// Centres and ranges of all channels, in units that make the pair's largest value kMaxKey.
template <int kD>
void prepare_keys(const uint8_t* block, SharedTiles<kD>& s) {
  constexpr int kPairs = kD / 2;
  const uint16_t* lo = reinterpret_cast<const uint16_t*>(block);
  const uint16_t* step =
      reinterpret_cast<const uint16_t*>(block + format::channel_step_offset(kD, false));
  const uint8_t* widths = block + format::channel_widths_offset(kD, false);
  for (int i = 0; i < kPairs; i += 16) {
    const F codes = largest_codes(widths + i);
    const F lo1 = Simd::load_half(lo + i), lo2 = Simd::load_half(lo + kPairs + i);
    const F step1 = Simd::load_half(step + i), step2 = Simd::load_half(step + kPairs + i);
    F most = _mm512_max_ps(_mm512_abs_ps(lo1), _mm512_abs_ps(lo2));
    most = _mm512_max_ps(most, _mm512_abs_ps(_mm512_fmadd_ps(step1, codes, lo1)));
    most = _mm512_max_ps(most, _mm512_abs_ps(_mm512_fmadd_ps(step2, codes, lo2)));
    const F inverse = _mm512_maskz_div_ps(_mm512_cmp_ps_mask(most, _mm512_setzero_ps(), _CMP_GT_OQ),
                                          _mm512_set1_ps(kMaxKey), most);
    const F half = _mm512_mul_ps(half_the_codes(widths + i), inverse);
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
template <int kWidth>
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
template <int kWidth>
requires(kWidth <= 4) class ChannelValues<kWidth> {
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

/// Looks up and rotates the pairs of one width: use<register>(pair, keys) gets the (x, y) of 16
/// tokens; see store_scores for which.
template <int kD, int kWidth, class Use>
RILLKV_INLINE void rotate_pairs(const PairSets& sets, const BlockPlanes& planes, Ahead& ahead,
                                const SharedTiles<kD>& s, const Use& use) {
  for_each_pair<kWidth>(
      sets, planes, ahead, [&](int p, const PairCodes& codes) __attribute__((always_inline)) {
        const int q = p + kD / 2;
        const ChannelValues<kWidth> first(codes.high1, codes.low1, s.centre[p], s.range[p]);
        const ChannelValues<kWidth> second(codes.high2, codes.low2, s.centre[q], s.range[q]);
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
template <int kD, class Use>
RILLKV_INLINE void rotate_all_pairs(const PairSets& sets, const BlockPlanes& planes, Ahead& ahead,
                                    const SharedTiles<kD>& s, const Use& use) {
  rotate_pairs<kD, 1>(sets, planes, ahead, s, use);
  rotate_pairs<kD, 2>(sets, planes, ahead, s, use);
  rotate_pairs<kD, 3>(sets, planes, ahead, s, use);
  rotate_pairs<kD, 4>(sets, planes, ahead, s, use);
  rotate_pairs<kD, 5>(sets, planes, ahead, s, use);
  rotate_pairs<kD, 6>(sets, planes, ahead, s, use);
  rotate_pairs<kD, 7>(sets, planes, ahead, s, use);
  rotate_pairs<kD, 8>(sets, planes, ahead, s, use);
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
template <int kD, int R>
void score_rows_at_once(const PairSets& sets, const BlockPlanes& planes, Ahead& next,
                        const SharedTiles<kD>& s, const float* units, float (*p)[kTokens]) {
  I sum[R][8];
  clear_sums<R>(sum);
  rotate_all_pairs<kD>(
      sets, planes, next, s, [&]<int i>(int pair, I x) __attribute__((always_inline)) {
#pragma GCC unroll 3
        for (int r = 0; r < R; ++r) {
          add_products(sum[r][i], x, s.coefficients[r][pair]);
        }
      });
  finish_scores<R>(sum, 0, units, p);
}

/// Scores of all rows to p, in log2 units.
template <int kD>
void score_block(const uint8_t* block, const float* rotation, const PairSets& sets,
                 const BlockPlanes& planes, Ahead& next, const Rows& rows, SharedTiles<kD>& s,
                 float (*p)[kTokens]) {
  prepare_keys<kD>(block, s);
  float units[kMaxStreamedRows];
  for (int r = 0; r < rows.count; ++r) {
    units[r] = prepare_query<kD>(rows.queries + static_cast<size_t>(r) * rows.stride, rotation,
                                 s.unit, s.coefficients[r]);
  }
  if (rows.count == 2) return score_rows_at_once<kD, 2>(sets, planes, next, s, units, p);
  if (rows.count == 3) return score_rows_at_once<kD, 3>(sets, planes, next, s, units, p);
  rotate_all_pairs<kD>(
      sets, planes, next, s, [&]<int i>(int pair, I x) __attribute__((always_inline)) {
        _mm512_store_si512(s.keys[pair][i], x);
      });
  for (int r = 0; r < rows.count; r += kRowsAtOnce) {
    const int here = rows.count - r;
    if (here >= kRowsAtOnce) {
      score_rows<kD, 2>(s, r, units, p);
    } else {
      score_rows<kD, 1>(s, r, units, p);
    }
  }
}

/// Scores of one row become weights; returns what earlier sums shrink by.
float weigh(float* p, float& max, float& sum) {
  F most = _mm512_load_ps(p);
  for (int i = 16; i < kTokens; i += 16) most = _mm512_max_ps(most, _mm512_load_ps(p + i));
  const float block_max = _mm512_reduce_max_ps(most);
  const float next = block_max > max ? block_max : max;
  F total = _mm512_setzero_ps();
  for (int i = 0; i < kTokens; i += 16) {
    const F x = Fp32::exp2(_mm512_sub_ps(_mm512_load_ps(p + i), _mm512_set1_ps(next)));
    total = _mm512_add_ps(total, x);
    _mm512_store_ps(p + i, x);
  }
  const float shrink = _mm512_cvtss_f32(Fp32::exp2(_mm512_set1_ps(max - next)));
  sum = sum * shrink + _mm512_reduce_add_ps(total);
  max = next;
  return shrink;
}

template <int kD>
bool add_block(const AttentionParams& params, int n, int64_t entry, int64_t ahead,
               const Rows& rows) {
  const PackedPrefix& prefix = params.prefix;
  const uint8_t *keys = prefix.keys[entry], *values = prefix.values[entry];
  PairSets sets;
  if (!classify<kD>(keys + format::channel_widths_offset(kD, false), sets)) return false;
  Scratch<kD>& s = *static_cast<Scratch<kD>*>(rows.scratch);
  const BlockPlanes planes(keys + format::channel_codes_offset(kD, false), sets);
  Ahead next;
  if (ahead >= 0) {
    next = {prefix.keys[ahead], static_cast<size_t>(planes.end - keys), prefix.values[ahead],
            format::token_block_bytes(kTokens, kD, prefix.value_groups, false, prefix.value_bits),
            kD / 2};
  }
  if (rows.count == 1) {
    score_one_row<kD>(keys, prefix.rotations[n], params.rotations.in_block_fixed, sets, planes,
                      next, rows.queries, s.one, s.p[0]);
  } else {
    score_block<kD>(keys, prefix.rotations[n], sets, planes, next, rows, s.shared, s.p);
  }
  float shrink[kMaxStreamedRows];
  for (int r = 0; r < rows.count; ++r) {
    shrink[r] = weigh(s.p[r], rows.max[r], rows.sum[r]);
    prepare_values(params, values, s.p[r], s.weights[r]);
  }
  const uint8_t* codes = values + format::token_codes_offset(kTokens, prefix.value_groups, false);
  with_value_width(prefix.value_bits, [&](auto width) {
    constexpr int kWidth = width;
    if (rows.count == 1) {
      add_values_once<kD, kWidth>(codes, next, s.weights[0], shrink[0], rows.sums);
      return;
    }
    unpack_values<kD, kWidth>(codes, next, s.shared.values);
    for (int side = 0; side < kD / 64; ++side) {
      const float scale = ValueCodes<kD, kWidth>::kSideScale[side];
      for (int r = 0; r < rows.count; r += kRowsAtOnce) {
        const auto add = rows.count - r >= kRowsAtOnce ? add_values<kD, 2> : add_values<kD, 1>;
        add(s.weights, s.shared.values, scale, r, side, shrink, rows.sums, rows.stride);
      }
    }
  });
  return true;
}

template <int kD>
void start(const AttentionParams& params, int rows, void* scratch) {
  Scratch<kD>& s = *static_cast<Scratch<kD>*>(scratch);
  if (rows == 1) return;
  const F one = _mm512_set1_ps(kFixedOne);
  for (int p = 0; p < kD / 2; ++p) {
    const auto convert = [&](const float* from, int16_t(&to)[4][32]) {
      for (int k = 0; k < 4; ++k) {
        const F a = _mm512_loadu_ps(from + 16 * k), b = _mm512_loadu_ps(from + 64 + 16 * k);
        _mm512_store_si512(to[k], pack_words(round_to_int(_mm512_mul_ps(a, one)),
                                             round_to_int(_mm512_mul_ps(b, one))));
      }
    };
    convert(params.rotations.in_block_cos + p * kTokens, s.shared.cosines[p]);
    convert(params.rotations.in_block_sin + p * kTokens, s.shared.sines[p]);
  }
}

}  // namespace

bool streams_blocks(const AttentionParams& params) {
  const int D = params.head_dim, groups = params.prefix.value_groups;
  return (D == 64 || D == 128) && params.block_size == kTokens && !params.prefix.keys_symmetric &&
         !params.prefix.values_channel_major && (groups == 1 || (groups == 2 && D == 128)) &&
         params.heads / params.kv_heads <= kMaxStreamedRows;
}

size_t streaming_bytes(const AttentionParams& params) {
  if (!streams_blocks(params)) return 0;
  return params.head_dim == 64 ? sizeof(Scratch<64>) : sizeof(Scratch<128>);
}

void start_streaming(const AttentionParams& params, int rows, void* scratch) {
  params.head_dim == 64 ? start<64>(params, rows, scratch) : start<128>(params, rows, scratch);
}

bool add_block_streaming(const AttentionParams& params, int n, int64_t entry, int64_t ahead,
                         const Rows& rows) {
  return params.head_dim == 64 ? add_block<64>(params, n, entry, ahead, rows)
                               : add_block<128>(params, n, entry, ahead, rows);
}

}  // namespace rillkv::kernels::cpu::avx512
