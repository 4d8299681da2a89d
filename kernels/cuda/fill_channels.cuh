// Fast paths: a packed channel block (keys; values of policy "ema") to a tile of [channel][token]
// rows of fp16, dequantised and rotated.
//
// Two steps with a barrier between them. prepare_channels: a thread a channel pair finds where its
// planes are and folds scale, offset and R(t0) into
//
//   u = u0 + ua za + ub zb,   v = v0 + va za + vb zb
//
// where za and zb are the codes of its channels as expand_codes.cuh makes them.
//
// fill_channel_block: a half warp takes a pair, a lane one word of each plane: eight tokens of both
// channels, which it unpacks, maps by that and turns by R(j), two tokens an instruction, and
// stores as one 16-byte chunk a channel. Pairs are taken in the order of their widths, so that the
// half warps of a warp nearly always go the same way. (Their planes may lie in the same 16 banks:
// a second wavefront for those loads, which no order of the pairs avoids.)
#pragma once

#include <cstdint>

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/expand_codes.cuh"
#include "kernels/cuda/shared_layout.h"
#include "kernels/cuda/tile_order.h"
#include "kernels/cuda/unpack.cuh"

namespace rillkv::kernels::cuda {

/// A tile holds half of every key, and scores are doubled: sums of rotated keys of the largest
/// magnitude that the format admits stay finite in fp16.
inline constexpr float kKeyUnit = 0.5f;

/// Scale of codes in fp32: value = centre + unit z.
struct CodeScale {
  float centre, unit;
};
__device__ inline CodeScale code_scale(const uint16_t* lo, const uint16_t* step, int i, int width,
                                       bool symmetric) {
  const float unit = half_bits_to_float(step[i]) * static_cast<float>(1 << (width - 1));
  return {symmetric ? 0.0f : half_bits_to_float(lo[i]) + unit, unit};
}

__device__ inline uint32_t twice(float x) { return Pair<__half>::pack(x, x); }

/// The pairs' table in shared memory, ChannelTable::bytes of it: for each pair the map (pairs of
/// equal fp16), then offsets of the planes from the codes, low channel in bits 0..15 and high one
/// in bits 16..31. `place`: bits 0..15 pair * 256 + (pair & 7) * 16, where the row of the pair is
/// and what its chunks are swizzled by; bits 16..23 the widths as in the block.
struct ChannelTable {
  uint4* first;     // [D/2] u0, v0, ua, ub
  uint4* second;    // [D/2] va, vb, nibbles, place
  uint2* third;     // [D/2] crumbs, bits
  uint16_t* order;  // [D/2] pairs by width: offsets in `first`

  __device__ ChannelTable(uint8_t* base, int pairs)
      : first(reinterpret_cast<uint4*>(base)),
        second(first + pairs),
        third(reinterpret_cast<uint2*>(second + pairs)),
        order(reinterpret_cast<uint16_t*>(third + pairs)) {}
};

/// Called by the first D / 64 warps, a thread a pair. `meta` is the block, up to its codes; `start`
/// is cos[D/2], sin[D/2] of R(t0). kRotate: keys.
template <int D, bool kRotate>
__device__ inline void prepare_channels(uint8_t* table, const uint8_t* meta, bool symmetric,
                                        const float* start) {
  constexpr int kHalf = D / 2;
  const int pair = opaque(static_cast<int>(threadIdx.x)), lane = pair % 32;
  const bool upper = pair >= 32;
  const uint8_t* widths = meta + format::channel_widths_offset(D, symmetric);
  const uint32_t own = widths[pair];
  const uint32_t others = kHalf > 32 ? widths[pair ^ 32] : 0;  // of the other warp

  // Planes before each pair: a scan.
  const auto planes_of = [](uint32_t both) {
    return plane_counts(both & 15) + plane_counts(both >> 4);
  };
  uint32_t sum = planes_of(own);
#pragma unroll
  for (int span = 1; span < 32; span *= 2) {
    const uint32_t before = __shfl_up_sync(0xffffffffu, sum, span);
    if (lane >= span) sum += before;
  }
  uint32_t total = __shfl_sync(0xffffffffu, sum, 31);
  if constexpr (kHalf > 32) {
    const uint32_t of_others = __reduce_add_sync(0xffffffffu, planes_of(others));
    total += of_others;
    if (upper) sum += of_others;
  }
  const uint32_t high = plane_counts(own >> 4), low = plane_counts(own & 15);
  const PlaneOffsets a_at = plane_offsets(sum - high - low, total, kAttentionTile);
  const PlaneOffsets b_at = plane_offsets(sum - high, total, kAttentionTile);

  // The pair's rank by the width of its lower channel: from the top bit down, pairs that are still
  // equal and have a zero where this one has a one come before it.
  const uint32_t key = (own & 15) - 1, other_key = (others & 15) - 1;
  uint32_t equal = 0xffffffffu, other_equal = kHalf > 32 ? 0xffffffffu : 0;
  uint32_t less = 0, other_less = 0;
#pragma unroll
  for (int bit = 4; bit > 0; bit >>= 1) {
    const uint32_t mine = (key & bit) != 0 ? 0xffffffffu : 0;
    const uint32_t ones = __ballot_sync(0xffffffffu, (key & bit) != 0);
    less |= equal & mine & ~ones;
    equal &= ~(ones ^ mine);
    if constexpr (kHalf > 32) {
      const uint32_t other_ones = __ballot_sync(0xffffffffu, (other_key & bit) != 0);
      other_less |= other_equal & mine & ~other_ones;
      other_equal &= ~(other_ones ^ mine);
    }
  }
  const int rank = __popc(less) + __popc(other_less) + __popc(equal & ((1u << lane) - 1)) +
                   (upper ? __popc(other_equal) : 0);

  const auto* lo = reinterpret_cast<const uint16_t*>(meta);
  const auto* step =
      reinterpret_cast<const uint16_t*>(meta + format::channel_step_offset(D, symmetric));
  const CodeScale a = code_scale(lo, step, pair, static_cast<int>(own & 15), symmetric);
  const CodeScale b = code_scale(lo, step, pair + kHalf, static_cast<int>(own >> 4), symmetric);
  const ChannelTable out(table, kHalf);
  const uint32_t nibbles = a_at.nibbles | b_at.nibbles << 16;
  const uint32_t place =
      static_cast<uint32_t>(pair * 2 * kAttentionTile + (pair & 7) * 16) | own << 16;
  if constexpr (kRotate) {
    const float c = kKeyUnit * start[pair], s = kKeyUnit * start[kHalf + pair];
    out.first[pair] = {twice(c * a.centre - s * b.centre), twice(s * a.centre + c * b.centre),
                       twice(c * a.unit), twice(-s * b.unit)};
    out.second[pair] = {twice(s * a.unit), twice(c * b.unit), nibbles, place};
  } else {
    out.first[pair] = {twice(a.centre), twice(b.centre), twice(a.unit), 0};
    out.second[pair] = {0, twice(b.unit), nibbles, place};
  }
  out.third[pair] = {a_at.crumbs | b_at.crumbs << 16, a_at.bit_plane | b_at.bit_plane << 16};
  out.order[rank] = static_cast<uint16_t>(pair * sizeof(uint4));
}

/// A lane's words of a channel's planes: word `word` (0..15) of the nibbles and what belongs to its
/// tokens. Addresses in shared memory, `codes` that of the block's codes.
struct WordOfPlanes {
  uint32_t nibbles, crumbs, bits;
  uint32_t crumb_shift, bit_shift;  // to the top of the nibbles

  __device__ WordOfPlanes(uint32_t codes, uint32_t word)
      : nibbles(codes + 4 * word),
        crumbs(codes + 4 * (word & 7)),
        bits(codes + 4 * (word & 3)),
        crumb_shift(2 - (word >> 3) * 2),
        bit_shift(3 - (word >> 2)) {}

  template <int kWidth>
  __device__ void expand(uint32_t (&z)[4], uint32_t nibbles_at, uint32_t crumbs_at,
                         uint32_t bits_at, const ExpandConstants& constants) const {
    uint32_t first = 0, second = 0, crumb = 0, bit = 0;
    if constexpr (format::nibble_planes(kWidth) > 0) first = load_shared(nibbles + nibbles_at);
    if constexpr (format::nibble_planes(kWidth) > 1) {
      second = load_shared<kAttentionTile / 2>(nibbles + nibbles_at);
    }
    if constexpr (format::crumb_planes(kWidth) > 0) {
      crumb = load_shared(crumbs + crumbs_at) << crumb_shift;
    }
    if constexpr (format::bit_planes(kWidth) > 0) {
      bit = load_shared(bits + bits_at) << bit_shift;
    }
    uint32_t high, low;
    merge_planes<kWidth>(high, low, first, second, crumb, bit);
    expand_codes<kWidth>(z, high, low, constants);
  }
};

/// f(width as a Constant) for a width of 1 to 8.
template <typename F>
__device__ inline void for_width(uint32_t width, F f) {
  switch (width) {
    case 1:
      return f(Constant<1>());
    case 2:
      return f(Constant<2>());
    case 3:
      return f(Constant<3>());
    case 4:
      return f(Constant<4>());
    case 5:
      return f(Constant<5>());
    case 6:
      return f(Constant<6>());
    case 7:
      return f(Constant<7>());
    default:
      return f(Constant<8>());
  }
}

/// Called by the CTA, `thread` its thread. `codes` are the block's; `table` from prepare_channels;
/// `rotations` is Rotations.in_block_half.
template <int D, bool kRotate>
__device__ inline void fill_channel_block(uint8_t* tile, const uint8_t* codes, uint8_t* table,
                                          const uint16_t* rotations, int thread) {
  constexpr int kHalf = D / 2, kMine = kHalf / kFastWarps;  // pairs of a warp
  constexpr int kHalfTile = kHalf * 2 * kAttentionTile;
  const uint32_t word = thread & 15;
  const WordOfPlanes words(shared_address(codes), word);
  const uint32_t chunk = opaque(word << 4);
  const size_t angles = kRotate ? __cvta_generic_to_global(rotations) : 0;
  const ExpandConstants constants;
  const ChannelTable pairs(table, kHalf);
  const uint32_t first = shared_address(pairs.first), tile_at = shared_address(tile);
  uint32_t order = shared_address(pairs.order) +
                   static_cast<uint32_t>(2 * (thread / 32 * kMine + (thread >> 4 & 1)));
#pragma unroll 1
  for (const uint32_t end = order + 2 * kMine; order < end; order += 4) {
    const uint32_t at = first + load_shared_2(order);
    const uint4 second = load_shared_16<16 * kHalf>(at);
    const uint32_t place = second.w, own = place >> 16;
    // Chunk `word` of the row, swizzled.
    const uint32_t to = lop3<0x28>(place, chunk, 0xffffu);  // (a ^ b) & c
    uint4 cosine = {}, sine = {};
    if constexpr (kRotate) {
      cosine = load_constant_16(angles + to);
      sine = load_constant_16<kHalfTile>(angles + to);
    }
    uint32_t za[4], zb[4];
    const auto planes = [&](auto w) {
      return w.value == 4 || w.value == 8 ? uint2{}
                                          : load_shared_8(at + 32 * kHalf - (at - first) / 2);
    };
    const auto lower = [&](auto w) {
      const uint2 rest = planes(w);
      words.expand<w.value>(za, second.z & 0xffff, rest.x & 0xffff, rest.y & 0xffff, constants);
    };
    const auto upper = [&](auto w) {
      const uint2 rest = planes(w);
      words.expand<w.value>(zb, second.z >> 16, rest.x >> 16, rest.y >> 16, constants);
    };
    const auto both = [&](auto w) {
      lower(w);
      upper(w);
    };
    if (own == 0x44) {
      both(Constant<4>());
    } else if (own == 0x55) {
      both(Constant<5>());
    } else {
      const uint32_t width = opaque(own) & 15, upper_width = own >> 4;
      if (width == upper_width) {
        for_width(width, both);
      } else {  // policy "ema" widens single channels
        for_width(width, lower);
        for_width(upper_width, upper);
      }
    }
    const uint4 map = load_shared_16(at);
    uint32_t x[4], y[4];
    const uint32_t c[4] = {cosine.x, cosine.y, cosine.z, cosine.w};
    const uint32_t s[4] = {sine.x, sine.y, sine.z, sine.w};
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if constexpr (kRotate) {
        const uint32_t u = hfma2(map.z, za[k], hfma2(map.w, zb[k], map.x));
        const uint32_t v = hfma2(second.x, za[k], hfma2(second.y, zb[k], map.y));
        x[k] = hfma2(u, c[k], hneg2(hmul2(v, s[k])));
        y[k] = hfma2(u, s[k], hmul2(v, c[k]));
      } else {
        x[k] = hfma2(map.z, za[k], map.x);
        y[k] = hfma2(second.y, zb[k], map.y);
      }
    }
    store_shared_16(tile_at + to, {x[0], x[1], x[2], x[3]});
    store_shared_16<kHalfTile>(tile_at + to, {y[0], y[1], y[2], y[3]});
  }
}

}  // namespace rillkv::kernels::cuda
