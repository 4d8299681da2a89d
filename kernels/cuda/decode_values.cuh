// Decode attention: o += V^T p from packed values, codes to mma operands without a tile between.
// A operands are channels x tokens: rows g and g + 8 of operand m are channels 16 m + g and
// 16 m + 8 + g, a lane 4 g + q has tokens 2 q, 2 q + 1, 2 q + 8 and 2 q + 9 of 16.
//
// The 16 tokens of column k of scores operand t (decode_keys.cuh) are 8 half + 16 t + k for k < 8
// and 64 more than k - 8 has for the rest, so a lane's are two neighbours and two neighbours 64
// further on.
#pragma once

#include <cstdint>

#include "kernels/cuda/channel_pairs.cuh"
#include "kernels/cuda/fill_tokens.cuh"

namespace rillkv::kernels::cuda {

/// Probabilities of 16 tokens, a B operand: [16 tokens x 8 rows].
struct Probabilities {
  uint32_t b[2];
};

/// A lane's words of a row of a token block: word g of its nibble planes and, at D = 128, g + 8,
/// and what belongs to them.
template <int D>
struct WordsOfRow {
  static constexpr uint32_t kWords = D / 8;  // of a nibble plane
  static constexpr int kSets = D / 64;
  uint32_t nibbles, crumbs, bits;
  uint32_t crumb_shift, bit_shift;  // to the top of the nibbles, of the last set

  /// `token`: the row.
  __device__ WordsOfRow(const TokenPlanes& planes, int token, uint32_t g)
      : nibbles(shared_address(planes.nibbles + token * planes.row.nibbles) + 4 * g),
        crumbs(shared_address(planes.crumbs + token * planes.row.crumbs) +
               4 * (g & (kWords / 2 - 1))),
        bits(shared_address(planes.bits + token * planes.row.bits) + 4 * (g & (kWords / 4 - 1))),
        crumb_shift(D == 128 ? 0 : 2 - 2 * (g / (kWords / 2))),
        bit_shift((D == 128 ? 1 : 3) - g / (kWords / 4)) {}

  /// What expand_codes takes, of the row kToken further on.
  template <int kWidth, int kToken>
  __device__ void merge(uint32_t (&high)[kSets], uint32_t (&low)[kSets]) const {
    constexpr format::PlaneOffsets kRow = format::plane_extents(format::planes_of(kWidth), D);
    uint32_t crumb = 0, bit = 0;
    if constexpr (format::crumb_planes(kWidth) > 0) {
      crumb = load_shared<kToken * kRow.crumbs>(crumbs) << crumb_shift;
    }
    if constexpr (format::bit_planes(kWidth) > 0) {
      bit = load_shared<kToken * kRow.bits>(bits) << bit_shift;
    }
    unrolled<0, kSets, 1>([&](auto set) {
      uint32_t first = 0, second = 0;
      if constexpr (format::nibble_planes(kWidth) > 0) {
        first = load_shared<kToken * kRow.nibbles + 32 * set.value>(nibbles);
      }
      if constexpr (format::nibble_planes(kWidth) > 1) {
        second = load_shared<kToken * kRow.nibbles + 32 * set.value + D / 2>(nibbles);
      }
      // Of two sets, the first has its bits below the second's.
      constexpr int kEarlier = kSets - 1 - set.value;
      merge_planes<kWidth>(high[set.value], low[set.value], first, second, crumb << 2 * kEarlier,
                           bit << 2 * kEarlier);
    });
  }
};

/// o += V^T p over the tokens first, first + 1, first + 64, first + 65 (even; this lane's) of a
/// token block of kWidth bits.
template <int D, int kWidth>
__device__ inline void add_token_rows(float (&o)[D / 16][4], const Probabilities& p,
                                      const uint8_t* block, int groups, int first,
                                      const ExpandConstants& constants) {
  constexpr int kSets = D / 64;
  constexpr int kGroups = D / 64;  // at most; tokens of an operand have one
  const auto g = static_cast<uint32_t>(lane_id() >> 2);
  const TokenPlanes planes(block, D, kAttentionTile, groups, false, kWidth);
  const WordsOfRow<D> words(planes, first, g);
  uint32_t high[4][kSets], low[4][kSets];  // of the four tokens
  words.template merge<kWidth, 0>(high[0], low[0]);
  words.template merge<kWidth, 1>(high[1], low[1]);
  words.template merge<kWidth, 64>(high[2], low[2]);
  words.template merge<kWidth, 65>(high[3], low[3]);

  // Scales of two neighbours, in fp16 as they are stored: a step times a power of two is exact, and
  // the centre is rounded once.
  const uint32_t lo = shared_address(block) + 2 * static_cast<uint32_t>(first);
  const uint32_t step = lo + static_cast<uint32_t>(groups * 2 * kAttentionTile);
  uint32_t centre[kGroups][2], unit[kGroups][2];
#pragma unroll
  for (int group = 0; group < kGroups; ++group) {
    const uint32_t at = group > 0 && groups > 1 ? 2 * kAttentionTile : 0;
    const uint32_t factor = twice_power<kWidth - 1>();
    unit[group][0] = hmul2(load_shared(step + at), factor);
    unit[group][1] = hmul2(load_shared<128>(step + at), factor);
    centre[group][0] = hadd2(load_shared(lo + at), unit[group][0]);
    centre[group][1] = hadd2(load_shared<128>(lo + at), unit[group][1]);
  }

#pragma unroll
  for (int part = 0; part < 2; ++part) {  // of a word: elements 0..3, 4..7
    const uint32_t halves = part == 0 ? 0x5410 : 0x7632;
    uint32_t v[kSets][2][4];  // [set][tokens][element]
#pragma unroll
    for (int set = 0; set < kSets; ++set) {
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        expand_codes<kWidth>(
            v[set][k], __byte_perm(high[2 * k][set], high[2 * k + 1][set], halves),
            kWidth > 4 ? __byte_perm(low[2 * k][set], low[2 * k + 1][set], halves) : 0, constants);
        const int group = D == 128 ? part : 0;
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          v[set][k][e] = hfma2(unit[group][k], v[set][k][e], centre[group][k]);
        }
      }
    }
    if constexpr (D == 128) {  // element e of the two words: rows of operand e
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const uint32_t a[4] = {v[0][0][e], v[1][0][e], v[0][1][e], v[1][1][e]};
        mma_16x8x16(o[4 * part + e], a, p.b[0], p.b[1]);
      }
    } else {  // two elements of the word
#pragma unroll
      for (int e = 0; e < 4; e += 2) {
        const uint32_t a[4] = {v[0][0][e], v[0][0][e + 1], v[0][1][e], v[0][1][e + 1]};
        mma_16x8x16(o[2 * part + e / 2], a, p.b[0], p.b[1]);
      }
    }
  }
}

/// o += V^T p over the tokens of scores operands t = first_operand and the next one, of half `half`
/// of a token block.
template <int D>
__device__ inline void add_token_values(float (&o)[D / 16][4], const Probabilities (&p)[2],
                                        const uint8_t* block, int groups, int width, int half,
                                        int first_operand) {
  const int first = 8 * half + 16 * first_operand + 2 * (lane_id() & 3);
  const ExpandConstants constants;
  for_width(static_cast<uint32_t>(width), [&](auto w) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      add_token_rows<D, w.value>(o, p[j], block, groups, first + 16 * j, constants);
    }
  });
}

/// Policy "ema". Called by the D / 64 warps that hold a thread for each pair. `table`: uint4 [D] in
/// shared memory, of each channel the offsets of its planes, then width << 16 | unit in fp16.
template <int D>
__device__ inline void prepare_channel_values(uint32_t table, const uint8_t* meta, int pair) {
  constexpr int kHalf = D / 2;
  const PairPlace<D> place(meta + format::channel_widths_offset(D, true), pair);
  const int widths[2] = {format::first_width(place.own), format::second_width(place.own)};
  format::PlaneOffsets at = plane_offsets(place.before, place.total, kAttentionTile);
  const auto* step = reinterpret_cast<const uint16_t*>(meta);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int channel = pair + i * kHalf;
    const CodeScale scale = code_scale(nullptr, step, channel, widths[i], true);
    store_shared_16(table + 16 * static_cast<uint32_t>(channel),
                    {at.nibbles, at.crumbs, at.bits,
                     static_cast<uint32_t>(widths[i]) << 16 |
                         (Pair<__half>::pack(scale.unit, 0.0f) & 0xffffu)});
    at = at + format::plane_extents(format::planes_of(widths[i]), kAttentionTile);
  }
}

/// The same for a channel block of values; widths differ from lane to lane.
template <int D>
__device__ inline void add_channel_values(float (&o)[D / 16][4], const Probabilities (&p)[2],
                                          uint32_t table, const uint8_t* block, int half,
                                          int first_operand) {
  const auto lane = static_cast<uint32_t>(lane_id()), g = lane >> 2;
  const uint32_t codes =
      shared_address(block) + static_cast<uint32_t>(format::channel_codes_offset(D, true));
  // Words `word` and the next one: the lane's tokens of operand t are their nibbles t and t + 4.
  const uint32_t word = static_cast<uint32_t>(8 * half) + 2 * (lane & 3);
  const WordOfPlanes one(codes, word), next(codes, word + 1);
  const auto from = static_cast<uint32_t>(first_operand / 2);
  const uint32_t bytes = from | (from + 2) << 4 | (from + 4) << 8 | (from + 6) << 12;
  const ExpandConstants constants;
#pragma unroll
  for (int m = 0; m < D / 16; ++m) {
    uint32_t v[2][4];  // [row g, g + 8][operand, half by half]
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      const uint4 at = load_shared_16(table + 16 * (g + static_cast<uint32_t>(16 * m + 8 * row)));
      const int width = static_cast<int>(at.w >> 16);
      uint32_t high_a, low_a, high_b, low_b;
      one.merge_any(high_a, low_a, {at.x, at.y, at.z}, width);
      next.merge_any(high_b, low_b, {at.x, at.y, at.z}, width);
      expand_codes<8>(v[row], __byte_perm(high_a, high_b, bytes), __byte_perm(low_a, low_b, bytes),
                      constants);
      const uint32_t unit = low_twice(at.w);
#pragma unroll
      for (int e = 0; e < 4; ++e) v[row][e] = hmul2(unit, v[row][e]);
    }
    __syncwarp();
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const uint32_t a[4] = {v[0][j], v[1][j], v[0][j + 2], v[1][j + 2]};
      mma_16x8x16(o[m], a, p[j].b[0], p[j].b[1]);
    }
  }
}

}  // namespace rillkv::kernels::cuda
