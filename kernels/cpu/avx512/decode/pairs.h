// Channel pairs of a key block by width: where their planes lie, and a loop over those of one
// width. Mixed widths would make every pair a chain of unpredictable branches; visited by width,
// each width's code has its shifts and planes fixed.
#pragma once

#include "kernels/cpu/avx512/decode/level_fields.h"
#include "kernels/cpu/avx512/simd.h"
#include "kernels/cpu/fixed_rotations.h"  // kFixedOne; vpmulhrsw's is 32768
#include "kernels/cpu/generic/plane_registers.h"
#include "kernels/cpu/generic/prefetch.h"
#include "kernels/cpu/generic/simd_rows.h"
#include "kernels/cpu/generic/trellis_levels.h"

namespace rillkv::kernels::cpu::avx512 {
namespace {

using F = __m512;
using I = __m512i;

constexpr int kTokens = 128;

inline I round_to_int(F x) { return _mm512_cvtps_epi32(x); }
/// 16 fp16 numbers.
inline F load_halves(const uint16_t* p) { return load_as<Simd, Dtype::kFloat16>(p, 0); }

/// Words 2 i and 2 i + 1: lane i of `even` and of `odd`.
inline I pack_words(I even, I odd) {
  return _mm512_mask_blend_epi16(0xAAAAAAAA, even, _mm512_slli_epi32(odd, 16));
}

/// Pairs of a block as sets of bits, by what planes they have.
struct PairSets {
  uint64_t by_width[format::kMaxWidth + 1];
  uint64_t nibbles, second_nibbles, crumbs, bits;

  /// Planes of the pairs in a set, of both channels.
  format::PlaneCounts planes(uint64_t among) const {
    const auto count = [&](uint64_t set) {
      return static_cast<uint32_t>(__builtin_popcountll(set & among));
    };
    return 2 *
           format::PlaneCounts{count(nibbles) + count(second_nibbles), count(crumbs), count(bits)};
  }
};

/// Pairs whose two channels have a code of the same width in common, by that width; `planes_less`:
/// by how many bits what lies in planes is shorter. False if some pair's channels differ.
template <int kD>
bool classify(const uint8_t* widths, int code_more, int planes_less, PairSets& sets) {
  constexpr __mmask64 kAll = kD == 128 ? ~uint64_t{0} : (uint64_t{1} << (kD / 2)) - 1;
  const I both = _mm512_maskz_loadu_epi8(kAll, widths), low_bits = _mm512_set1_epi8(15);
  const I width = _mm512_and_si512(both, low_bits);
  if (_mm512_cmpneq_epi8_mask(width, _mm512_and_si512(_mm512_srli_epi16(both, 4), low_bits)) != 0) {
    return false;
  }
  for (int w = 1; w <= format::kMaxWidth; ++w) {
    sets.by_width[w] = _mm512_mask_cmpeq_epi8_mask(
        kAll, width, _mm512_set1_epi8(static_cast<char>(w - code_more)));
  }
  const I planes = _mm512_sub_epi8(width, _mm512_set1_epi8(static_cast<char>(planes_less)));
  const auto among = [&](int bits) {
    return _mm512_mask_test_epi8_mask(kAll, planes, _mm512_set1_epi8(static_cast<char>(bits)));
  };
  sets.second_nibbles = _mm512_mask_cmpeq_epi8_mask(kAll, planes, _mm512_set1_epi8(8));
  sets.nibbles = among(12);
  sets.crumbs = among(2);
  sets.bits = among(1);
  return true;
}

/// 2^width - 1 of 16 widths.
inline F largest_of(I width) {
  const I one = _mm512_set1_epi32(1);
  return _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_sllv_epi32(one, width), one));
}
/// The widths of 16 pairs.
inline I pair_widths(const uint8_t* widths) {
  return _mm512_and_si512(
      _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(widths))),
      _mm512_set1_epi32(15));
}

/// (r1, r2) = R(-t0) q~ of the 16 pairs from pair i on.
template <int kPairs>
RILLKV_INLINE void turn_back(const float* query, const float* rotation, int i, F& r1, F& r2) {
  const F q1 = _mm512_loadu_ps(query + i), q2 = _mm512_loadu_ps(query + kPairs + i);
  const F c = _mm512_loadu_ps(rotation + i), s = _mm512_loadu_ps(rotation + kPairs + i);
  r1 = _mm512_fmadd_ps(q1, c, _mm512_mul_ps(q2, s));
  r2 = _mm512_fmsub_ps(q2, c, _mm512_mul_ps(q1, s));
}

/// The unit in which the largest of `most` is at most `max_one` and the sum of `total` `max_sum`.
inline float unit_for(F most, F total, float max_one, float max_sum) {
  const float by_sum = _mm512_reduce_add_ps(total) / max_sum;
  const float by_most = _mm512_reduce_max_ps(most) / max_one;
  return by_sum > by_most ? by_sum : by_most;
}
/// Its reciprocal, 0 where there is nothing to measure.
inline F inverse_unit(float unit) { return _mm512_set1_ps(unit > 1.0e-30f ? 1.0f / unit : 0.0f); }

/// Codes of a pair's two channels in fields of 4 bits: up to 4 bits `high`; beyond, `high` is the
/// upper 4 and `low` the rest, at the top of its field. Where Keys::kIndexed, codes of 5 bits are
/// the even and odd indices of load_level_indices.
struct PairCodes {
  I high1, low1, high2, low2;
};

/// The next block's keys and then its values, fetched in proportion to what the parts of the work
/// on one block take.
class Ahead {
 public:
  Ahead() = default;
  /// key_share: of the pairs of keys in the work on a block.
  Ahead(const uint8_t* keys, size_t key_bytes, const uint8_t* values, size_t value_bytes, int pairs,
        float key_share)
      : keys_(keys, key_bytes, 1), values_(values, value_bytes, 1) {
    const size_t bytes = key_bytes + value_bytes;
    bytes_a_pair_ =
        static_cast<size_t>(static_cast<float>(bytes) * key_share) / static_cast<size_t>(pairs);
    bytes_a_quad_ = (bytes - bytes_a_pair_ * static_cast<size_t>(pairs)) / kQuads + 1;
  }

  /// Beside a pair of channels of the keys.
  RILLKV_INLINE void step_pair() { fetch(bytes_a_pair_); }
  /// Beside each of kQuads parts of the values, of four tokens or as much of a trellis block.
  RILLKV_INLINE void step_quad() { fetch(bytes_a_quad_); }
  static constexpr int kQuads = kTokens / 4;

 private:
  RILLKV_INLINE void fetch(size_t bytes) { values_.fetch<Simd>(keys_.fetch<Simd>(bytes)); }

  Prefetch keys_, values_;
  size_t bytes_a_pair_ = 0, bytes_a_quad_ = 0;
};

/// A channel block of keys, for the scores: value = lo + step * code.
template <int kD>
class ChannelKeys {
 public:
  static constexpr float kTimeShare = 0.78f;
  static constexpr bool kApart = false;
  static constexpr bool kIndexed = false;
  struct Scratch {};

  /// False for a block that is not taken: some pair mixes widths.
  bool open(const uint8_t* block, Scratch&) {
    block_ = block;
    if (!classify<kD>(widths(), 0, 0, sets_)) return false;
    const uint8_t* codes = block + format::channel_codes_offset(kD, false);
    const format::PlaneCounts all = sets_.planes(~uint64_t{0});
    begin_ = format::planes_at(codes, format::plane_offsets({}, all, kTokens));
    bytes_ = static_cast<size_t>(codes - block) + format::codes_bytes(kTokens, all);
    return true;
  }
  size_t bytes() const { return bytes_; }
  uint64_t pairs_of(int width) const { return sets_.by_width[width]; }

  /// Of the 16 channels from c on; the largest codes of the 16 pairs from p on.
  F lo(int c) const { return load_halves(reinterpret_cast<const uint16_t*>(block_) + c); }
  F step(int c) const {
    return load_halves(
        reinterpret_cast<const uint16_t*>(block_ + format::channel_step_offset(kD, false)) + c);
  }
  F largest_codes(int p) const { return largest_of(pair_widths(widths() + p)); }

  template <int kWidth>
  RILLKV_INLINE PairCodes codes(int p) const {
    Planes at = begin_;
    format::advance(at, kTokens, sets_.planes((uint64_t{1} << p) - 1));
    PairCodes codes;
    load_codes<Simd, kTokens>(at, kWidth, 0, codes.high1, codes.low1);
    format::advance(at, kTokens, kWidth);
    load_codes<Simd, kTokens>(at, kWidth, 0, codes.high2, codes.low2);
    if constexpr (kWidth > 4) {
      codes.low1 = _mm512_slli_epi32(codes.low1, static_cast<unsigned>(8 - kWidth));
      codes.low2 = _mm512_slli_epi32(codes.low2, static_cast<unsigned>(8 - kWidth));
    }
    return codes;
  }

 private:
  const uint8_t* widths() const { return block_ + format::channel_widths_offset(kD, false); }

  const uint8_t* block_ = nullptr;
  PairSets sets_;
  Planes begin_;
  size_t bytes_ = 0;
};

/// step8 of 16 bytes.
inline F load_steps(const uint8_t* p) {
  const I index = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  const F mantissa = _mm512_permutexvar_ps(
      index, _mm512_broadcast_f32x8(_mm256_loadu_ps(&kSteps8.of[136])));  // 2^0 .. 2^(7/8)
  const I octave = _mm512_sub_epi32(_mm512_srli_epi32(index, 3), _mm512_set1_epi32(17));
  return _mm512_castsi512_ps(
      _mm512_add_epi32(_mm512_castps_si512(mantissa), _mm512_slli_epi32(octave, 23)));
}

/// A trellis key block likewise; its levels are codes of one bit more: value = step (zero + L).
template <int kD>
class TrellisKeys {
 public:
  static constexpr float kTimeShare = 0.6f;
  /// Code of single widths wants functions of its own: what all of them keep in registers is more
  /// than there are.
  static constexpr bool kApart = true;
  static constexpr bool kIndexed = true;
  struct Scratch {
    alignas(64) uint8_t subsets[kD * kTokens / 4 + 64];
  };

  bool open(const uint8_t* block, Scratch& scratch) {
    block_ = block;
    if (!classify<kD>(widths(), 1, 1, sets_)) return false;
    const size_t path = format::trellis_key_path_offset(kD);
    const uint8_t* codes = block + format::trellis_codes_offset(path, kD, kTokens);
    const format::PlaneCounts all = sets_.planes(~uint64_t{0});
    begin_ = format::planes_at(codes, format::plane_offsets({}, all, kTokens));
    bytes_ = static_cast<size_t>(codes - block) + format::codes_bytes(kTokens, all);
    write_subsets<Simd, kTokens>(block + path, kD, scratch.subsets);
    subsets_ = scratch.subsets;
    return true;
  }
  size_t bytes() const { return bytes_; }
  uint64_t pairs_of(int width) const { return sets_.by_width[width]; }

  F lo(int c) const {
    const __m256i zero = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(block_ + 2 * c));
    return _mm512_mul_ps(step(c), _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(zero)));
  }
  F step(int c) const { return load_steps(block_ + format::trellis_step_offset(kD) + c); }
  F largest_codes(int p) const {
    return largest_of(_mm512_add_epi32(pair_widths(widths() + p), _mm512_set1_epi32(1)));
  }

  template <int kWidth>
  RILLKV_INLINE PairCodes codes(int p) const {
    PairCodes codes = {};
    if constexpr (kWidth > format::kMinWidth) {
      Planes at = begin_;
      format::advance(at, kTokens, sets_.planes((uint64_t{1} << p) - 1));
      const uint8_t* subsets = subsets_ + static_cast<size_t>(p) * (2 * kSubset);
      const auto load = [&](I & high, I & low) __attribute__((always_inline)) {
        if constexpr (kWidth == 5) {
          load_level_indices(at, subsets, high, low);
        } else {
          load_level_fields<kWidth - 1>(at, subsets, high, low);
        }
      };
      load(codes.high1, codes.low1);
      format::advance(at, kTokens, kWidth - 2);
      subsets += kSubset;
      load(codes.high2, codes.low2);
    }
    return codes;
  }

 private:
  static constexpr size_t kSubset = format::plane_bytes(kTokens, 2);
  const uint8_t* widths() const { return block_ + format::trellis_widths_offset(kD); }

  const uint8_t *block_ = nullptr, *subsets_ = nullptr;
  PairSets sets_;
  Planes begin_;
  size_t bytes_ = 0;
};

/// Calls visit(p, codes) for the pairs of one width and prefetches a step ahead for each.
template <int kWidth, class Keys, class Visit>
RILLKV_INLINE void for_each_pair(const Keys& keys, Ahead& ahead, const Visit& visit) {
  uint64_t left = keys.pairs_of(kWidth);
  if constexpr (Keys::kApart) {
    // The next pair's codes come beside the work on one: its own, put together in many steps, would
    // be waited for.
    if (left == 0) return;
    int p = __builtin_ctzll(left);
    PairCodes codes = keys.template codes<kWidth>(p);
    for (;;) {
      left &= left - 1;
      ahead.step_pair();
      if (left == 0) break;
      const int q = __builtin_ctzll(left);
      const PairCodes next = keys.template codes<kWidth>(q);
      visit(p, codes);
      codes = next;
      p = q;
    }
    visit(p, codes);
  } else {
    for (; left != 0; left &= left - 1) {
      const int p = __builtin_ctzll(left);
      ahead.step_pair();
      visit(p, keys.template codes<kWidth>(p));
    }
  }
}

// A code as a number z from -1 to 1, so that a channel's value is centre + range z, and 2^15 z a
// word, so that vpmulhrsw makes the product:
//
//   up to 4 bits  z = code / half - 1, half = (2^width - 1) / 2: tables of the 16 values are made
//   beyond        z = code / half - 1, half = 2^(width - 1): the code itself, in a byte
//
// Where value = lo + step code, range = half step and centre = lo + range.

/// `half` of 16 pairs whose largest codes these are.
inline F half_the_codes(F largest) {
  const F twice =
      _mm512_mask_add_ps(largest, _mm512_cmp_ps_mask(largest, _mm512_set1_ps(15.0f), _CMP_GT_OQ),
                         largest, _mm512_set1_ps(1.0f));
  return _mm512_mul_ps(twice, _mm512_set1_ps(0.5f));
}

/// Up to 4 bits: 2^15 z of code i, in both words of lane i.
template <int kWidth>
RILLKV_INLINE I table_of_words() {
  static_assert(kWidth <= 4);
  static constexpr struct Table {
    alignas(64) uint32_t lanes[16];
    constexpr Table() : lanes() {
      constexpr int kLargest = (1 << kWidth) - 1;
      for (int code = 0; code <= kLargest; ++code) {
        const double z = (2.0 * code - kLargest) / kLargest;
        const int word = static_cast<int>(32767.0 * z + (z < 0 ? -0.5 : 0.5));
        lanes[code] = (static_cast<uint32_t>(word) & 0xFFFFu) * 0x10001u;
      }
    }
  } kTable;
  return _mm512_load_si512(kTable.lanes);
}

/// Beyond 4 bits: 2^7 z as signed bytes, in byte b of lane i those of the tokens 32 b + i (`even`)
/// and 32 b + 16 + i (`odd`).
template <int kWidth>
struct SignedCodes {
  static_assert(kWidth > 4);
  I even, odd;

  RILLKV_INLINE SignedCodes(I high, I rest) {
    const I top = _mm512_set1_epi8(static_cast<char>(0xF0));
    const I signs = _mm512_xor_si512(high, _mm512_set1_epi8(static_cast<char>(0x88)));
    even = _mm512_ternarylogic_epi32(top, _mm512_slli_epi32(signs, 4), rest, 0xCA);  // top ? : low
    odd = _mm512_ternarylogic_epi32(top, signs, _mm512_srli_epi32(rest, 4), 0xCA);
  }
};

/// The same of 5 bits, where half = 16, so that a product is what vpmulhrsw makes of the code
/// itself: of code i in word i, and in both words of dword i, of dword i - 16 from 16 on.
constexpr uint32_t word_of_32(int code) {
  return static_cast<uint32_t>((code - 16) * 2048) & 0xFFFFu;
}
RILLKV_INLINE I table_of_32_words() {
  static constexpr struct Table {
    alignas(64) uint16_t words[32];
    constexpr Table() : words() {
      for (int code = 0; code < 32; ++code) words[code] = static_cast<uint16_t>(word_of_32(code));
    }
  } kTable;
  return _mm512_load_si512(kTable.words);
}
struct TwoTables {
  I first, second;
};
RILLKV_INLINE TwoTables tables_of_16_dwords() {
  static constexpr struct Table {
    alignas(64) uint32_t lanes[32];
    constexpr Table() : lanes() {
      for (int code = 0; code < 32; ++code) lanes[code] = word_of_32(code) * 0x10001u;
    }
  } kTable;
  return {_mm512_load_si512(kTable.lanes), _mm512_load_si512(kTable.lanes + 16)};
}

/// sum += a . b, words to dwords; of a single b, the same for all dwords. Not the intrinsic, of
/// which gcc 12 copies the sum twice.
RILLKV_INLINE void add_products(I& sum, I a, const int16_t* b) {
  asm("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(a), "m"(*reinterpret_cast<const I*>(b)));
}
RILLKV_INLINE void add_products(I& sum, I a, const int32_t& b) {
  asm("vpdpwssd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(a), "m"(b));
}

}  // namespace
}  // namespace rillkv::kernels::cpu::avx512
