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
// half warps of a warp nearly always go the same way.
//
// Banks. Planes of one kind have the same size, 64, 32 or 16 bytes, so one at an even place among
// them and one at an odd place never share a bank, and a pair's two are neighbours
// (packed_format.h): one half warp reads the plane at the even place first, the other that at the
// odd place, then each the other one. prepare_channels knows which half warp will take a pair and
// makes the pair's table for it, a and b being the channels in the order of reading. (With 8 bits
// the two planes of a channel take turns.) Only among channels of different widths, as policy "ema"
// has them, may a pair's kinds begin at places of different parity: there one half warp waits for
// the other.
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

/// Bytes of a plane of each kind.
__device__ constexpr format::PlaneOffsets plane_sizes() {
  return format::plane_extents({1, 1, 1}, kAttentionTile);
}

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
/// equal fp16), a the channel read first, then offsets from the codes of the planes read first.
/// `place`:
///
///   bits 0..15    row * 256 + (row & 7) * 16: the row of the pair (values: of channel a), and what
///                 its chunks are swizzled by
///   bits 16..23   the width of both channels; if half warps have to take turns, both widths as in
///                 the block, and a is the lower channel
///   bits 24..31   signed: from the nibble plane read first to the one read second, 64 or -64
struct ChannelTable {
  uint4* first;     // [D/2] u0, v0, ua, ub; values: a0, b0, aa, -
  uint4* second;    // [D/2] va, vb, nibbles, place; values: -, bb, nibbles, place
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
    return plane_counts(format::first_width(both)) + plane_counts(format::second_width(both));
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
  const uint32_t before = sum - planes_of(own);

  // The pair's rank by the width of its lower channel: from the top bit down, pairs that are still
  // equal and have a zero where this one has a one come before it.
  const auto key = static_cast<uint32_t>(format::first_width(own)) - 1;
  const auto other_key = static_cast<uint32_t>(format::first_width(others)) - 1;
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

  // Half warp rank & 1 reads planes at places of that parity first.
  const uint32_t width = format::first_width(own);
  const uint32_t kinds = width == 8 ? 1 << 20 : plane_counts(width), odd = before & kinds;
  const bool regular =
      format::first_width(own) == format::second_width(own) && (odd == 0 || odd == kinds);
  const bool swap_planes = regular && (odd != 0) != ((rank & 1) != 0);
  const bool swap_channels = swap_planes && width != 8;
  format::PlaneOffsets at = plane_offsets(before, total, kAttentionTile);
  if (swap_planes) at = at + plane_sizes();
  const int row = kRotate || !swap_channels ? pair : pair + kHalf;
  const uint32_t place = static_cast<uint32_t>(row * 2 * kAttentionTile + (row & 7) * 16) |
                         (regular ? width : own) << 16 |
                         (swap_planes ? 0 - plane_sizes().nibbles : plane_sizes().nibbles) << 24;

  const auto* lo = reinterpret_cast<const uint16_t*>(meta);
  const auto* step =
      reinterpret_cast<const uint16_t*>(meta + format::channel_step_offset(D, symmetric));
  const CodeScale a = code_scale(lo, step, pair, format::first_width(own), symmetric);
  const CodeScale b = code_scale(lo, step, pair + kHalf, format::second_width(own), symmetric);
  const ChannelTable out(table, kHalf);
  // What `low` and `high` are of the lower and the upper channel, in the order of reading.
  const auto ordered = [&](float low, float high) {
    const uint32_t a = twice(low), b = twice(high);
    return swap_channels ? uint2{b, a} : uint2{a, b};
  };
  if constexpr (kRotate) {
    const float c = kKeyUnit * start[pair], s = kKeyUnit * start[kHalf + pair];
    const uint2 u = ordered(c * a.unit, -s * b.unit), v = ordered(s * a.unit, c * b.unit);
    out.first[pair] = {twice(c * a.centre - s * b.centre), twice(s * a.centre + c * b.centre), u.x,
                       u.y};
    out.second[pair] = {v.x, v.y, at.nibbles, place};
  } else {
    const uint2 centre = ordered(a.centre, b.centre), unit = ordered(a.unit, b.unit);
    out.first[pair] = {centre.x, centre.y, unit.x, 0};
    out.second[pair] = {0, unit.y, at.nibbles, place};
  }
  out.third[pair] = {at.crumbs, at.bits};
  out.order[rank] = static_cast<uint16_t>(pair * sizeof(uint4));
}

/// A lane's words of a channel's planes: word `thread` modulo 16 of the nibbles and what belongs to
/// its tokens. Addresses in shared memory, `codes` that of the block's codes.
struct WordOfPlanes {
  uint32_t nibbles, crumbs, bits;
  uint32_t crumb_shift, bit_shift;  // to the top of the nibbles

  __device__ WordOfPlanes(uint32_t codes, uint32_t thread)
      : nibbles(masked_or<4 * 15>(4 * thread, codes)),
        crumbs(masked_or<4 * 7>(4 * thread, codes)),
        bits(masked_or<4 * 3>(4 * thread, codes)),
        crumb_shift(2 - (thread >> 3 & 1) * 2),
        bit_shift(3 - (thread >> 2 & 3)) {}

  template <int kWidth>
  __device__ void expand(uint32_t (&z)[4], format::PlaneOffsets at,
                         const ExpandConstants& constants) const {
    uint32_t first = 0, second = 0, crumb = 0, bit = 0;
    if constexpr (format::nibble_planes(kWidth) > 0) first = load_shared(nibbles + at.nibbles);
    if constexpr (format::nibble_planes(kWidth) > 1) {
      second = load_shared<plane_sizes().nibbles>(nibbles + at.nibbles);
    }
    if constexpr (format::crumb_planes(kWidth) > 0) {
      crumb = load_shared(crumbs + at.crumbs) << crumb_shift;
    }
    if constexpr (format::bit_planes(kWidth) > 0) {
      bit = load_shared(bits + at.bits) << bit_shift;
    }
    uint32_t high, low;
    merge_planes<kWidth>(high, low, first, second, crumb, bit);
    expand_codes<kWidth>(z, high, low, constants);
  }

  /// Two channels of one width: the planes read first at `at`, the second ones `next` (nibbles),
  /// next / 2 (crumbs) and next / 4 (bits) further.
  template <int kWidth>
  __device__ void expand_pair(uint32_t (&za)[4], uint32_t (&zb)[4], format::PlaneOffsets at,
                              int next, const ExpandConstants& constants) const {
    if constexpr (kWidth == 8) {
      // The planes of a channel take turns.
      const uint32_t one = nibbles + at.nibbles, other = one + static_cast<uint32_t>(next);
      const auto channel = [&](uint32_t(&z)[4], uint32_t x, uint32_t y) {
        expand_codes<8>(z, next < 0 ? y : x, next < 0 ? x : y, constants);
      };
      constexpr uint32_t kNext = 2 * plane_sizes().nibbles;
      channel(za, load_shared(one), load_shared(other));
      channel(zb, load_shared<kNext>(one), load_shared<kNext>(other));
    } else {
      expand<kWidth>(za, at, constants);
      expand<kWidth>(
          zb,
          {at.nibbles + static_cast<uint32_t>(next), at.crumbs + static_cast<uint32_t>(next >> 1),
           at.bits + static_cast<uint32_t>(next >> 2)},
          constants);
    }
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
/// `rotations` is AttentionParams::in_block_half.
template <int D, bool kRotate>
__device__ inline void fill_channel_block(uint8_t* tile, const uint8_t* codes, uint8_t* table,
                                          const uint16_t* rotations, int thread) {
  constexpr int kHalf = D / 2, kMine = kHalf / kFastWarps;  // pairs of a warp
  constexpr int kHalfTile = kHalf * 2 * kAttentionTile;
  const WordOfPlanes words(shared_address(codes), static_cast<uint32_t>(thread));
  const uint32_t chunk = opaque(static_cast<uint32_t>(thread & 15) << 4);
  const size_t angles = kRotate ? opaque(__cvta_generic_to_global(rotations)) : 0;
  const ExpandConstants constants;
  const ChannelTable pairs(table, kHalf);
  const uint32_t first = opaque(shared_address(pairs.first)), tile_at = shared_address(tile);
  const auto half_warp = static_cast<uint32_t>(thread >> 4 & 1);
  uint32_t order =
      shared_address(pairs.order) + 2 * (static_cast<uint32_t>(thread / 32 * kMine) + half_warp);
#pragma unroll 1
  for (const uint32_t end = order + 2 * kMine; order < end; order += 4) {
    const uint32_t offset = load_shared_2(order), at = first + offset;
    const uint4 second = load_shared_16<16 * kHalf>(at);
    const uint32_t place = second.w, own = byte_of<2>(place);
    const int next = static_cast<int>(place) >> 24;
    // This lane's chunk of the row, swizzled.
    const uint32_t to = masked_xor<0xffffu>(place, chunk);
    uint4 cosine = {}, sine = {};
    if constexpr (kRotate) {
      cosine = load_constant_16(angles + to);
      sine = load_constant_16<kHalfTile>(angles + to);
    }
    uint32_t za[4], zb[4];
    const auto rest = [&] { return load_shared_8<32 * kHalf>(first + (offset >> 1)); };
    const auto both = [&](auto w) {
      const uint2 more = w.value == 4 || w.value == 8 ? uint2{} : rest();
      words.expand_pair<w.value>(za, zb, {second.z, more.x, more.y}, next, constants);
    };
    const auto finish = [&] {
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
      if constexpr (kRotate) {
        store_shared_16<kHalfTile>(tile_at + to, {y[0], y[1], y[2], y[3]});
      } else {
        store_shared_16(tile_at + (to ^ kHalfTile), {y[0], y[1], y[2], y[3]});
      }
    };
    if (own == 4) {
      both(Constant<4>());
    } else if (own == 5) {
      both(Constant<5>());
    } else if (own <= 8) {
      for_width(own, both);
    } else {
      for (uint32_t turn = 0; turn < 2; ++turn) {
        if (turn != opaque(half_warp)) continue;
        const uint2 more = rest();
        const int first_width = format::first_width(own);
        const format::PlaneOffsets a = {second.z, more.x, more.y};
        const format::PlaneOffsets b =
            a + format::plane_extents(format::planes_of(first_width), kAttentionTile);
        for_width(first_width, [&](auto w) { words.expand<w.value>(za, a, constants); });
        for_width(format::second_width(own),
                  [&](auto w) { words.expand<w.value>(zb, b, constants); });
        finish();
      }
      continue;
    }
    finish();
  }
}

}  // namespace rillkv::kernels::cuda
