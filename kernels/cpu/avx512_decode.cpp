// Decode attention of a few query rows that share a kv head (the heads of its group) over sealed
// blocks of 128 tokens, D = 64 or 128, in integers, straight from the packed codes.
//
// Keys. A pair's channels are looked up as 16-bit integers (lo + step code) in a unit of the pair,
// rotated within the block by R(j) in 16-bit fixed point, and kept, both channels of a token in one
// dword, in a tile of the block that all rows share. R(t0) goes to the queries: r = R(-t0) q~,
// rounded to 16 bits in a unit of the row and block, so that one vpdpwssd adds a pair of 16 tokens.
// The unit of r bounds sum |r_p| so that no sum leaves 32 bits. Mixed widths would make every pair
// a chain of unpredictable branches; pairs are visited by width instead, each width's code has its
// shifts and planes fixed.
//
// Values. p step is rounded to 15 bits in a unit of the block, split in two signed bytes, and
// vpdpbusd sums four tokens a lane. Rounding p step rather than p wastes no bits on tokens of large
// step. The error of both parts together is below 1e-3 of the result's norm, bf16's own is 4e-3.
//
// Memory. Blocks are visited in the order of the tables and those kBlocksAhead later are prefetched
// a few lines at a time; without it cold decode takes twice as long.
#include "kernels/cpu/avx512_decode.h"

#include "kernels/cpu/attention_tiles.h"
#include "kernels/cpu/avx512_simd.h"

namespace rillkv::kernels::cpu::avx512 {
namespace {

using tiled::Prefetch;
using F = __m512;
using I = __m512i;

constexpr int kTokens = 128;
constexpr int kRowsAtOnce = 3;            // 8 accumulators each, which leaves 8 registers
constexpr float kMaxKey = 23000.0f;       // times sqrt(2), what a rotation may make of it, < 2^15
constexpr float kMaxQuery = 32700.0f;     // of one coefficient
constexpr float kMaxQuerySum = 65000.0f;  // times 2^15 stays below 2^31, roundings included
constexpr float kMaxWeight = 32600.0f;    // + 128 for the split into bytes stays below 2^15
constexpr float kFixedOne = 32767.0f;     // 1 in the rotation's fixed point; vpmulhrsw's is 32768

inline I round_to_int(F x) { return _mm512_cvtps_epi32(x); }

/// Words 2 i and 2 i + 1: lane i of `even` and of `odd`.
inline I pack_words(I even, I odd) {
  return _mm512_mask_blend_epi16(0xAAAAAAAA, even, _mm512_slli_epi32(odd, 16));
}

/// Weights p step of a block as signed bytes (256 high + low), and what the offsets add.
struct alignas(64) ValueWeights {
  // [token / 4][lane quad: a quarter of the channels][token % 4]
  int8_t high[kTokens * 4];
  int8_t low[kTokens * 4];
  float unit[4];    // by quarter of the channels
  float offset[4];  // sum_j p_j lo_j
};

void prepare_values(const AttentionParams& params, const uint8_t* block, const float* p,
                    ValueWeights& out) {
  const int groups = params.prefix.value_groups;
  const uint16_t* lo = reinterpret_cast<const uint16_t*>(block);
  const uint16_t* step = lo + groups * kTokens;
  // Of 32 dwords: the second bytes, then (upper half) the first bytes, with their top bit flipped.
  alignas(64) static constexpr uint8_t kBytes[64] = {
      1,  5,  9,  13, 17, 21, 25, 29, 33, 37,  41,  45,  49,  53,  57,  61,
      65, 69, 73, 77, 81, 85, 89, 93, 97, 101, 105, 109, 113, 117, 121, 125,
      0,  4,  8,  12, 16, 20, 24, 28, 32, 36,  40,  44,  48,  52,  56,  60,
      64, 68, 72, 76, 80, 84, 88, 92, 96, 100, 104, 108, 112, 116, 120, 124};
  const I bytes = _mm512_load_si512(kBytes);
  const I flip = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi8(-128), 1);
  F weight[2][8], inverse[2];
  for (int g = 0; g < 2; ++g) {
    if (g == groups) {  // one group: the second half of the channels has the same
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) weight[1][i] = weight[0][i];
      inverse[1] = inverse[0];
      out.unit[2] = out.unit[3] = out.unit[0];
      out.offset[2] = out.offset[3] = out.offset[0];
      break;
    }
    F most = _mm512_setzero_ps(), offset = most;
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      const F x = _mm512_loadu_ps(p + 16 * i);
      weight[g][i] = _mm512_mul_ps(x, Simd::load_half(step + g * kTokens + 16 * i));
      most = _mm512_max_ps(most, weight[g][i]);
      offset = _mm512_fmadd_ps(x, Simd::load_half(lo + g * kTokens + 16 * i), offset);
    }
    const float largest = _mm512_reduce_max_ps(most);
    inverse[g] = _mm512_set1_ps(largest > 1.0e-30f ? kMaxWeight / largest : 0.0f);
    out.unit[2 * g] = out.unit[2 * g + 1] = largest / kMaxWeight;
    out.offset[2 * g] = out.offset[2 * g + 1] = _mm512_reduce_add_ps(offset);
  }
  const F bias = _mm512_set1_ps(128.0f);
  // The four dwords of a quad of tokens: group 0, 0, 1, 1.
  const I quads = _mm512_setr_epi32(0, 0, 16, 16, 1, 1, 17, 17, 2, 2, 18, 18, 3, 3, 19, 19);
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {  // 32 tokens
    I split[2];                  // 8 dwords of high bytes, 8 of low bytes
#pragma GCC unroll 2
    for (int g = 0; g < 2; ++g) {
      // w = 256 high + low with low in -128 .. 127: the bias makes the carry
      const I a = round_to_int(_mm512_fmadd_ps(weight[g][2 * i], inverse[g], bias));
      const I b = round_to_int(_mm512_fmadd_ps(weight[g][2 * i + 1], inverse[g], bias));
      split[g] = _mm512_xor_si512(flip, _mm512_permutex2var_epi8(a, bytes, b));
    }
#pragma GCC unroll 2
    for (int part = 0; part < 2; ++part) {  // four quads of tokens
      const I from_high = _mm512_add_epi32(quads, _mm512_set1_epi32(4 * part));
      const I from_low = _mm512_add_epi32(quads, _mm512_set1_epi32(4 * part + 8));
      const size_t at = static_cast<size_t>(2 * i + part) * 64;
      _mm512_store_si512(out.high + at, _mm512_permutex2var_epi32(split[0], from_high, split[1]));
      _mm512_store_si512(out.low + at, _mm512_permutex2var_epi32(split[0], from_low, split[1]));
    }
  }
}

/// What a task keeps between blocks, and the tiles of the block at hand.
template <int kD>
struct alignas(64) Scratch {
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
  // Keys of the block: in the pair's unit.
  float lo[kD], step[kD], unit[kPairs];
  int32_t coefficients[kMaxStreamedRows][kPairs];  // (r_p, r_p') as words
  float p[kMaxStreamedRows][kTokens];
  ValueWeights weights[kMaxStreamedRows];
};

/// Pairs of a block as sets of bits, by what planes they have.
struct PairSets {
  uint64_t by_width[format::kMaxWidth + 1];
  uint64_t nibbles, second_nibbles, crumbs, bits;
};

/// False if the two channels of some pair differ in width.
template <int kD>
bool classify(const uint8_t* widths, PairSets& sets) {
  constexpr __mmask64 kAll = kD == 128 ? ~uint64_t{0} : (uint64_t{1} << (kD / 2)) - 1;
  const I both = _mm512_maskz_loadu_epi8(kAll, widths), low_bits = _mm512_set1_epi8(15);
  const I width = _mm512_and_si512(both, low_bits);
  if (_mm512_cmpneq_epi8_mask(width, _mm512_and_si512(_mm512_srli_epi16(both, 4), low_bits)) != 0) {
    return false;
  }
  for (int w = 1; w <= format::kMaxWidth; ++w) {
    sets.by_width[w] = _mm512_cmpeq_epi8_mask(width, _mm512_set1_epi8(static_cast<char>(w)));
  }
  sets.nibbles = _mm512_test_epi8_mask(width, _mm512_set1_epi8(12));
  sets.second_nibbles = sets.by_width[8];
  sets.crumbs = _mm512_test_epi8_mask(width, _mm512_set1_epi8(2));
  sets.bits = _mm512_test_epi8_mask(width, _mm512_set1_epi8(1));
  return true;
}

inline int count(uint64_t set) { return __builtin_popcountll(set); }

/// Where the planes begin: of the first channels of the pairs and of the second.
struct BlockPlanes {
  tiled::Planes first, second;
  const uint8_t* end;
  BlockPlanes(const uint8_t* codes, const PairSets& sets) {
    const int nibbles = count(sets.nibbles) + count(sets.second_nibbles);
    const int crumbs = count(sets.crumbs), bits = count(sets.bits);
    first.nibbles = codes;
    second.nibbles = first.nibbles + nibbles * (kTokens / 2);
    first.crumbs = second.nibbles + nibbles * (kTokens / 2);
    second.crumbs = first.crumbs + crumbs * (kTokens / 4);
    first.bits = second.crumbs + crumbs * (kTokens / 4);
    second.bits = first.bits + bits * (kTokens / 8);
    end = second.bits + bits * (kTokens / 8);
  }
};

/// lo and step of all channels, in units that make the pair's largest value kMaxKey.
template <int kD>
void prepare_keys(const uint8_t* block, Scratch<kD>& s) {
  constexpr int kPairs = kD / 2;
  const uint16_t* lo = reinterpret_cast<const uint16_t*>(block);
  const uint16_t* step =
      reinterpret_cast<const uint16_t*>(block + format::channel_step_offset(kD, false));
  const uint8_t* widths = block + format::channel_widths_offset(kD, false);
  const I one = _mm512_set1_epi32(1);
  for (int i = 0; i < kPairs; i += 16) {
    const I width = _mm512_and_si512(
        _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(widths + i))),
        _mm512_set1_epi32(15));
    const F codes = _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_sllv_epi32(one, width), one));
    const F lo1 = Simd::load_half(lo + i), lo2 = Simd::load_half(lo + kPairs + i);
    const F step1 = Simd::load_half(step + i), step2 = Simd::load_half(step + kPairs + i);
    F most = _mm512_max_ps(_mm512_abs_ps(lo1), _mm512_abs_ps(lo2));
    most = _mm512_max_ps(most, _mm512_abs_ps(_mm512_fmadd_ps(step1, codes, lo1)));
    most = _mm512_max_ps(most, _mm512_abs_ps(_mm512_fmadd_ps(step2, codes, lo2)));
    const F inverse = _mm512_maskz_div_ps(_mm512_cmp_ps_mask(most, _mm512_setzero_ps(), _CMP_GT_OQ),
                                          _mm512_set1_ps(kMaxKey), most);
    _mm512_store_ps(s.lo + i, _mm512_mul_ps(lo1, inverse));
    _mm512_store_ps(s.lo + kPairs + i, _mm512_mul_ps(lo2, inverse));
    _mm512_store_ps(s.step + i, _mm512_mul_ps(step1, inverse));
    _mm512_store_ps(s.step + kPairs + i, _mm512_mul_ps(step2, inverse));
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
    const F q1 = _mm512_loadu_ps(query + 16 * i), q2 = _mm512_loadu_ps(query + kPairs + 16 * i);
    const F c = _mm512_loadu_ps(rotation + 16 * i), s = _mm512_loadu_ps(rotation + kPairs + 16 * i);
    const F u = _mm512_load_ps(unit + 16 * i);
    r1[i] = _mm512_mul_ps(u, _mm512_fmadd_ps(q1, c, _mm512_mul_ps(q2, s)));
    r2[i] = _mm512_mul_ps(u, _mm512_fmsub_ps(q2, c, _mm512_mul_ps(q1, s)));
    const F norm = _mm512_sqrt_ps(_mm512_fmadd_ps(r1[i], r1[i], _mm512_mul_ps(r2[i], r2[i])));
    most = _mm512_max_ps(most, norm);
    total = _mm512_add_ps(total, norm);
  }
  const float by_sum = _mm512_reduce_add_ps(total) / kMaxQuerySum;
  const float by_most = _mm512_reduce_max_ps(most) / kMaxQuery;
  const float result = by_sum > by_most ? by_sum : by_most;
  const F inverse = _mm512_set1_ps(result > 1.0e-30f ? 1.0f / result : 0.0f);
#pragma GCC unroll 4
  for (int i = 0; i < kVectors; ++i) {
    _mm512_storeu_si512(coefficients + 16 * i,
                        pack_words(round_to_int(_mm512_mul_ps(r1[i], inverse)),
                                   round_to_int(_mm512_mul_ps(r2[i], inverse))));
  }
  return result;
}

/// lo + step code for 4-bit codes, as words. A code is found at bits 1..4 of its word, because the
/// table has every entry twice.
struct WordTable {
  I table;
  WordTable(float lo, float step) {
    const I x = round_to_int(Simd::Affine(lo, step).table);
    table = pack_words(x, x);
  }
  template <int kField>
  RILLKV_INLINE I look_up(I codes) const {
    const I index = kField == 0 ? _mm512_slli_epi16(codes, 1)
                                : _mm512_srli_epi16(codes, kField == 0 ? 0 : 4 * kField - 1);
    return _mm512_permutexvar_epi16(index, table);
  }
};

/// Looks up and rotates the pairs of one width: tile of keys.
template <int kD, int kWidth>
void rotate_pairs(const PairSets& sets, const BlockPlanes& planes, Prefetch& ahead,
                  Scratch<kD>& s) {
  constexpr float kHighStep =
      kWidth > 4 ? static_cast<float>(1 << (kWidth > 4 ? kWidth - 4 : 0)) : 1.0f;
  for (uint64_t left = sets.by_width[kWidth]; left != 0; left &= left - 1) {
    const int p = __builtin_ctzll(left), q = p + kD / 2;
    const uint64_t before = (uint64_t{1} << p) - 1;
    const int nibbles =
        (count(sets.nibbles & before) + count(sets.second_nibbles & before)) * (kTokens / 2);
    const int crumbs = count(sets.crumbs & before) * (kTokens / 4);
    const int bits = count(sets.bits & before) * (kTokens / 8);
    ahead.step<Simd>();
    const auto at = [&](const tiled::Planes& of) {
      return tiled::Planes{of.nibbles + nibbles, of.crumbs + crumbs, of.bits + bits};
    };
    I high1, low1, high2, low2;
    tiled::load_codes<Simd, kTokens>(at(planes.first), kWidth, 0, high1, low1);
    tiled::load_codes<Simd, kTokens>(at(planes.second), kWidth, 0, high2, low2);
    const WordTable table1(s.lo[p], s.step[p] * kHighStep), table2(s.lo[q], s.step[q] * kHighStep);
    const WordTable rest1(0.0f, s.step[p]), rest2(0.0f, s.step[q]);
    const auto add_field = [&]<int kField>() __attribute__((always_inline)) {
      I x = table1.look_up<kField>(high1), y = table2.look_up<kField>(high2);
      if constexpr (kWidth > 4) {  // value = (lo + step 2^(width - 4) high) + step low
        x = _mm512_add_epi16(x, rest1.look_up<kField>(low1));
        y = _mm512_add_epi16(y, rest2.look_up<kField>(low2));
      }
      const I c = _mm512_load_si512(s.cosines[p][kField]);
      const I sine = _mm512_load_si512(s.sines[p][kField]);
      const I turned_x = _mm512_sub_epi16(_mm512_mulhrs_epi16(x, c), _mm512_mulhrs_epi16(y, sine));
      const I turned_y = _mm512_add_epi16(_mm512_mulhrs_epi16(y, c), _mm512_mulhrs_epi16(x, sine));
      _mm512_store_si512(s.keys[p][2 * kField], _mm512_unpacklo_epi16(turned_x, turned_y));
      _mm512_store_si512(s.keys[p][2 * kField + 1], _mm512_unpackhi_epi16(turned_x, turned_y));
    };
    add_field.template operator()<0>();
    add_field.template operator()<1>();
    add_field.template operator()<2>();
    add_field.template operator()<3>();
  }
}

/// scores = unit * sum over pairs. Registers 2 k and 2 k + 1 of the sums hold the tokens 16 k ..
/// and 64 + 16 k .. interleaved: lane 4 l + 2 a + b of register 2 k + h is 64 b + 16 k + 4 l + 2 h
/// + a.
RILLKV_INLINE void finish_scores(const I (&sum)[8], float unit, float* scores) {
  const I first = _mm512_setr_epi32(0, 2, 16, 18, 4, 6, 20, 22, 8, 10, 24, 26, 12, 14, 28, 30);
  const I second = _mm512_add_epi32(first, _mm512_set1_epi32(1));
  const F factor = _mm512_set1_ps(unit * (32768.0f / kFixedOne));
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) {
    const I a = sum[2 * k], b = sum[2 * k + 1];
    _mm512_store_ps(
        scores + 16 * k,
        _mm512_mul_ps(factor, _mm512_cvtepi32_ps(_mm512_permutex2var_epi32(a, first, b))));
    _mm512_store_ps(
        scores + 64 + 16 * k,
        _mm512_mul_ps(factor, _mm512_cvtepi32_ps(_mm512_permutex2var_epi32(a, second, b))));
  }
}

template <int kD, int R>
void score_rows(Scratch<kD>& s, int row, const float* units) {
  I sum[R][8];
#pragma GCC unroll 3
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) sum[r][i] = _mm512_setzero_si512();
  }
  for (int p = 0; p < kD / 2; ++p) {
    I q[R];
#pragma GCC unroll 3
    for (int r = 0; r < R; ++r) q[r] = _mm512_set1_epi32(s.coefficients[row + r][p]);
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      const I x = _mm512_load_si512(s.keys[p][i]);
#pragma GCC unroll 3
      for (int r = 0; r < R; ++r) sum[r][i] = _mm512_dpwssd_epi32(sum[r][i], x, q[r]);
    }
  }
#pragma GCC unroll 3
  for (int r = 0; r < R; ++r) finish_scores(sum[r], units[row + r], s.p[row + r]);
}

/// Scores of all rows to s.p, in log2 units.
template <int kD>
void score_block(const uint8_t* block, const float* rotation, const PairSets& sets,
                 const uint8_t* next_block, const Rows& rows, Scratch<kD>& s) {
  prepare_keys<kD>(block, s);
  const BlockPlanes planes(block + format::channel_codes_offset(kD, false), sets);
  Prefetch ahead(next_block, static_cast<size_t>(planes.end - block), kD / 2);
  rotate_pairs<kD, 1>(sets, planes, ahead, s);
  rotate_pairs<kD, 2>(sets, planes, ahead, s);
  rotate_pairs<kD, 3>(sets, planes, ahead, s);
  rotate_pairs<kD, 4>(sets, planes, ahead, s);
  rotate_pairs<kD, 5>(sets, planes, ahead, s);
  rotate_pairs<kD, 6>(sets, planes, ahead, s);
  rotate_pairs<kD, 7>(sets, planes, ahead, s);
  rotate_pairs<kD, 8>(sets, planes, ahead, s);
  float units[kMaxStreamedRows];
  for (int r = 0; r < rows.count; ++r) {
    units[r] = prepare_query<kD>(rows.queries + static_cast<size_t>(r) * rows.stride, rotation,
                                 s.unit, s.coefficients[r]);
  }
  for (int r = 0; r < rows.count; r += kRowsAtOnce) {
    const int here = rows.count - r;
    if (here >= 3) {
      score_rows<kD, 3>(s, r, units);
    } else if (here == 2) {
      score_rows<kD, 2>(s, r, units);
    } else {
      score_rows<kD, 1>(s, r, units);
    }
  }
}

/// Dword lane i of x[j] gets the bytes of four rows at one place: byte 16 (i / 4) + 4 j + i % 4.
RILLKV_INLINE void interleave(I a, I b, I c, I d, I (&x)[4]) {
  const I ab0 = _mm512_unpacklo_epi8(a, b), ab1 = _mm512_unpackhi_epi8(a, b);
  const I cd0 = _mm512_unpacklo_epi8(c, d), cd1 = _mm512_unpackhi_epi8(c, d);
  x[0] = _mm512_unpacklo_epi16(ab0, cd0);
  x[1] = _mm512_unpackhi_epi16(ab0, cd0);
  x[2] = _mm512_unpacklo_epi16(ab1, cd1);
  x[3] = _mm512_unpackhi_epi16(ab1, cd1);
}

/// A value block's codes as bytes, four tokens a dword, one register after the other: registers
/// [side][token / 4][j], where lane i of x[j] is channel (D / 4) (i % 4) + 4 (i / 4) + j, for D =
/// 128 and side 1 16 more. (Byte 4 w + r of a row of 128 holds the fields 2 r and 2 r + 1 of word
/// w, channels 32 r + w and 32 r + 16 + w; of a row of 64, channel 16 r + w.)
template <int kD, int kWidth>
void unpack_values(const uint8_t* codes, Prefetch ahead, uint8_t* out) {
  tiled::Planes at;
  at.nibbles = codes;
  at.crumbs = at.nibbles + kTokens * (kWidth >> 2) * (kD / 2);
  at.bits = at.crumbs + kTokens * ((kWidth >> 1) & 1) * (kD / 4);
  constexpr int kSides = kD / 64;
  const I nibble = _mm512_set1_epi8(15);
  for (int t = 0; t < kTokens; t += 4, out += 256) {
    ahead.step<Simd>();
    I high[4], low[4], x[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      tiled::load_codes<Simd, kD>(at, kWidth, 0, high[i], low[i]);
      tiled::advance<kD>(at, kWidth);
    }
    if constexpr (kWidth <= 4) {
      interleave(high[0], high[1], high[2], high[3], x);
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        _mm512_store_si512(out + 64 * j, _mm512_and_si512(x[j], nibble));
        if constexpr (kSides == 2) {
          _mm512_store_si512(out + 64 * kTokens + 64 * j,
                             _mm512_and_si512(_mm512_srli_epi16(x[j], 4), nibble));
        }
      }
    } else {  // code = high << (width - 4) | low
#pragma GCC unroll 2
      for (int side = 0; side < kSides; ++side) {
        I bytes[4];
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
          const I top = _mm512_and_si512(_mm512_srli_epi16(high[i], 4 * side), nibble);
          const I rest = _mm512_srli_epi16(low[i], 4 * side);
          bytes[i] =
              _mm512_ternarylogic_epi32(_mm512_slli_epi16(top, kWidth - 4), rest, nibble, 0xF8);
        }
        interleave(bytes[0], bytes[1], bytes[2], bytes[3], x);
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
          _mm512_store_si512(out + side * 64 * kTokens + 64 * j, x[j]);
        }
      }
    }
  }
}

template <int kD>
void unpack_values_of(int width, const uint8_t* codes, Prefetch ahead, uint8_t* out) {
  switch (width) {
    case 2:
      return unpack_values<kD, 2>(codes, ahead, out);
    case 3:
      return unpack_values<kD, 3>(codes, ahead, out);
    case 4:
      return unpack_values<kD, 4>(codes, ahead, out);
    case 5:
      return unpack_values<kD, 5>(codes, ahead, out);
    case 6:
      return unpack_values<kD, 6>(codes, ahead, out);
    case 7:
      return unpack_values<kD, 7>(codes, ahead, out);
    default:
      return unpack_values<kD, 8>(codes, ahead, out);
  }
}

/// sums = sums * shrink + sum_j p_j v_j of R rows and one side of the channels.
template <int kD, int R>
void add_values(const Scratch<kD>& s, int row, int side, const float* shrink, float* sums,
                size_t stride) {
  I high[R][4], low[R][4];
#pragma GCC unroll 3
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) high[r][j] = low[r][j] = _mm512_setzero_si512();
  }
  const uint8_t* codes = s.values + side * 64 * kTokens;
  for (int t = 0; t < kTokens; t += 4, codes += 256) {
    I x[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) x[j] = _mm512_load_si512(codes + 64 * j);
#pragma GCC unroll 3
    for (int r = 0; r < R; ++r) {
      const auto weight = [&](const int8_t* of) __attribute__((always_inline)) {
        return _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(of + 4 * t)));
      };
      const I w_high = weight(s.weights[row + r].high), w_low = weight(s.weights[row + r].low);
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        high[r][j] = _mm512_dpbusd_epi32(high[r][j], x[j], w_high);
        low[r][j] = _mm512_dpbusd_epi32(low[r][j], x[j], w_low);
      }
    }
  }
  // Channels 4 (i / 4) + j of lanes i of four registers, to natural order: a transpose of 4 x 4
  // within the lanes' quads, then of the quads.
#pragma GCC unroll 3
  for (int r = 0; r < R; ++r) {
    const F unit = _mm512_broadcast_f32x4(_mm_loadu_ps(s.weights[row + r].unit));
    const F offset = _mm512_broadcast_f32x4(_mm_loadu_ps(s.weights[row + r].offset));
    F y[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const I w = _mm512_add_epi32(_mm512_slli_epi32(high[r][j], 8), low[r][j]);
      y[j] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(w), unit, offset);
    }
    // z[quarter], lane 4 q + j: channel (D / 4) quarter + 16 side + 4 q + j
    const F a = _mm512_unpacklo_ps(y[0], y[1]), b = _mm512_unpackhi_ps(y[0], y[1]);
    const F c = _mm512_unpacklo_ps(y[2], y[3]), d = _mm512_unpackhi_ps(y[2], y[3]);
    const F z[4] = {_mm512_shuffle_ps(a, c, 0x44), _mm512_shuffle_ps(a, c, 0xEE),
                    _mm512_shuffle_ps(b, d, 0x44), _mm512_shuffle_ps(b, d, 0xEE)};
#pragma GCC unroll 4
    for (int quarter = 0; quarter < 4; ++quarter) {
      float* to = sums + static_cast<size_t>(row + r) * stride + kD / 4 * quarter + 16 * side;
      _mm512_storeu_ps(
          to, _mm512_fmadd_ps(_mm512_loadu_ps(to), _mm512_set1_ps(shrink[row + r]), z[quarter]));
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
  score_block<kD>(keys, prefix.rotations[n], sets, ahead < 0 ? nullptr : prefix.keys[ahead], rows,
                  s);
  float shrink[kMaxStreamedRows];
  for (int r = 0; r < rows.count; ++r) {
    shrink[r] = weigh(s.p[r], rows.max[r], rows.sum[r]);
    prepare_values(params, values, s.p[r], s.weights[r]);
  }
  const Prefetch values_ahead(
      ahead < 0 ? nullptr : prefix.values[ahead],
      format::token_block_bytes(kTokens, kD, prefix.value_groups, false, prefix.value_bits),
      kTokens / 4);
  unpack_values_of<kD>(prefix.value_bits,
                       values + format::token_codes_offset(kTokens, prefix.value_groups, false),
                       values_ahead, s.values);
  for (int side = 0; side < kD / 64; ++side) {
    for (int r = 0; r < rows.count; r += kRowsAtOnce) {
      const int here = rows.count - r;
      if (here >= 3) {
        add_values<kD, 3>(s, r, side, shrink, rows.sums, rows.stride);
      } else if (here == 2) {
        add_values<kD, 2>(s, r, side, shrink, rows.sums, rows.stride);
      } else {
        add_values<kD, 1>(s, r, side, shrink, rows.sums, rows.stride);
      }
    }
  }
  return true;
}

template <int kD>
void start(const AttentionParams& params, void* scratch) {
  Scratch<kD>& s = *static_cast<Scratch<kD>*>(scratch);
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

void start_streaming(const AttentionParams& params, void* scratch) {
  params.head_dim == 64 ? start<64>(params, scratch) : start<128>(params, scratch);
}

bool add_block_streaming(const AttentionParams& params, int n, int64_t entry, int64_t ahead,
                         const Rows& rows) {
  return params.head_dim == 64 ? add_block<64>(params, n, entry, ahead, rows)
                               : add_block<128>(params, n, entry, ahead, rows);
}

}  // namespace rillkv::kernels::cpu::avx512
