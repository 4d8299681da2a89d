// Decode attention over trellis blocks (packed_format.h): what differs from channel blocks of keys
// (decode_keys.cuh) and values (decode_values.cuh). trellis_levels.cuh has the levels.
//
// Subsets. The crumb planes of j come from path planes once a block, a thread a channel, into
// shared memory of their own. Path planes travel before the rest, with the keys' scales and, of
// values, with the keys before: so both kinds are made where the CTA waits for a copy anyway, and
// cost no barrier.
//
// Keys. A level of w bits of code is to a lane a code of w + 1 bits: step (zero + L) is centre +
// unit z as with other blocks, and the queries take both.
//
// Values. Blocks are channel-major: rows of an A operand are channels, row g of operand m channel
// 8 m + g and row g + 8 its partner D / 2 further on. A pair's channels have one width and planes
// that are neighbours, and all operands but one are of one width. What is a value,
//
//   step_t g (2 L + 1 - 2^(w + 1)) = step_t 2 g 2^-s (2^s L - 2^s (2^w - 1/2)),
//
// never becomes one: A operands are 1024 + 2^s L, bits in the mantissa of 1024, exact in fp16;
// probabilities take step_t, in units of the warp's largest; and what is left, a factor and an
// offset of a channel, is the same for all blocks and comes last (settle_values). The sum of the
// probabilities that the offset is multiplied by is one more row of the product, of ones: the same
// rounded probabilities, so nothing is left of 1024 but fp32's rounding, 2^-24 of nine times the
// largest value.
#pragma once

#include <cstdint>

#include "kernels/cuda/attention_mma.cuh"
#include "kernels/cuda/channel_pairs.cuh"
#include "kernels/cuda/decode_keys.cuh"
#include "kernels/cuda/decode_values.cuh"
#include "kernels/cuda/trellis_levels.cuh"

namespace rillkv::kernels::cuda {

// ---- copies ----

template <int D>
__device__ constexpr int trellis_key_codes_at() {
  return static_cast<int>(
      format::trellis_codes_offset(format::trellis_key_path_offset(D), D, kAttentionTile));
}
template <int D>
__device__ constexpr int trellis_value_path_at() {
  return static_cast<int>(format::trellis_value_path_offset(kAttentionTile));
}
template <int D>
__device__ constexpr int trellis_value_codes_at() {
  return static_cast<int>(format::trellis_codes_offset(
      static_cast<size_t>(trellis_value_path_at<D>()), D, kAttentionTile));
}

/// All threads; kBytes a multiple of 16.
template <int kBytes>
__device__ inline void copy_bytes_async(uint8_t* to, const uint8_t* from) {
  const int thread = opaque(static_cast<int>(threadIdx.x));
  const uint32_t shared = shared_address(to) + 16 * static_cast<uint32_t>(thread);
  from += 16 * thread;
  unrolled<0, kBytes, 16 * kDecodeThreads>([&](auto at) {
    if (at.value + 16 * kDecodeThreads <= kBytes || 16 * thread < kBytes - at.value) {
      copy_async_16<at.value>(shared, from);
    }
  });
}

/// Scales, widths and path planes of a key block, and R(t0).
template <int D>
__device__ inline void copy_trellis_key_scales(uint8_t* to, float* start, const uint8_t* block,
                                               const float* rotation) {
  copy_bytes_async<trellis_key_codes_at<D>()>(to, block);
  const int thread = opaque(static_cast<int>(threadIdx.x)),
            i = 4 * (thread - (kDecodeThreads - D / 4));
  if (i >= 0) copy_async_16(shared_address(start + i), rotation + i);
}
/// The rest of it, after its widths have come to `to`.
template <int D>
__device__ inline void copy_trellis_key_codes(uint8_t* to, const uint8_t* block, int known_bytes) {
  int bytes = known_bytes;
  if (bytes <= 0) {
    uint32_t sum = 0;
#pragma unroll
    for (int i = 0; i < D / 64; ++i) {
      const uint32_t pair = to[format::trellis_widths_offset(D) + lane_id() + 32 * i];
      sum += (pair & 15) + (pair >> 4);
    }
    sum = __reduce_add_sync(0xffffffffu, sum);
    bytes = static_cast<int>(format::trellis_key_bytes(D, kAttentionTile, static_cast<int>(sum)));
  }
  constexpr int kCodes = trellis_key_codes_at<D>();
  copy_block_async<D, kDecodeThreads>(to + kCodes, block + kCodes, bytes - kCodes);
}
template <int D>
__device__ inline void copy_trellis_value_path(uint8_t* to, const uint8_t* block) {
  constexpr int kPath = trellis_value_path_at<D>();
  copy_bytes_async<trellis_value_codes_at<D>() - kPath>(to + kPath, block + kPath);
}
/// The rest of a value block.
template <int D>
__device__ inline void copy_trellis_values(uint8_t* to, const uint8_t* block, int bytes) {
  constexpr int kCodes = trellis_value_codes_at<D>();
  copy_block_async<D, kDecodeThreads>(to + kCodes, block + kCodes, bytes - kCodes);
  const int thread = opaque(static_cast<int>(threadIdx.x));
  if (thread < kAttentionTile / 16) {
    copy_async_16(shared_address(to + 16 * thread), block + 16 * thread);
  }
}

// ---- subsets ----

/// Bytes from word i to word i + 4 of a channel's subsets (DecodeShared::subset_bytes).
template <int D>
inline constexpr uint32_t kSubsetTail = 16 * D + 16;

/// Called by D / 32 warps, `position` a thread's (format::channel_at); `path` of position 0.
template <int D>
__device__ inline void write_subsets(uint32_t subsets, const uint8_t* path, int position) {
  const auto at = 16 * static_cast<uint32_t>(position);
  const SubsetPlane j = subsets_of(load_shared_16(shared_address(path) + at));
  store_shared_16(subsets + at, j.head);
  store_shared_16(subsets + at + kSubsetTail<D>, j.tail);
}
/// Of word `word` of the nibbles (modulo 16), for position 0.
template <int D>
__device__ inline uint32_t subset_word(uint32_t subsets, uint32_t word) {
  return subsets + (word >> 2 & 1) * kSubsetTail<D> + 4 * (word & 3);
}

// ---- keys ----

/// What prepare_keys reads of a trellis block; widths are those of b.
template <int D>
struct TrellisScales {
  const uint8_t* meta;

  __device__ PairPlace<D, 1> place(int pair) const {
    return {meta + format::trellis_widths_offset(D), pair};
  }
  __device__ CodeScale scale(int channel, int width) const {
    const int half = 2 << width;  // of the levels
    const float step = step8_fast(meta[format::trellis_step_offset(D) + channel]);
    const int zero = reinterpret_cast<const int16_t*>(meta)[channel];
    return {step * static_cast<float>(zero + half), step * static_cast<float>(half)};
  }
};

/// A lane's levels of a key block.
template <int D>
struct TrellisCodes {
  WordOfPlanes words;
  LevelTurns turns;
  uint32_t subsets;
  using Constants = LevelConstants;

  __device__ TrellisCodes(const uint8_t* codes, uint32_t subsets_at, uint32_t word)
      : words(shared_address(codes), opaque(word)),
        turns(opaque(word)),
        subsets(subset_word<D>(subsets_at, opaque(word))) {
    turns.crumbs = opaque(turns.crumbs);
    turns.bits = opaque(turns.bits);
  }

  /// What expand_levels takes, of the lower channel of a pair or of its partner.
  template <int kWidth, bool kNext>
  __device__ void merge(uint32_t& high, uint32_t& low, format::PlaneOffsets at,
                        uint32_t subset_at) const {
    constexpr int kPart = kWidth - 1;
    constexpr format::PlaneOffsets kAt = format::plane_extents(
        kNext ? format::planes_of(kPart) : format::PlaneCounts{}, kAttentionTile);
    uint32_t nibble = 0, crumb = 0, bit = 0;
    if constexpr (format::nibble_planes(kPart) > 0) {
      nibble = load_shared<kAt.nibbles>(words.nibbles + at.nibbles);
    }
    if constexpr (format::crumb_planes(kPart) > 0) {
      crumb = load_shared<kAt.crumbs>(words.crumbs + at.crumbs);
    }
    if constexpr (format::bit_planes(kPart) > 0) {
      bit = load_shared<kAt.bits>(words.bits + at.bits);
    }
    merge_levels<kWidth>(high, low, nibble, crumb, bit, load_shared < kNext ? 16 : 0 > (subset_at),
                         turns);
  }
};

/// As for ChannelCodes.
template <int D>
__device__ inline void expand_pair(uint32_t (&z)[8], const TrellisCodes<D>& lane, uint4 place,
                                   const LevelConstants& constants) {
  const format::PlaneOffsets at = {place.x, place.y, place.z};
  const uint32_t subset_at = lane.subsets + (place.w >> 9) * 32;
  const auto levels = [&](auto w) {
    constexpr bool kTwo = decltype(w)::value >= 4;
    uint32_t high_a, low_a, high_b, low_b, x[4];
    lane.template merge<w.value, false>(high_a, low_a, at, subset_at);
    lane.template merge<w.value, true>(high_b, low_b, at, subset_at);
    expand_levels<w.value>(x, __byte_perm(high_a, high_b, 0x5410),
                           kTwo ? __byte_perm(low_a, low_b, 0x5410) : 0, constants);
#pragma unroll
    for (int e = 0; e < 4; ++e) z[e] = x[e];
    expand_levels<w.value>(x, __byte_perm(high_a, high_b, 0x7632),
                           kTwo ? __byte_perm(low_a, low_b, 0x7632) : 0, constants);
#pragma unroll
    for (int e = 0; e < 4; ++e) z[4 + e] = x[e];
  };
  // b's bits; the commonest first.
  const uint32_t part = place.w & 255;
  if (part == 3) {
    levels(Constant<4>());
  } else if (part == 4) {
    levels(Constant<5>());
  } else if (part < 8) {
    for_width<format::kMaxTrellisWidth>(part + 1, levels);
  }
}

// ---- values ----

/// Scales of a warp's tokens, relative to `reference`, a scale byte of the warp's.
struct TokenWeights {
  float of[2][2];  // [operand][tokens g, g + 8]
  __device__ float operator()(int t, int i, float probability) const {
    return probability * of[t][i];
  }
};
/// Bytes of a scale, eight to the octave, that scales may pass the reference by: weighted
/// probabilities of up to 2^12 (kMaxGrowth), inside fp16.
inline constexpr int kMaxScaleGrowth = 32;

/// Of the tokens of scores operands first_operand and the next one of half `half` of a block. The
/// reference follows the largest scale; earlier sums `o` are brought to it.
template <int kChannels>
__device__ inline TokenWeights weigh_tokens(int& reference, float (&o)[kChannels][4],
                                            const uint8_t* scales, int half, int first_operand) {
  const uint32_t at = shared_address(scales) + static_cast<uint32_t>(8 * half + 16 * first_operand +
                                                                     (opaque(lane_id()) >> 2));
  const uint32_t byte[2][2] = {{load_shared_1<0>(at), load_shared_1<64>(at)},
                               {load_shared_1<16>(at), load_shared_1<80>(at)}};
  const auto most = static_cast<int>(__reduce_max_sync(
      0xffffffffu, max(max(byte[0][0], byte[0][1]), max(byte[1][0], byte[1][1]))));
  if (most > reference + kMaxScaleGrowth) {  // the first tile, and hardly ever another
    const float fade = exp2_fast(0.125f * static_cast<float>(reference - most));
#pragma unroll
    for (int m = 0; m < kChannels; ++m) {
#pragma unroll
      for (int e = 0; e < 4; ++e) o[m][e] *= fade;
    }
    reference = most;
  }
  const float less = -0.125f * static_cast<float>(reference);
  TokenWeights weights;
#pragma unroll
  for (int t = 0; t < 2; ++t) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      weights.of[t][i] = exp2_fast(fmaf(static_cast<float>(byte[t][i]), 0.125f, less));
    }
  }
  return weights;
}

/// Levels of kWidth bits lie so many bits above the bottom of what level_mantissas puts into the
/// mantissa of 1024.
constexpr RILLKV_HOST_DEVICE int level_shift(int width) {
  return width <= 3 ? 3 - width : width == 4 ? 2 : 7 - width;
}
/// Nibbles 0 .. 3 of both halves of words from merge_levels to 1024 + 2^level_shift L.
template <int kWidth>
__device__ inline void level_mantissas(uint32_t (&x)[4], uint32_t high, uint32_t low,
                                       uint32_t magic) {
  if constexpr (kWidth <= 3) {
    constexpr uint32_t kNibble = (15u << (3 - kWidth) & 15) * 0x00010001u;
    x[0] = masked_or<kNibble>(high, magic);
    x[1] = masked_or<kNibble>(high >> 4, magic);
    x[2] = masked_or<kNibble>(high >> 8, magic);
    x[3] = masked_or<kNibble>(high >> 12, magic);
  } else {
    const uint32_t even = select_bits<0xf0f0f0f0u>(high << 4, low);
    const uint32_t odd = select_bits<0xf0f0f0f0u>(high, low >> 4);
    x[0] = masked_or<0x00ff00ffu>(even, magic);
    x[1] = masked_or<0x00ff00ffu>(odd, magic);
    x[2] = __byte_perm(even, magic, 0x7351);
    x[3] = __byte_perm(odd, magic, 0x7351);
  }
}

/// A lane's words of a value block: rows g and g + 8 of operand 0, if all pairs were of one width.
template <int D>
struct TrellisRows {
  uint32_t nibbles, crumbs, bits, subsets;

  /// kPart: bits of b; `codes` the block's. Pairs from `wide` on have one less than those before:
  /// those before are then nowhere.
  template <int kPart, bool kWide>
  __device__ static TrellisRows of(uint32_t codes, uint32_t subset_word, uint32_t word,
                                   uint32_t pair, int wide) {
    constexpr format::PlaneOffsets kPair =
        format::plane_extents(2 * format::planes_of(kPart), kAttentionTile);
    constexpr int kNarrow = kWide ? kPart - 1 : kPart;
    const auto total = format::plane_extents(format::trellis_value_planes(D / 2, kNarrow + 1, wide),
                                             kAttentionTile);
    format::PlaneOffsets before = {};
    if constexpr (!kWide) {
      const auto n = static_cast<uint32_t>(wide);
      constexpr format::PlaneOffsets kWidePair =
          format::plane_extents(2 * format::planes_of(kPart + 1), kAttentionTile);
      before = {n * (kWidePair.nibbles - kPair.nibbles), n * (kWidePair.crumbs - kPair.crumbs),
                n * (kWidePair.bits - kPair.bits)};
    }
    return {codes + before.nibbles + pair * kPair.nibbles + 4 * word,
            codes + total.nibbles + before.crumbs + pair * kPair.crumbs + 4 * (word & 7),
            codes + total.nibbles + total.crumbs + before.bits + pair * kPair.bits + 4 * (word & 3),
            subset_word + 32 * pair};
  }
};

/// A operands of 16 channels: x[row][e], of the lane's four nibbles.
template <int D, int kWidth, int kOperand>
__device__ inline void trellis_rows(uint32_t (&x)[2][4], const TrellisRows<D>& rows,
                                    const LevelTurns& turns, uint32_t bytes, uint32_t magic) {
  constexpr int kPart = kWidth - 1;
  constexpr format::PlaneOffsets kPlane =
      format::plane_extents(format::planes_of(kPart), kAttentionTile);
  unrolled<0, 2, 1>([&](auto row) {
    constexpr int kPosition = 16 * kOperand + row.value;
    const auto word = [&](uint2 both) { return __byte_perm(both.x, both.y, bytes); };
    uint32_t nibble = 0, crumb = 0, bit = 0;
    if constexpr (format::nibble_planes(kPart) > 0) {
      nibble = word(load_shared_8<kPosition * kPlane.nibbles>(rows.nibbles));
    }
    if constexpr (format::crumb_planes(kPart) > 0) {
      crumb = word(load_shared_8<kPosition * kPlane.crumbs>(rows.crumbs));
    }
    if constexpr (format::bit_planes(kPart) > 0) {
      bit = word(load_shared_8<kPosition * kPlane.bits>(rows.bits));
    }
    const uint32_t subset = word(load_shared_8<kPosition * 16>(rows.subsets));
    uint32_t high, low;
    merge_levels<kWidth>(high, low, nibble, crumb, bit, subset, turns);
    level_mantissas<kWidth>(x[row.value], high, low, magic);
  });
}

/// o[0 .. D / 16) += (1024 + 2^s L)^T p, o[D / 16] += ones^T p over the tokens of scores operands
/// first_operand and the next one, of half `half` of a value block of `width` bits.
template <int D>
__device__ inline void add_trellis_values(float (&o)[D / 16 + 1][4], const Probabilities (&p)[2],
                                          const uint8_t* codes, uint32_t subsets, int width,
                                          int wide_pairs, int half, int first_operand) {
  // Opaque: what the widths make of it is not kept through the loop over blocks.
  const auto lane = static_cast<uint32_t>(opaque(lane_id())), g = lane >> 2;
  // Words `word` and the next one: the lane's tokens of operand t are their nibbles t and t + 4.
  const uint32_t word = static_cast<uint32_t>(8 * half) + 2 * (lane & 3);
  const auto from = static_cast<uint32_t>(first_operand / 2);
  const uint32_t bytes = from | (from + 2) << 4 | (from + 4) << 8 | (from + 6) << 12;
  // Operands of wider pairs alone, and the one that has a few.
  const int whole = wide_pairs / 8, mixed = wide_pairs % 8 != 0 ? whole : -1;
  const auto wide_rows = static_cast<uint32_t>(wide_pairs % 8);
  const LevelTurns turns(word);
  const uint32_t subset_at = subset_word<D>(subsets, word);
  const uint32_t codes_at = opaque(shared_address(codes));
  const uint32_t magic = opaque(0x64006400u), one = opaque(0x3c003c00u);
  const uint32_t ones[4] = {one, one, one, one};
#pragma unroll
  for (int j = 0; j < 2; ++j) mma_16x8x16(o[D / 16], ones, p[j].b[0], p[j].b[1]);
  for_width<format::kMaxTrellisWidth>(static_cast<uint32_t>(width), [&](auto w) {
    constexpr int kWidth = w.value;
    constexpr bool kMayWiden = kWidth < format::kMaxTrellisWidth;
    const auto narrow =
        TrellisRows<D>::template of<kWidth - 1, false>(codes_at, subset_at, word, g, wide_pairs);
    const auto wide = TrellisRows<D>::template of < kMayWiden ? kWidth : kWidth - 1,
               kMayWiden > (codes_at, subset_at, word, g, wide_pairs);
    unrolled<0, D / 16, 1>([&](auto m) {
      const auto add = [&](auto own, const TrellisRows<D>& rows) {
        uint32_t x[2][4];
        trellis_rows<D, own.value, m.value>(x, rows, turns, bytes, magic);
        if (m.value == mixed) {
          asm volatile("" ::: "memory");  // a branch, not a choice for every operand
          const bool keep = (g < wide_rows) == (own.value != kWidth);
#pragma unroll
          for (int e = 0; e < 8; ++e) x[e / 4][e % 4] = keep ? x[e / 4][e % 4] : 0;
        }
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const uint32_t a[4] = {x[0][j], x[1][j], x[0][j + 2], x[1][j + 2]};
          mma_16x8x16(o[m.value], a, p[j].b[0], p[j].b[1]);
        }
      };
      if constexpr (kMayWiden) {
        if (m.value < whole) {
          add(Constant<kWidth + 1>(), wide);
          return;
        }
        // Pairs of both widths: an operand of each, in which the others' rows are zeros.
        if (m.value == mixed) add(Constant<kWidth + 1>(), wide);
      }
      add(Constant<kWidth>(), narrow);
    });
  });
}

/// Sums of add_trellis_values to those of values, and to the channels that other tiles have:
/// operand m rows 16 m + g, 16 m + 8 + g.
template <int D>
__device__ inline void settle_values(float (&out)[D / 16][4], const float (&o)[D / 16 + 1][4],
                                     int reference, int width, int wide_pairs) {
  const float unit = 2.0f * exp2_fast(fmaf(static_cast<float>(reference), 0.125f, -17.0f));
  const auto g = lane_id() >> 2;
#pragma unroll
  for (int m = 0; m < D / 16; ++m) {
    const bool wide = 8 * m + g < wide_pairs;
    const int own = wide ? width + 1 : width, shift = level_shift(own);
    const float factor = unit * (wide ? format::kWideGain : 1.0f) / static_cast<float>(1 << shift);
    const float offset =
        1024.0f + static_cast<float>((1 << shift << own)) - 0.5f * static_cast<float>(1 << shift);
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int k = m + (e >> 1) * (D / 16);  // eights of channels
      out[k / 2][2 * (k & 1) + (e & 1)] = factor * fmaf(-offset, o[D / 16][e & 1], o[m][e]);
    }
  }
}

}  // namespace rillkv::kernels::cuda
