// (e) Decode attention, fast path: few query rows against a long prefix. head_dim 64 or 128, bf16
// or fp16, blocks of 128 tokens.
//
// A CTA owns 16 query rows (the G heads of a kv head share them, r = t * G + g) and a split of the
// tiles. Filling a tile is the work here, the matrix products are small: the 8 warps fill K
// together, each multiplies 16 of its 128 tokens, they exchange row maxima and probabilities
// through shared memory, fill V together, and each sums D / 8 of the channels over all tokens. Two
// CTAs an SM overlap their phases, and the packed blocks of the next tile are on their way
// meanwhile, its scales first: prepare_channels works on them while others multiply. The result is
// a part per split; rillkv_merge finishes.
//
// Shared memory (AttentionShared): one tile, used for K then V, packed K + R(t0), packed V,
// queries, probabilities, row maxima, the table of prepare_channels.
#pragma once

#include "kernels/cuda/attention_mma.cuh"
#include "kernels/cuda/attention_sequence.cuh"
#include "kernels/cuda/shared_layout.h"

namespace rillkv::kernels::cuda {

extern __shared__ __align__(1024) uint8_t attention_shared[];

template <int D, typename T>
__device__ void decode(const AttentionLaunchParams& launch) {
  constexpr int kWarpTokens = kAttentionTile / kFastWarps;
  constexpr int kFragments = D / 8 / kFastWarps;  // this warp's channels, 8 at a time
  constexpr AttentionShared layout(D, false);
  const AttentionParams& p = load_sequence(attention_shared + layout.sequence, launch);
  const int kv_head = static_cast<int>(blockIdx.y), thread = static_cast<int>(threadIdx.x);
  const int row_tile = static_cast<int>(blockIdx.x) % launch.row_tiles;
  const int split = static_cast<int>(blockIdx.x) / launch.row_tiles;
  const int group = p.heads / p.kv_heads, rows = p.query_count * group;
  const int row0 = row_tile * kDecodeRows;
  if (row0 >= rows) return;
  const int first_query = static_cast<int>(p.first_query_index);

  const int last_row = min(row0 + kDecodeRows, rows) - 1;
  const VisibleTiles visible(p, first_query + last_row / group, kAttentionTile);
  int splits = launch.splits;
  if (launch.steps != nullptr) {  // those that exist; the merge asks for no others
    splits = min(splits, step_tiles(p.prefix.sink_capacity, p.prefix.block_count));
    if (split >= splits) return;
  }
  int begin, end;
  split_range(visible.count(), split, splits, begin, end);

  uint8_t* tile_memory = attention_shared;
  uint8_t* packed_keys = attention_shared + layout.packed_keys;
  float* start = reinterpret_cast<float*>(attention_shared + layout.rotation);
  uint8_t* packed_values = attention_shared + layout.packed_values;
  uint8_t* table = attention_shared + layout.key_table;
  uint8_t* queries = attention_shared + layout.queries;
  uint8_t* weights = attention_shared + layout.weights;  // [16][128] 16-bit, swizzled
  float* maxima = reinterpret_cast<float*>(attention_shared + layout.maxima);

  // Pointers to packed blocks are fetched into shared memory a tile before the blocks, which are
  // fetched a tile before they are worked on: nobody waits for two loads one after the other.
  auto* next = reinterpret_cast<const void**>(attention_shared + layout.next);
  const auto is_block = [&](int tile) {
    return tile < end && tile >= visible.sinks && tile < visible.sinks + visible.blocks;
  };
  const auto fetch_pointers = [&](int tile) {
    if (threadIdx.x == 0 && is_block(tile)) {
      const int64_t block = tile - visible.sinks, at = block * p.kv_heads + kv_head;
      const uint32_t to = shared_address(next + 3 * (tile & 1));
      copy_async_8(to, p.prefix.keys + at);
      copy_async_8(to + 8, p.prefix.rotations + block);
      copy_async_8(to + 16, p.prefix.values + at);
    }
  };
  const auto pointer = [&](int tile, int which) { return next[3 * (tile & 1) + which]; };
  const auto copy_scales = [&](int tile) {
    if (is_block(tile)) {
      copy_key_scales<D>(packed_keys, start, p, static_cast<const uint8_t*>(pointer(tile, 0)),
                         static_cast<const float*>(pointer(tile, 1)));
    }
    fetch_pointers(tile + 1);
    copy_async_commit();
  };
  const auto copy_keys = [&](int tile) {  // after its scales
    if (is_block(tile)) {
      copy_key_codes<D>(packed_keys, p, static_cast<const uint8_t*>(pointer(tile, 0)));
    }
    copy_async_commit();
  };
  const auto prepare = [&](int tile) {
    if (is_block(tile) && threadIdx.x < D / 2) {
      prepare_channels<D, true>(table, packed_keys, p.prefix.keys_symmetric, start);
    }
  };
  const auto copy_values = [&](int tile) {
    if (is_block(tile)) {
      copy_value_block<D>(packed_values, static_cast<const uint8_t*>(pointer(tile, 2)),
                          value_block_size<D>(p));
    }
    copy_async_commit();
  };

  fetch_pointers(begin);
  copy_async_commit();
  if (warp_id() == 0) load_queries<D, T>(queries, p, kv_head, row0, rows);
  copy_async_wait<0>();
  __syncthreads();
  copy_scales(begin);
  copy_keys(begin);
  copy_values(begin);
  int last_index[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    last_index[r] = first_query + min(row0 + lane_id() / 4 + 8 * r, rows - 1) / group;
  }
  const uint32_t query_base = query_fragment_base<D>(queries);
  const uint32_t weight_base = query_fragment_base<kAttentionTile>(weights);
  const int my_token = warp_id() * kWarpTokens, my_channel = warp_id() * 8 * kFragments;
  const int my_row = lane_id() / 4;
  const float scale_log2 = p.scale * kScoreUnit;
  SoftmaxState state;  // max of all warps' tokens, sum of this lane's
  float o[kFragments][4] = {};
  // Up to 8 rows, the second half of a lane's scores belongs to none: its probabilities stay zero.
  const int halves = rows - row0 > 8 ? 2 : 1;
  if (halves == 1) {
    const uint32_t unused = shared_address(weights) + 8 * 2 * kAttentionTile;
    if (thread < 128) store_shared_16(unused + 16 * static_cast<uint32_t>(thread), {0, 0, 0, 0});
  }
  copy_async_wait<2>();
  __syncthreads();
  prepare(begin);

#pragma unroll 1
  for (int i = begin; i < end; ++i) {
    const Tile tile = tile_at(p, visible, i, kAttentionTile);
    copy_async_wait<1>();  // K(i); V(i) may be under way
    __syncthreads();
    copy_scales(i + 1);
    fill_keys<D, T>(tile_memory, tile, p, kv_head, packed_keys, table, thread);
    __syncthreads();
    copy_keys(i + 1);

    float s[2][4] = {};
    if (my_token < tile.length) {
      with_layout(!keys_by_channel(tile), [&](auto layout) {
        constexpr bool by_column = decltype(layout)::by_column;
        const auto keys =
            wide_operand<by_column, row_bytes<D>(!by_column)>(tile_memory).from(my_token);
        unrolled<0, D, 16>([&](auto k) {
          uint32_t a[4], b[4];
          load_query_fragment(a, query_base, k.value);
          keys.template load<0, k.value>(b);
          mma_16x8x16(s[0], a, b[0], b[1]);
          mma_16x8x16(s[1], a, b[2], b[3]);
        });
      });
    }
    int limit[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      limit[r] = min(tile.length, last_index[r] - tile.first_index + 1);
    }
    mask_scores<kWarpTokens>(s, limit, my_token, tile.kind == TileKind::kBlock);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      if (r >= halves) continue;
      const float most = row_max<kWarpTokens>(s, r);
      if ((lane_id() & 3) == 0) maxima[kMaximaRow * (my_row + 8 * r) + warp_id()] = most;
    }
    copy_async_wait<1>();  // V(i), scales of K(i+1); its codes may be under way
    __syncthreads();

    uint32_t probabilities[1][4];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      if (r >= halves) continue;
      const float* theirs = maxima + kMaximaRow * (my_row + 8 * r);
      const auto a = *reinterpret_cast<const float4*>(theirs);
      const auto b = *reinterpret_cast<const float4*>(theirs + 4);
      const float most =
          fmaxf(fmaxf(fmaxf(a.x, a.y), fmaxf(a.z, a.w)), fmaxf(fmaxf(b.x, b.y), fmaxf(b.z, b.w)));
      const float fade = softmax_row<kWarpTokens>(s, probabilities, state, r, most, scale_log2);
#pragma unroll
      for (int n = 0; n < kFragments; ++n) {
        o[n][2 * r] *= fade;
        o[n][2 * r + 1] *= fade;
      }
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        *reinterpret_cast<uint32_t*>(
            weights + swizzled(my_row + 8 * r, my_token / 8 + j, 2 * kAttentionTile) +
            4 * (lane_id() & 3)) = probabilities[0][2 * j + r];
      }
    }
    if (p.prefix.values_channel_major && tile.kind == TileKind::kBlock) {
      if (threadIdx.x < D / 2) prepare_channels<D, false>(table, packed_values, true, nullptr);
      __syncthreads();
    }
    fill_values<D, T>(tile_memory, tile, p, kv_head, packed_values, table, thread);
    __syncthreads();
    copy_values(i + 1);
    prepare(i + 1);
    with_layout(values_by_channel(tile, p), [&](auto layout) {
      constexpr bool by_column = decltype(layout)::by_column;
      const auto values =
          narrow_operand<by_column, row_bytes<D>(by_column)>(tile_memory).from(my_channel);
      unrolled<0, kAttentionTile, 32>([&](auto k) {
        if (k.value >= tile.length) return;
        uint32_t a0[4], a1[4];
        load_query_fragment(a0, weight_base, k.value);
        load_query_fragment(a1, weight_base, k.value + 16);
        unrolled<0, kFragments, 1>([&](auto n) {
          uint32_t b[4];
          values.template load<8 * n.value, k.value>(b);
          mma_16x8x16(o[n.value], a0, b[0], b[1]);
          mma_16x8x16(o[n.value], a1, b[2], b[3]);
        });
      });
    });
  }
  copy_async_wait<0>();
  __syncthreads();

  // The warps' sums are of their own tokens; the maximum is common.
  const int64_t part =
      (static_cast<int64_t>(blockIdx.z) * gridDim.y + kv_head) * launch.splits + split;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float sum = quad_sum(state.sum[r]);
    if ((lane_id() & 3) == 0) maxima[kMaximaRow * (my_row + 8 * r) + warp_id()] = sum;
  }
  __syncthreads();
  write_part<D>(o, my_channel, launch, part, row0, rows);
  if (warp_id() == 0) {
    float total[2] = {};
#pragma unroll
    for (int w = 0; w < kFastWarps; ++w) {
      total[0] += maxima[kMaximaRow * my_row + w];
      total[1] += maxima[kMaximaRow * (my_row + 8) + w];
    }
    write_part_sums(state, total, launch, part, row0, rows);
  }
}

}  // namespace rillkv::kernels::cuda
