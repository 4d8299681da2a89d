// (e) Decode attention, fast path: few query rows against a long prefix. head_dim 64 or 128, bf16
// or fp16, blocks of 128 tokens.
//
// A CTA owns 16 query rows (the G heads of a kv head share them, r = t * G + g) and a split of the
// tiles. Filling a tile is the work here, the matrix products are small: the 8 warps fill it
// together, then each takes 16 of its 128 tokens through s = q k, softmax and o += p v with its own
// running maximum; the warps' results are merged at the end. Two CTAs an SM overlap their phases,
// and the packed blocks of the next tile are on their way meanwhile.
//
// Shared memory (AttentionShared): one tile, used for K then V, packed K + R(t0), packed V, queries.
#pragma once

#include "kernels/cuda/attention_mma.cuh"
#include "kernels/cuda/shared_layout.h"

namespace rillkv::kernels::cuda {

extern __shared__ __align__(1024) uint8_t attention_shared[];

/// Merges the 8 warps' o, max and sum; warp 0 holds the result. `exchange` is [4][D/8][32] float4,
/// `max_sum` [8][16][2].
template <int D>
__device__ inline void merge_warps(float (&o)[D / 8][4], SoftmaxState& state, float (&total)[2],
                                   uint8_t* exchange, float* max_sum) {
  const int lane = lane_id(), warp = warp_id();
  if ((lane & 3) == 0) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      *reinterpret_cast<float2*>(max_sum + 2 * (16 * warp + lane / 4 + 8 * r)) = {state.max[r],
                                                                                total[r]};
    }
  }
  __syncthreads();
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float max = -INFINITY;
    for (int w = 0; w < kFastWarps; ++w) {
      max = fmaxf(max, max_sum[2 * (16 * w + lane / 4 + 8 * r)]);
    }
    const float finite = max == -INFINITY ? 0.0f : max;
    const float factor = exp2_fast(state.max[r] - finite);
    total[r] = 0.0f;
    for (int w = 0; w < kFastWarps; ++w) {
      const float2 other =
          *reinterpret_cast<const float2*>(max_sum + 2 * (16 * w + lane / 4 + 8 * r));
      total[r] += other.y * exp2_fast(other.x - finite);
    }
    state.max[r] = max;
#pragma unroll
    for (int n = 0; n < D / 8; ++n) {
      o[n][2 * r] *= factor;
      o[n][2 * r + 1] *= factor;
    }
  }
#pragma unroll 1
  for (int active = kFastWarps / 2; active > 0; active /= 2) {
    auto* slots = reinterpret_cast<float4*>(exchange) + lane;
    if (warp >= active && warp < 2 * active) {
      auto* slot = slots + (warp - active) * (D / 8) * 32;
#pragma unroll
      for (int n = 0; n < D / 8; ++n) slot[32 * n] = {o[n][0], o[n][1], o[n][2], o[n][3]};
    }
    __syncthreads();
    if (warp < active) {
      const auto* slot = slots + warp * (D / 8) * 32;
#pragma unroll
      for (int n = 0; n < D / 8; ++n) {
        const float4 other = slot[32 * n];
        o[n][0] += other.x;
        o[n][1] += other.y;
        o[n][2] += other.z;
        o[n][3] += other.w;
      }
    }
    __syncthreads();
  }
}

template <int D, typename T>
__device__ void decode(const AttentionLaunchParams& launch) {
  constexpr int kWarpTokens = kAttentionTile / kFastWarps;
  const AttentionParams& p = launch.sequences[blockIdx.z];
  const int kv_head = static_cast<int>(blockIdx.y);
  const int row_tile = static_cast<int>(blockIdx.x) % launch.row_tiles;
  const int split = static_cast<int>(blockIdx.x) / launch.row_tiles;
  const int group = p.heads / p.kv_heads, rows = p.query_count * group;
  const int row0 = row_tile * kDecodeRows;
  if (row0 >= rows) return;
  const int first_query = static_cast<int>(p.first_query_index);

  const int last_row = min(row0 + kDecodeRows, rows) - 1;
  const VisibleTiles visible(p, first_query + last_row / group, kAttentionTile);
  int begin, end;
  split_range(visible.count(), split, launch.splits, begin, end);

  const AttentionShared layout(D, p.prefix.key_block_bytes, false);
  uint8_t* tile_memory = attention_shared;
  uint8_t* packed_keys = attention_shared + layout.packed_keys;
  float* start = reinterpret_cast<float*>(attention_shared + layout.rotation);
  uint8_t* packed_values = attention_shared + layout.packed_values;
  uint8_t* queries = attention_shared + layout.queries;

  const auto is_block = [&](int tile) {
    return tile < end && tile >= visible.sinks && tile < visible.sinks + visible.blocks;
  };
  const auto copy_keys = [&](int tile) {
    if (is_block(tile)) {
      const int block = tile - visible.sinks;
      copy_key_block<D>(packed_keys, start, p,
                        p.prefix.keys[static_cast<int64_t>(block) * p.kv_heads + kv_head],
                        p.prefix.rotations[block]);
    }
    copy_async_commit();
  };
  const auto copy_values = [&](int tile) {
    if (is_block(tile)) {
      const int block = tile - visible.sinks;
      copy_value_block<D>(packed_values, p,
                          p.prefix.values[static_cast<int64_t>(block) * p.kv_heads + kv_head]);
    }
    copy_async_commit();
  };

  copy_keys(begin);
  copy_values(begin);
  if (warp_id() == 0) load_queries<D, T>(queries, p, kv_head, row0, rows);
  int last_index[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    last_index[r] = first_query + min(row0 + lane_id() / 4 + 8 * r, rows - 1) / group;
  }
  const uint32_t query_base = query_fragment_base<D>(queries);
  const int my_token = warp_id() * kWarpTokens;
  const float scale_log2 = p.scale * 1.4426950408889634f;
  SoftmaxState state;
  float o[D / 8][4] = {};

#pragma unroll 1
  for (int i = begin; i < end; ++i) {
    const Tile tile = tile_at(p, visible, i, kAttentionTile);
    copy_async_wait<1>();  // K(i); V(i) may be under way
    __syncthreads();
    fill_keys<D, T>(tile_memory, tile, p, kv_head, packed_keys, start);
    __syncthreads();
    copy_keys(i + 1);

    uint32_t probabilities[1][4];
    {
      float s[2][4] = {};
      if (my_token < tile.length) {
        const OperandTile keys = key_operand<D>(tile_memory, tile);
#pragma unroll
        for (int k = 0; k < D; k += 16) {
          uint32_t a[4], b[4];
          load_query_fragment(a, query_base, k);
          keys.load(b, my_token, k);
          mma_16x8x16<T>(s[0], a, b[0], b[1]);
          mma_16x8x16<T>(s[1], a, b[2], b[3]);
        }
      }
      int limit[2];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        limit[r] = min(tile.length, last_index[r] - tile.first_index + 1);
      }
      softmax_step<D, kWarpTokens, T>(s, probabilities, o, state, scale_log2, limit, my_token);
    }
    copy_async_wait<1>();  // V(i); K(i+1) may be under way
    __syncthreads();
    fill_values<D, T>(tile_memory, tile, p, kv_head, packed_values);
    __syncthreads();
    copy_values(i + 1);
    add_values<D, kWarpTokens, T>(o, probabilities, value_operand<D>(tile_memory, tile, p),
                                  my_token, tile.length);
  }
  copy_async_wait<0>();
  __syncthreads();

  float total[2] = {quad_sum(state.sum[0]), quad_sum(state.sum[1])};
  merge_warps<D>(o, state, total, tile_memory, reinterpret_cast<float*>(queries));
  if (warp_id() != 0) return;
  if (launch.splits == 1) {
    write_output<D, T>(o, total, tile_memory, p, kv_head, row0, rows);
  } else {
    const int64_t part =
        (static_cast<int64_t>(blockIdx.z) * gridDim.y + kv_head) * launch.splits + split;
    write_part<D>(o, state, total, launch, part, row0, rows);
  }
}

}  // namespace rillkv::kernels::cuda
