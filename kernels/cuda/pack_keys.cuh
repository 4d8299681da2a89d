// A channel block of rillkv_pack_* of any shape (pack_key_tile.cuh has the usual ones), one CTA (a
// channel's place depends on all widths, so several would each read the whole block, and of block 0
// none could tell when the tail's rows may be overwritten):
//
//   1. the tile to shared memory, all of its loads under way at once; 2. lo, hi of each channel;
//   3. widths; 4. lo/step as stored; 5. codes, a byte each, in shared memory [head_dim][block_size
//   + 4] (the 4 keeps the column-wise writes free of bank conflicts); 6. planes, word by word.
#pragma once

#include "kernels/cuda/channel_planes.cuh"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/pack_key_tile.cuh"
#include "kernels/cuda/pack_rows.cuh"
#include "kernels/cuda/shared_layout.h"

namespace rillkv::kernels::cuda {
namespace {

extern __shared__ __align__(16) uint8_t shared_memory[];

/// Element (token, channel) of a block: from its tile [tokens, head_dim] in shared memory, or where
/// that does not fit, from where the rows are. Which is known when compiling: a pointer that may be
/// either is read by generic loads, with a branch at each.
template <typename T>
struct TileElements {
  uint32_t tile;  // from the start of shared memory, bytes
  int head_dim;

  __device__ T operator()(int token, int channel) const {
    return reinterpret_cast<const T*>(shared_memory + tile)[token * head_dim + channel];
  }
  /// Channels channel and channel + 1; channel and head_dim are even.
  __device__ float2 pair(int token, int channel) const {
    struct alignas(2 * sizeof(T)) Two {
      T low, high;
    };
    const auto two = *reinterpret_cast<const Two*>(shared_memory + tile +
                                                   (token * head_dim + channel) * sizeof(T));
    return {to_float(two.low), to_float(two.high)};
  }
};
template <typename T>
struct RowElements {
  const VirtualRows<T>& rows;
  int first;

  __device__ T operator()(int token, int channel) const { return rows.row(first + token)[channel]; }
  __device__ float2 pair(int token, int channel) const {
    const T* row = rows.row(first + token) + channel;
    return {to_float(row[0]), to_float(row[1])};
  }
};

/// Tokens first .. first + tokens - 1 to the tile.
template <typename T>
__device__ void load_tile(const VirtualRows<T>& rows, int first, int tokens, int head_dim,
                          T* tile) {
  const int threads = static_cast<int>(blockDim.x), thread = static_cast<int>(threadIdx.x);
  if (rows.wide(head_dim)) {
    const int chunks = head_dim / Chunk<T>::kElements;
    const uint32_t to = shared_address(tile);
    for (int i = thread; i < tokens * chunks; i += threads) {
      copy_async_16(to + static_cast<uint32_t>(i) * 16,
                    rows.row(first + i / chunks) + i % chunks * Chunk<T>::kElements);
    }
    copy_async_commit();
    copy_async_wait<0>();
  } else {
#pragma unroll 8
    for (int i = thread; i < tokens * head_dim; i += threads) {
      tile[i] = rows.row(first + i / head_dim)[i % head_dim];
    }
  }
  __syncthreads();
}

/// lo and hi of each channel, exactly: a thread has two channels, and the CTA's threads share a
/// channel's tokens if they are more than the channels.
template <typename Elements>
__device__ void tile_ranges(const Elements& x, int tokens, int head_dim,
                            const ChannelPackShared& s) {
  const int threads = static_cast<int>(blockDim.x);
  const int pairs = head_dim / 2, shares = max(1, threads / head_dim);
  auto* lows = reinterpret_cast<float2*>(s.partial);  // [shares][pairs]
  float2* highs = lows + shares * pairs;
  for (int i = static_cast<int>(threadIdx.x); i < shares * pairs; i += threads) {
    const int c = i % pairs * 2, share = i / pairs;
    const int first = min(share, tokens - 1);
    float2 lo = x.pair(first, c), hi = lo;
#pragma unroll 8
    for (int t = first + shares; t < tokens; t += shares) {
      const float2 value = x.pair(t, c);
      lo = {fminf(lo.x, value.x), fminf(lo.y, value.y)};
      hi = {fmaxf(hi.x, value.x), fmaxf(hi.y, value.y)};
    }
    lows[i] = lo;
    highs[i] = hi;
  }
  __syncthreads();
  for (int c = static_cast<int>(threadIdx.x); c < head_dim; c += threads) {
    const float* los = reinterpret_cast<const float*>(lows) + c;
    const float* his = reinterpret_cast<const float*>(highs) + c;
    float lo = los[0], hi = his[0];
#pragma unroll 8
    for (int share = 1; share < shares; ++share) {
      lo = fminf(lo, los[share * head_dim]);
      hi = fmaxf(hi, his[share * head_dim]);
    }
    s.lo[c] = lo + 0.0f;  // -0 becomes +0
    s.hi[c] = hi + 0.0f;
  }
  __syncthreads();
}

/// The smallest gain that is taken, bit by bit, if `wanted` of `count` are; how many are greater,
/// and how many at least it.
struct Search {
  uint32_t least;
  int greater, taken;
};
/// By one warp, which holds the gains in registers: other warps would be waited for at every bit.
__device__ inline Search search_gains(const float* gains, int count, int wanted) {
  constexpr int kOwn = 16;  // of a lane in registers: all at head_dim 128
  const int lane = static_cast<int>(threadIdx.x) % 32;
  uint32_t own[kOwn];
#pragma unroll
  for (int k = 0; k < kOwn; ++k) {
    own[k] = lane + 32 * k < count ? __float_as_uint(gains[lane + 32 * k]) : 0;
  }
  const auto at_least = [&](uint32_t from) {  // from > 0
    int found[4] = {};
#pragma unroll
    for (int k = 0; k < kOwn; ++k) found[k % 4] += own[k] >= from ? 1 : 0;
    for (int i = lane + 32 * kOwn; i < count; i += 32) {
      found[0] += __float_as_uint(gains[i]) >= from ? 1 : 0;
    }
    return __reduce_add_sync(0xffffffffu, found[0] + found[1] + found[2] + found[3]);
  };
  Search search = {0, 0, count};
#pragma unroll 1
  for (uint32_t bit = 1u << 30; bit != 0 && search.taken != wanted; bit >>= 1) {
    const int found = at_least(search.least | bit);
    if (found >= wanted) {
      search.least |= bit;
      search.taken = found;
    }
  }
  // Those equal to the least are one too many only where the search went down to the last bit.
  if (search.taken != wanted) search.greater = at_least(search.least + 1);
  return search;
}

/// Greedy reverse water-filling, as kernels/cpu/allocate_widths.cpp defines it. A pair's gains
/// shrink from class to class, so "greedy" is "the `increments` largest of all gains", ties to the
/// lower class, then the lower pair. Gains are not negative, so they compare as integers.
/// score_of(pair): what a pair's error is multiplied by.
template <typename Score>
__device__ inline void fill_widths(const PackParams& p, const ChannelPackShared& s,
                                   const Score& score_of) {
  const int threads = static_cast<int>(blockDim.x), thread = static_cast<int>(threadIdx.x);
  const int pairs = p.head_dim / 2, count = pairs * (p.class_count - 1);
  for (int i = thread; i < count; i += threads) {
    s.gains[i] = __fmul_rn(score_of(i % pairs), p.drops[i / pairs]);
  }
  for (int pair = thread; pair < pairs; pair += threads) s.levels[pair] = 0;
  __syncthreads();
  const int wanted = min(p.increments, count);
  auto* shared_search = reinterpret_cast<Search*>(s.partial);
  if (thread < 32) {
    const Search search = search_gains(s.gains, count, wanted);
    if (thread == 0) *shared_search = search;
  }
  __syncthreads();
  const auto [least, greater, taken] = *shared_search;
  for (int i = thread; i < count && wanted > 0; i += threads) {
    const uint32_t own = __float_as_uint(s.gains[i]);
    if (own < least) continue;
    if (own == least && taken != wanted) {
      int before = greater;
      for (int j = 0; j < i; ++j) before += __float_as_uint(s.gains[j]) == own ? 1 : 0;
      if (before >= wanted) continue;
    }
    atomicAdd(&s.levels[i % pairs], 1);
  }
  __syncthreads();
  for (int pair = thread; pair < pairs; pair += threads) {
    const int width = p.classes[s.levels[pair]];
    s.widths[pair] = format::pair_widths(width, width);
  }
  __syncthreads();
}

/// Everything that a block's bytes need once its elements can be read.
template <typename Elements>
__device__ void pack_elements(const PackParams& p, const Elements& x, int tokens,
                              const float* energy, const ChannelPackShared& s, uint8_t* out) {
  const int head_dim = p.head_dim, block_size = p.block_size;
  const int threads = static_cast<int>(blockDim.x);
  tile_ranges(x, tokens, head_dim, s);
  fill_widths(p, s, [&](int pair) {
    const int other = pair + head_dim / 2;
    const float a = __fsub_rn(s.hi[pair], s.lo[pair]), b = __fsub_rn(s.hi[other], s.lo[other]);
    return __fmul_rn(__fadd_rn(__fmul_rn(a, a), __fmul_rn(b, b)),
                     __fadd_rn(energy[pair], energy[other]));
  });
  scan_plane_counts(s.widths, head_dim, s.offsets);
  auto* lo_out = reinterpret_cast<uint16_t*>(out);
  auto* step_out = reinterpret_cast<uint16_t*>(out + format::channel_step_offset(head_dim, false));
  const int shares = max(1, threads / head_dim);
  for (int i = static_cast<int>(threadIdx.x); i < shares * head_dim; i += threads) {
    const int c = i % head_dim, share = i / head_dim;
    const int width = format::channel_width(s.widths, c, head_dim);
    const AffineScale scale = affine_scale(s.lo[c], s.hi[c], width);
    if (share == 0) {
      lo_out[c] = scale.lo_bits;
      step_out[c] = scale.step_bits;
    }
    uint8_t* codes = s.codes + c * (block_size + 4);
    int t = share;
#pragma unroll 8
    for (; t < tokens; t += shares) {
      codes[t] = static_cast<uint8_t>(affine_code(to_float(x(t, c)), scale, width));
    }
    for (; t < block_size; t += shares) codes[t] = 0;
  }
  __syncthreads();
  write_planes(head_dim, block_size, s, false, out);
}

template <typename T>
__device__ void pack_keys(const PackParams& p) {
  const int head_dim = p.head_dim, block_size = p.block_size;
  const int kv_head = static_cast<int>(blockIdx.x), block = static_cast<int>(blockIdx.y);
  const int threads = static_cast<int>(blockDim.x), thread = static_cast<int>(threadIdx.x);
  const KeyPackShared layout(shared_memory, head_dim, block_size, sizeof(T));
  const ChannelPackShared& s = layout.codes;
  const VirtualRows<T> rows(p, p.keys, p.tail_keys, kv_head);
  const int first = block * block_size;
  uint8_t* out = p.storage[block] + static_cast<int64_t>(kv_head) * p.key_bytes;
  if (thread == 0 && p.key_table != nullptr) {
    p.key_table[static_cast<int64_t>(p.first_block + block) * p.kv_heads + kv_head] = out;
  }
  const int tokens = min(block_size, p.tokens - first);
  const float* energy =
      p.energies + (static_cast<int64_t>(block) * p.kv_heads + kv_head) * head_dim;
  const auto any_shape = [&] {
    if (layout.tile != nullptr) {
      load_tile(rows, first, tokens, head_dim, reinterpret_cast<T*>(layout.tile));
      const auto tile = static_cast<uint32_t>(layout.tile - shared_memory);
      pack_elements(p, TileElements<T>{tile, head_dim}, tokens, energy, s, out);
    } else {
      pack_elements(p, RowElements<T>{rows, first}, tokens, energy, s, out);
    }
  };
  if constexpr (sizeof(T) == 2) {
    const bool whole = block_size == kTileTokens && tokens == kTileTokens && rows.wide(head_dim);
    if (whole && head_dim == 128) {
      KeyTile<T, 128>(p, rows, first).pack(energy, out);
    } else if (whole && head_dim == 64) {
      KeyTile<T, 64>(p, rows, first).pack(energy, out);
    } else {
      any_shape();
    }
  } else {
    any_shape();
  }
  if (block != 0 || leftover(p) == 0) return;
  // All of this CTA's reads of the tail lie before a barrier.
  for (int n = thread / 32; n < leftover(p); n += threads / 32) {
    rows.move(p.blocks * block_size + n, n, head_dim, thread % 32, 32);
  }
}

}  // namespace
}  // namespace rillkv::kernels::cuda
