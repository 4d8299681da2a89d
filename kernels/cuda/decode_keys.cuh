// Decode attention: scores of a packed channel block of keys, from codes to mma operands without a
// tile between. Keys are never rotated: with t0 the block's first position and j a token in it,
//
//   q . R(t0 + j) k = sum over pairs of  c_j (a Q1 + b Q2) + s_j (a Q2 - b Q1),   Q = R(-t0) q,
//
// a and b the pair's channels, c_j and s_j of R(j), one table for all blocks. With
// a = centre + unit z the units and centres go to the side of the queries, of which there are few:
//
//   c_j z_a (unit_a Q1) + c_j z_b (unit_b Q2) + s_j z_a (unit_a Q2) + s_j z_b (-unit_b Q1)
//     + c_j (centre_a Q1 + centre_b Q2) + s_j (centre_a Q2 - centre_b Q1)
//
// so a lane expands the codes of a pair (a PRMT brings both channels' codes of a token together, as
// fill_tokens.cuh does), multiplies them by c_j and s_j, and has an A operand, tokens x products.
// The queries are B operands, made once a block by a thread a pair (prepare_keys).
//
// A step takes four pairs (in the order of their widths), a lane one of them: lane 4 g + q has pair
// q and word 8 half + g of its planes, tokens 8 half + g + 16 e, e = 0 .. 7. Operand t of four has
// row g for e = t and row g + 8 for e = t + 4. Warps share tokens by halves and pairs by turns.
#pragma once

#include <cstdint>

#include "kernels/cuda/channel_pairs.cuh"
#include "kernels/cuda/fill_channels.cuh"
#include "kernels/cuda/tile_order.h"

namespace rillkv::kernels::cuda {

/// Rows of queries, columns of the operands that prepare_keys writes.
static_assert(kDecodeRows == 8);

/// In shared memory. Pairs and operands are in the order of the pairs' ranks.
struct KeyOperands {
  uint32_t pairs;    // uint4 [D/2]: offsets of the lower channel's planes, pair * 512 | widths: one
                     // width if both are equal, else both as in the block
  uint32_t queries;  // uint4 [D/8 steps][8 rows][4 pairs]: B of z c and z s, B of c and s, -
};

/// What prepare_keys reads of a channel block.
template <int D>
struct ChannelScales {
  const uint8_t* meta;  // the block, up to its codes
  bool symmetric;

  __device__ PairPlace<D> place(int pair) const {
    return {meta + format::channel_widths_offset(D, symmetric), pair};
  }
  /// Of a channel whose width `place` tells.
  __device__ CodeScale scale(int channel, int width) const {
    const auto* lo = reinterpret_cast<const uint16_t*>(meta);
    const auto* step =
        reinterpret_cast<const uint16_t*>(meta + format::channel_step_offset(D, symmetric));
    return code_scale(lo, step, channel, width, symmetric);
  }
};

/// Called by the D / 64 warps that hold a thread for each pair. `start` cos[D/2], sin[D/2] of
/// R(t0); `queries` [8] rows of float2 [D/2], `stride` apart.
template <int D, class Scales>
__device__ inline void prepare_keys(const KeyOperands& out, const Scales& scales,
                                    const float* start, uint32_t queries, int stride, int rows,
                                    int pair) {
  constexpr int kHalf = D / 2;
  const auto place = scales.place(pair);
  const int first = format::first_width(place.own), second = format::second_width(place.own);
  const format::PlaneOffsets at = plane_offsets(place.before, place.total, kAttentionTile);
  store_shared_16(out.pairs + 16 * static_cast<uint32_t>(place.rank),
                  {at.nibbles, at.crumbs, at.bits,
                   static_cast<uint32_t>(pair) << 9 |
                       (first == second ? static_cast<uint32_t>(first) : place.own)});

  const CodeScale a = scales.scale(pair, first), b = scales.scale(pair + kHalf, second);
  const float c = kKeyUnit * start[pair], s = kKeyUnit * start[kHalf + pair];
  // Neighbours of one width are neighbours in rank: odd steps take rows in the other order, so that
  // eight lanes meet all banks.
  const int odd = place.rank >> 2 & 1;
  uint32_t from = queries + 8 * static_cast<uint32_t>(pair) + static_cast<uint32_t>(odd * stride);
  uint32_t to = out.queries +
                static_cast<uint32_t>((place.rank >> 2) * 512 + odd * 64 + (place.rank & 3) * 16);
  const int to_next = odd != 0 ? -64 : 64, from_next = odd != 0 ? -stride : stride;
#pragma unroll 1
  for (int row = 0; row < rows; row += 2) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint2 both = load_shared_8(from + static_cast<uint32_t>(i * from_next));
      const float x = __uint_as_float(both.x), y = __uint_as_float(both.y);
      const float q1 = x * c + y * s, q2 = y * c - x * s;
      store_shared_16(
          to + static_cast<uint32_t>(i * to_next),
          {Pair<__half>::pack(a.unit * q1, b.unit * q2),
           Pair<__half>::pack(a.unit * q2, -b.unit * q1),
           Pair<__half>::pack(a.centre * q1 + b.centre * q2, a.centre * q2 - b.centre * q1), 0});
    }
    from += static_cast<uint32_t>(2 * stride);
    to += 128;
  }
}

/// A lane's codes of a channel block.
struct ChannelCodes : WordOfPlanes {
  using Constants = ExpandConstants;
  __device__ ChannelCodes(const uint8_t* codes, uint32_t word)
      : WordOfPlanes(shared_address(codes), word) {}
};

/// Codes of both channels of a pair, eight tokens: z[e] is of word's token e, the lower channel in
/// its low half.
__device__ inline void expand_pair(uint32_t (&z)[8], const ChannelCodes& words, uint4 place,
                                   const ExpandConstants& constants) {
  const format::PlaneOffsets at = {place.x, place.y, place.z};
  const uint32_t own = place.w & 255;
  const auto finish = [&](auto w, uint32_t high_a, uint32_t low_a, uint32_t high_b,
                          uint32_t low_b) {
    constexpr bool kTwo = decltype(w)::value > 4;
    uint32_t x[4];
    expand_codes<w.value>(x, __byte_perm(high_a, high_b, 0x5410),
                          kTwo ? __byte_perm(low_a, low_b, 0x5410) : 0, constants);
#pragma unroll
    for (int e = 0; e < 4; ++e) z[e] = x[e];
    expand_codes<w.value>(x, __byte_perm(high_a, high_b, 0x7632),
                          kTwo ? __byte_perm(low_a, low_b, 0x7632) : 0, constants);
#pragma unroll
    for (int e = 0; e < 4; ++e) z[4 + e] = x[e];
  };
  const auto equal = [&](auto w) {
    uint32_t high_a, low_a, high_b, low_b;
    words.template merge<w.value>(high_a, low_a, at);
    words.template merge<w.value, true>(high_b, low_b, at);
    finish(w, high_a, low_a, high_b, low_b);
  };
  if (own == 4) {
    equal(Constant<4>());
  } else if (own == 5) {
    equal(Constant<5>());
  } else if (own < 16) {
    for_width(own, equal);
  } else {
    const int first = format::first_width(own);
    uint32_t high_a, low_a, high_b, low_b;
    words.merge_any(high_a, low_a, at, first);
    words.merge_any(high_b, low_b,
                    at + format::plane_extents(format::planes_of(first), kAttentionTile),
                    format::second_width(own));
    finish(Constant<8>(), high_a, low_a, high_b, low_b);
  }
}

/// Scores of 64 tokens, half `half` of the block, over the pairs of every other step from `share`
/// on. codes(word): the lane's, for expand_pair; `rotations` is AttentionParams::in_block_half.
template <int D, typename Codes>
__device__ inline void add_key_scores(float (&s)[4][4], const KeyOperands& operands, Codes codes,
                                      const uint16_t* rotations, int half, int share) {
  const auto lane = static_cast<uint32_t>(lane_id());
  const uint32_t word = static_cast<uint32_t>(8 * half) + (lane >> 2);
  auto lane_codes = codes(word);
  const size_t angles = opaque(__cvta_generic_to_global(rotations + pair_rotations_offset(D)) +
                               16 * static_cast<size_t>(word));
  const typename decltype(lane_codes)::Constants constants;
  uint32_t pairs = operands.pairs + static_cast<uint32_t>(64 * share) + 16 * (lane & 3);
  uint32_t queries = operands.queries + static_cast<uint32_t>(512 * share) + 16 * lane;
  // Two steps at a time: their cosines and sines are one operand.
#pragma unroll 1
  for (const uint32_t end = operands.pairs + 8 * D; pairs < end; pairs += 256) {
    uint32_t cs[2][8], b_offsets[2];
#pragma unroll
    for (int step = 0; step < 2; ++step) {
      const uint4 place = load_shared_16(pairs + 128 * step);
      const uint32_t row = place.w & ~511u;
      const uint4 low = load_constant_16(angles + row), high = load_constant_16<256>(angles + row);
      uint32_t z[8];
      expand_pair(z, lane_codes, place, constants);
      __syncwarp();  // widths may differ
      const uint4 b = load_shared_16(queries);
      queries += 1024;
      b_offsets[step] = b.z;
      cs[step][0] = low.x, cs[step][1] = low.y, cs[step][2] = low.z, cs[step][3] = low.w;
      cs[step][4] = high.x, cs[step][5] = high.y, cs[step][6] = high.z, cs[step][7] = high.w;
#pragma unroll
      for (int t = 0; t < 4; ++t) {
        const uint32_t c = cs[step][t], d = cs[step][t + 4];
        const uint32_t a[4] = {hmul2(z[t], low_twice(c)), hmul2(z[t + 4], low_twice(d)),
                               hmul2(z[t], high_twice(c)), hmul2(z[t + 4], high_twice(d))};
        mma_16x8x16(s[t], a, b.x, b.y);
      }
    }
#pragma unroll
    for (int t = 0; t < 4; ++t) {
      const uint32_t a[4] = {cs[0][t], cs[0][t + 4], cs[1][t], cs[1][t + 4]};
      mma_16x8x16(s[t], a, b_offsets[0], b_offsets[1]);
    }
  }
}

}  // namespace rillkv::kernels::cuda
