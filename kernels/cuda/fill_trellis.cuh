// Fast paths: packed trellis blocks to tiles of [channel][token] rows of fp16, keys rotated.
//
// As with other blocks what belongs to a channel comes first and codes follow. Once a block:
//
//   write_subsets            a thread a channel: its path plane to the crumb plane of its subsets
//   prepare_trellis_keys     a thread a pair: planes, and zero, step and R(t0) folded into the map
//                            of fill_channels.cuh
//   prepare_trellis_values   a thread two tokens: their scales, of narrow and of wide channels
//   prepare_value_walks      once for all blocks: where each warp's channels begin
//
// then, behind a barrier, the fills. Keys: a half warp takes a pair, as in fill_channels.cuh, whose
// widths are equal, so that planes lie in twos: one half warp reads those of the lower channel
// first, the other those of the upper, and neither meets the other's banks. Values: a half warp
// takes one channel of a pair, the other half warp the other one. A value's scale is its token's
// and a lane has the same eight tokens of every channel, so the scales stay in registers.
#pragma once

#include <cstdint>

#include "kernels/cuda/channel_pairs.cuh"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/fill_channels.cuh"
#include "kernels/cuda/shared_layout.h"
#include "kernels/cuda/trellis_levels.cuh"

namespace rillkv::kernels::cuda {

/// A lane's words of the planes of trellis channels: word `thread` modulo 16 of the nibbles and
/// what belongs to its tokens. Addresses in shared memory, of the planes of b and of the subsets.
struct LevelWords {
  uint32_t nibbles, crumbs, bits, subsets;
  LevelTurns turns;

  /// tails: subset_tails of the head_dim.
  __device__ LevelWords(uint32_t codes, uint32_t subsets, uint32_t tails, uint32_t thread)
      : nibbles(masked_or<4 * 15>(4 * thread, codes)),
        crumbs(masked_or<4 * 7>(4 * thread, codes)),
        bits(masked_or<4 * 3>(4 * thread, codes)),
        subsets(masked_or<4 * 3>(4 * thread, subsets) + (thread & 4) / 4 * tails),
        turns(thread) {}

  /// z of the channel of kWidth bits whose planes are at `at`, and whose subsets at `subsets_at`.
  template <int kWidth>
  __device__ void expand(uint32_t (&z)[4], format::PlaneOffsets at, uint32_t subsets_at,
                         const LevelConstants& constants) const {
    constexpr int kPart = kWidth - 1;
    uint32_t nibble = 0, crumb = 0, bit = 0, high, low;
    if constexpr (format::nibble_planes(kPart) > 0) nibble = load_shared(nibbles + at.nibbles);
    if constexpr (format::crumb_planes(kPart) > 0) crumb = load_shared(crumbs + at.crumbs);
    if constexpr (format::bit_planes(kPart) > 0) bit = load_shared(bits + at.bits);
    merge_levels<kWidth>(high, low, nibble, crumb, bit, load_shared(subsets + subsets_at), turns);
    expand_levels<kWidth>(z, high, low, constants);
  }
};

/// The subsets of D channels, from their path planes. Called by the CTA, whose last D threads do
/// it.
template <int D>
__device__ inline void write_subsets(uint8_t* subsets, const uint8_t* path) {
  const uint32_t channel = opaque(threadIdx.x) - (kFastThreads - D);
  if (channel >= D) return;
  const SubsetPlane plane = subsets_of(load_shared_16(shared_address(path) + 16 * channel));
  const uint32_t to = shared_address(subsets) + 16 * channel;
  store_shared_16(to, plane.head);
  store_shared_16<subset_tails(D)>(to, plane.tail);
}

/// ChannelTable of a trellis key block, trellis_table_bytes of it; `third` has the channel read
/// first's place among the subsets, too.
struct TrellisTable {
  uint4* first;     // [D/2] u0, v0, ua, ub
  uint4* second;    // [D/2] va, vb, nibbles, place
  uint4* third;     // [D/2] crumbs, bits, subsets, -
  uint16_t* order;  // [D/2] pairs by width: offsets in `first`

  __device__ TrellisTable(uint8_t* base, int pairs)
      : first(reinterpret_cast<uint4*>(base)),
        second(first + pairs),
        third(second + pairs),
        order(reinterpret_cast<uint16_t*>(third + pairs)) {}
};

/// Called by the first D / 64 warps, a thread a pair; as prepare_channels.
template <int D>
__device__ inline void prepare_trellis_keys(uint8_t* table, const uint8_t* meta,
                                            const float* start) {
  constexpr int kHalf = D / 2;
  const int pair = opaque(static_cast<int>(threadIdx.x));
  // Of the planes of b, whose widths are smaller by one.
  const auto [own, before, total, rank] =
      PairPlace<D, 1>(meta + format::trellis_widths_offset(D), pair);
  const bool swap = (rank & 1) != 0;
  format::PlaneOffsets at = plane_offsets(before, total, kAttentionTile);
  if (swap) at = at + plane_sizes();
  const int width = format::first_width(own) + 1;
  const uint32_t place = static_cast<uint32_t>(pair * 2 * kAttentionTile + (pair & 7) * 16) |
                         static_cast<uint32_t>(width) << 16 |
                         (swap ? 0 - plane_sizes().nibbles : plane_sizes().nibbles) << 24;

  const auto scale = [&](int c) {
    const float step = step8_fast(meta[format::trellis_step_offset(D) + c]);
    const auto middle =
        static_cast<float>(reinterpret_cast<const int16_t*>(meta)[c] + (1 << width));  // z = 0
    return CodeScale{step * middle, step * static_cast<float>(1 << width)};
  };
  const CodeScale a = scale(pair), b = scale(pair + kHalf);
  const auto ordered = [&](float low, float high) {
    const uint32_t a = twice(low), b = twice(high);
    return swap ? uint2{b, a} : uint2{a, b};
  };
  const float c = kKeyUnit * start[pair], s = kKeyUnit * start[kHalf + pair];
  const uint2 u = ordered(c * a.unit, -s * b.unit), v = ordered(s * a.unit, c * b.unit);
  const TrellisTable out(table, kHalf);
  out.first[pair] = {twice(c * a.centre - s * b.centre), twice(s * a.centre + c * b.centre), u.x,
                     u.y};
  out.second[pair] = {v.x, v.y, at.nibbles, place};
  out.third[pair] = {at.crumbs, at.bits,
                     static_cast<uint32_t>(2 * pair + (swap ? 1 : 0)) * plane_sizes().bits, 0};
  out.order[rank] = static_cast<uint16_t>(pair * sizeof(uint4));
}

/// Called by the CTA, `thread` its thread. `codes`: the planes of b; `table` and `subsets` from
/// prepare_trellis_keys and write_subsets; `rotations` is AttentionParams::in_block_half.
template <int D>
__device__ inline void fill_trellis_keys(uint8_t* tile, const uint8_t* codes, uint8_t* table,
                                         const uint8_t* subsets, const uint16_t* rotations,
                                         int thread) {
  constexpr int kHalf = D / 2, kMine = kHalf / kFastWarps;  // pairs of a warp
  constexpr int kHalfTile = kHalf * 2 * kAttentionTile;
  const LevelWords words(shared_address(codes), shared_address(subsets), subset_tails(D),
                         static_cast<uint32_t>(thread));
  const uint32_t chunk = opaque(static_cast<uint32_t>(thread & 15) << 4);
  const size_t angles = opaque(__cvta_generic_to_global(rotations));
  const LevelConstants constants;
  const TrellisTable pairs(table, kHalf);
  const uint32_t first = opaque(shared_address(pairs.first)), tile_at = shared_address(tile);
  uint32_t order = shared_address(pairs.order) +
                   2 * static_cast<uint32_t>(thread / 32 * kMine + (thread >> 4 & 1));
#pragma unroll 1
  for (const uint32_t end = order + 2 * kMine; order < end; order += 4) {
    const uint32_t at = first + load_shared_2(order);
    const uint4 second = load_shared_16<16 * kHalf>(at), third = load_shared_16<32 * kHalf>(at);
    const uint32_t place = second.w;
    const int next = static_cast<int>(place) >> 24;
    const uint32_t to = masked_xor<0xffffu>(place, chunk);
    const uint4 cosine = load_constant_16(angles + to);
    const uint4 sine = load_constant_16<kHalfTile>(angles + to);
    uint32_t za[4], zb[4];
    const auto both = [&](auto w) {
      words.template expand<w.value>(za, {second.z, third.x, third.y}, third.z, constants);
      const auto later = static_cast<uint32_t>(next), half = static_cast<uint32_t>(next >> 1),
                 quarter = static_cast<uint32_t>(next >> 2);
      words.template expand<w.value>(zb, {second.z + later, third.x + half, third.y + quarter},
                                     third.z + quarter, constants);
    };
    for_width<format::kMaxTrellisWidth>(byte_of<2>(place), both);
    const uint4 map = load_shared_16(at);
    uint32_t x[4], y[4];
    const uint32_t c[4] = {cosine.x, cosine.y, cosine.z, cosine.w};
    const uint32_t s[4] = {sine.x, sine.y, sine.z, sine.w};
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const uint32_t u = hfma2(map.z, za[k], hfma2(map.w, zb[k], map.x));
      const uint32_t v = hfma2(second.x, za[k], hfma2(second.y, zb[k], map.y));
      x[k] = hfma2(u, c[k], hneg2(hmul2(v, s[k])));
      y[k] = hfma2(u, s[k], hmul2(v, c[k]));
    }
    store_shared_16(tile_at + to, {x[0], x[1], x[2], x[3]});
    store_shared_16<kHalfTile>(tile_at + to, {y[0], y[1], y[2], y[3]});
  }
}

/// Scales of tokens: fp16 [2: narrow, wide channels][16 words][8 tokens of a word, as in a chunk of
/// a tile (tile_order.h)], of z; kTrellisScaleBytes of them. Called by the CTA, whose first 64
/// threads do it.
__device__ inline void prepare_trellis_values(uint8_t* table, const uint8_t* scales, int width) {
  const int thread = opaque(static_cast<int>(threadIdx.x));
  if (thread >= 64) return;
  const uint8_t* at = scales + (thread >> 2) + 16 * (thread & 3);
  const auto unit = static_cast<float>(2 << width);
  const float a = unit * step8_fast(at[0]), b = unit * step8_fast(at[64]);
  auto* out = reinterpret_cast<uint32_t*>(table) + thread;
  constexpr float kWide = 2 * format::kWideGain;
  out[0] = Pair<__half>::pack(a, b);
  out[64] = Pair<__half>::pack(kWide * a, kWide * b);
}

/// Where the warps begin with the narrow pairs of any value block, and with the wide ones: uint4
/// [2][kFastWarps]: offsets of the planes of b of the first pair's lower channel by kind, and 16
/// times that pair and the one after the last, of 16 bits each. Called by the CTA, once.
template <int D>
__device__ inline void prepare_value_walks(uint8_t* walks, const PackedPrefix& prefix) {
  constexpr int kHalf = D / 2, kMine = kHalf / kFastWarps;
  const int thread = static_cast<int>(threadIdx.x), mine = thread % kFastWarps * kMine;
  if (thread >= 2 * kFastWarps) return;
  const int width = prefix.value_width, wide = prefix.value_wide_pairs;
  const bool of_wide = thread >= kFastWarps;
  const int begin = of_wide ? mine : max(mine, wide);
  const int end = max(of_wide ? min(mine + kMine, wide) : mine + kMine, begin);
  const format::PlaneOffsets at =
      format::plane_offsets(format::trellis_value_planes(begin, width, wide),
                            format::trellis_value_planes(kHalf, width, wide), kAttentionTile);
  reinterpret_cast<uint4*>(walks)[thread] = {at.nibbles, at.crumbs, at.bits,
                                             static_cast<uint32_t>(begin << 4 | end << 20)};
}

/// Called by the CTA, `thread` its thread. `codes`: the planes of b; `subsets` and `scales` from
/// write_subsets and prepare_trellis_values, behind the latter prepare_value_walks's.
template <int D>
__device__ inline void fill_trellis_values(uint8_t* tile, const uint8_t* codes,
                                           const uint8_t* subsets, const uint8_t* scales,
                                           int value_width, int thread) {
  const auto lane = static_cast<uint32_t>(thread), side = lane & 16;
  const LevelConstants constants;
  LevelWords words(shared_address(codes), shared_address(subsets), subset_tails(D), lane);
  // The upper channel's planes are the next ones.
  words.nibbles += side * (plane_sizes().nibbles / 16);
  words.crumbs += side * (plane_sizes().crumbs / 16);
  words.bits += side * (plane_sizes().bits / 16);
  words.subsets += side;
  const uint32_t tables = shared_address(scales), chunk = (lane & 15) << 4;
  const uint32_t rows = shared_address(tile) + side * (D / 2 * 2 * kAttentionTile / 16);
#pragma unroll 1
  for (int wide = 1; wide >= 0; --wide) {
    const uint4 walk = load_shared_16<kTrellisScaleBytes>(
        tables + static_cast<uint32_t>(wide * 16 * kFastWarps) + 16 * (lane / 32));
    uint32_t pair = walk.w & 0xffffu;  // times 16
    const uint32_t end = walk.w >> 16;
    if (pair == end) continue;
    const uint4 scale = load_shared_16(tables + static_cast<uint32_t>(256 * wide) + chunk);
    LevelWords at = words;
    at.nibbles += walk.x;
    at.crumbs += walk.y;
    at.bits += walk.z;
    at.subsets += 2 * pair;
    uint32_t row = rows + 16 * pair;
    for_width<format::kMaxTrellisWidth>(static_cast<uint32_t>(value_width + wide), [&](auto w) {
      constexpr format::PlaneOffsets kPair =
          format::plane_extents(2 * format::planes_of(w.value - 1), kAttentionTile);
      constexpr uint32_t kLower = twice_power<-(w.value + 1)>();
      // value = a z + a 2^-(w + 1)
      const uint32_t a[4] = {scale.x, scale.y, scale.z, scale.w};
      const uint32_t half[4] = {hmul2(a[0], kLower), hmul2(a[1], kLower), hmul2(a[2], kLower),
                                hmul2(a[3], kLower)};
#pragma unroll 1
      for (; pair < end; pair += 16) {
        uint32_t z[4];
        at.template expand<w.value>(z, {}, 0, constants);
        store_shared_16(row + xor_masked<0x70u>(chunk, pair),
                        {hfma2(a[0], z[0], half[0]), hfma2(a[1], z[1], half[1]),
                         hfma2(a[2], z[2], half[2]), hfma2(a[3], z[3], half[3])});
        at.nibbles += kPair.nibbles;
        at.crumbs += kPair.crumbs;
        at.bits += kPair.bits;
        at.subsets += 2 * plane_sizes().bits;
        row += 2 * kAttentionTile;
      }
    });
  }
}

}  // namespace rillkv::kernels::cuda
