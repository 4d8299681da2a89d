// Fast paths: packed trellis blocks to tiles of [channel][token] rows of fp16, keys rotated.
//
// As with other blocks what belongs to a channel comes first and codes follow. Once a block:
//
//   write_subsets            two threads a channel: its path plane to the crumb plane of its subsets
//   prepare_trellis_keys     a thread a pair: planes, and zero, step and R(t0) folded into the map
//                            of fill_channels.cuh
//   prepare_trellis_values   a thread two tokens: their scales, of narrow and of wide channels
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

/// f(width as a Constant) for a width of 1 to 7.
template <typename F>
__device__ inline void for_trellis_width(uint32_t width, F f) {
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
    default:
      return f(Constant<7>());
  }
}

/// A lane's words of the planes of trellis channels: word `thread` modulo 16 of the nibbles and
/// what belongs to its tokens. Addresses in shared memory, of the planes of b and of the subsets.
struct LevelWords {
  uint32_t nibbles, crumbs, bits, subsets;
  LevelTurns turns;

  __device__ LevelWords(uint32_t codes, uint32_t subsets, uint32_t thread)
      : nibbles(masked_or<4 * 15>(4 * thread, codes)),
        crumbs(masked_or<4 * 7>(4 * thread, codes)),
        bits(masked_or<4 * 3>(4 * thread, codes)),
        subsets(masked_or<4 * 7>(4 * thread, subsets)),
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

/// The crumb planes of the subsets of D channels, from their path planes. Called by the CTA, whose
/// last 2 D threads do it.
template <int D>
__device__ inline void write_subsets(uint8_t* subsets, const uint8_t* path) {
  const uint32_t thread = opaque(threadIdx.x) - (kFastThreads - 2 * D);
  if (thread >= 2 * D) return;
  const uint4 u = load_shared_16(shared_address(path) + 16 * (thread >> 1));
  store_shared_16(shared_address(subsets) + 16 * thread, subsets_of(u, thread & 1));
}

/// ChannelTable of a trellis key block, TrellisTable::bytes of it.
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
      PairPlace<D>(meta + format::trellis_widths_offset(D), pair, 0x11);
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
                     static_cast<uint32_t>(2 * pair + (swap ? 1 : 0)) * plane_sizes().crumbs, 0};
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
  const LevelWords words(shared_address(codes), shared_address(subsets),
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
                                     third.z + half, constants);
    };
    for_trellis_width(byte_of<2>(place), both);
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
/// a tile (tile_order.h)], of z; kTrellisScaleBytes of them. Called by 64 threads from `first` on.
__device__ inline void prepare_trellis_values(uint8_t* table, const uint8_t* scales, int width,
                                              int first) {
  const int thread = opaque(static_cast<int>(threadIdx.x)) - first;
  if (thread < 0 || thread >= 64) return;
  const uint8_t* at = scales + (thread >> 2) + 16 * (thread & 3);
  const auto unit = static_cast<float>(2 << width);
  const float a = unit * step8_fast(at[0]), b = unit * step8_fast(at[64]);
  auto* out = reinterpret_cast<uint32_t*>(table) + thread;
  constexpr float kWide = 2 * format::kWideGain;
  out[0] = Pair<__half>::pack(a, b);
  out[64] = Pair<__half>::pack(kWide * a, kWide * b);
}

/// Called by the CTA, `thread` its thread. `codes`: the planes of b; `subsets` and `scales` from
/// write_subsets and prepare_trellis_values.
template <int D>
__device__ inline void fill_trellis_values(uint8_t* tile, const uint8_t* codes,
                                           const uint8_t* subsets, const uint8_t* scales,
                                           const PackedPrefix& prefix, int thread) {
  constexpr int kHalf = D / 2, kMine = kHalf / kFastWarps;  // pairs of a warp
  const LevelWords words(shared_address(codes), shared_address(subsets),
                         static_cast<uint32_t>(thread));
  const LevelConstants constants;
  const int side = thread >> 4 & 1, mine = thread / 32 * kMine;  // the lower or the upper channel
  const uint32_t chunk = static_cast<uint32_t>(thread & 15) << 4;
  const uint32_t row =
      shared_address(tile) + static_cast<uint32_t>(side * kHalf) * 2 * kAttentionTile;
  const int wide_pairs = prefix.value_wide_pairs;
#pragma unroll 1
  for (int wide = 1; wide >= 0; --wide) {
    const int begin = wide != 0 ? mine : max(mine, wide_pairs);
    const int end = wide != 0 ? min(mine + kMine, wide_pairs) : mine + kMine;
    if (begin >= end) continue;
    const uint4 scale = load_shared_16(shared_address(scales) + 256 * wide + chunk);
    const format::PlaneCounts total =
        format::trellis_value_planes(kHalf, prefix.value_width, wide_pairs);
    const format::PlaneCounts before =
        format::trellis_value_planes(begin, prefix.value_width, wide_pairs);
    for_trellis_width(static_cast<uint32_t>(prefix.value_width + wide), [&](auto w) {
      constexpr format::PlaneCounts kPlanes = format::planes_of(w.value - 1);
      constexpr format::PlaneOffsets kPair = format::plane_extents(2 * kPlanes, kAttentionTile);
      const uint32_t lower = twice_power<-(w.value + 1)>();
      const uint32_t a[4] = {scale.x, scale.y, scale.z, scale.w};
      uint32_t half[4];  // value = a z + a 2^-(w + 1)
#pragma unroll
      for (int k = 0; k < 4; ++k) half[k] = hmul2(a[k], lower);
      format::PlaneOffsets at = format::plane_offsets(
          before + static_cast<uint32_t>(side) * kPlanes, total, kAttentionTile);
      uint32_t subsets_at = static_cast<uint32_t>(2 * begin + side) * plane_sizes().crumbs;
#pragma unroll 1
      for (int pair = begin; pair < end; ++pair) {
        uint32_t z[4];
        words.template expand<w.value>(z, at, subsets_at, constants);
        store_shared_16(row + static_cast<uint32_t>(pair * 2 * kAttentionTile) +
                            (chunk ^ static_cast<uint32_t>(pair & 7) << 4),
                        {hfma2(a[0], z[0], half[0]), hfma2(a[1], z[1], half[1]),
                         hfma2(a[2], z[2], half[2]), hfma2(a[3], z[3], half[3])});
        at = at + kPair;
        subsets_at += 2 * plane_sizes().crumbs;
      }
    });
  }
}

}  // namespace rillkv::kernels::cuda
