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

#include "kernels/cuda/channel_pairs.cuh"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/expand_codes.cuh"
#include "kernels/cuda/shared_layout.h"
#include "kernels/cuda/tile_order.h"
#include "kernels/cuda/unpack.cuh"

namespace rillkv::kernels::cuda {

/// A tile holds half of every key, and scores are doubled: sums of rotated keys of the largest
/// magnitude that the format admits stay finite in fp16.
inline constexpr float kKeyUnit = 0.5f;

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
  const int pair = opaque(static_cast<int>(threadIdx.x));
  const auto [own, before, total, rank] =
      PairPlace<D>(meta + format::channel_widths_offset(D, symmetric), pair);

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
