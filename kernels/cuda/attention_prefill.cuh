// (d) Prefill attention, fast path: head_dim 64 or 128, bf16 or fp16, blocks of 128 tokens.
//
// A CTA owns 128 query rows (r = t * G + g: the heads of a GQA group share keys) of one kv head,
// 16 a warp, and walks over the tiles it sees. K and V alternate, so that one buffer each is enough
// and turning packed codes into tiles hides behind the tensor cores:
//
//   interval A(n):  fill V(n)      and  s = Q K(n)^T, softmax     copy codes of K(n+1) meanwhile
//   interval B(n):  fill K(n+1)    and  o += p V(n)               copy V(n+1), scales of K(n+2)
//
// In A(n) two warps prepare K(n+1) from its scales (prepare_channels). Values of trellis blocks
// have such a part, too: scales and paths of V(n+1) are copied in A(n) and prepared in B(n).
//
// Each warp does both halves of an interval. Warps w and w + 4 share a scheduler and take the
// halves in opposite order, so at any time one fills (ALU) while the other multiplies (tensor
// cores); a barrier ends the interval.
//
// Shared memory (PrefillShared): K tile, V tile, packed K + R(t0), packed V: at most 99 KB.
// The design follows FlashAttention-2 (Dao 2023) for the softmax and the register layout.
#pragma once

#include <type_traits>

#include "kernels/cuda/attention_mma.cuh"
#include "kernels/cuda/shared_layout.h"

namespace rillkv::kernels::cuda {

extern __shared__ __align__(1024) uint8_t attention_shared[];

/// kTrellis: blocks are trellis blocks.
template <int D, typename T, bool kTrellis = false>
__device__ void prefill(const AttentionLaunchParams& launch) {
  const AttentionParams& p = launch.sequences[blockIdx.z];
  const int kv_head = static_cast<int>(blockIdx.y), thread = static_cast<int>(threadIdx.x);
  const int row_tile = static_cast<int>(blockIdx.x) % launch.row_tiles;
  const int split = static_cast<int>(blockIdx.x) / launch.row_tiles;
  const int group = p.heads / p.kv_heads, rows = p.query_count * group;
  const int cta_row = row_tile * kPrefillRows;
  if (cta_row >= rows) return;
  const int row0 = cta_row + 16 * warp_id();
  const int first_query = static_cast<int>(p.first_query_index);

  const int last_row = min(cta_row + kPrefillRows, rows) - 1;
  const VisibleTiles visible(p, first_query + last_row / group, kAttentionTile);
  int begin, end;
  split_range(visible.count(), split, launch.splits, begin, end);

  constexpr std::conditional_t<kTrellis, PrefillTrellisShared, PrefillShared> layout(D);
  uint8_t* key_tile = attention_shared;
  uint8_t* value_tile = attention_shared + layout.values;
  uint8_t* packed_keys;
  if constexpr (kTrellis) {
    packed_keys = attention_shared + layout.packed_keys(trellis_value_codes<D>(p));
  } else {
    packed_keys = attention_shared + layout.packed_keys;
  }
  float* start = reinterpret_cast<float*>(attention_shared + layout.rotation);
  uint8_t* packed_values = attention_shared + layout.packed_values;
  uint8_t* key_table = attention_shared + layout.key_table;

  // Pointers to packed blocks travel like the blocks: fetched into shared memory an interval before
  // they are needed, so that nobody waits for them and no register holds them. Two tiles' keys are
  // under way: those of odd and of even number; and two tiles' values if they have a part that
  // travels first.
  auto* next = reinterpret_cast<const void**>(attention_shared + layout.next);
  const auto is_block = [&](int tile) {
    return tile < end && tile >= visible.sinks && tile < visible.sinks + visible.blocks;
  };
  const auto tile_of = [&](int i) { return tile_at(p, visible, i, kAttentionTile); };
  const auto fetch_key_pointers = [&](int tile) {
    if (threadIdx.x == 0 && is_block(tile)) {
      const int block = tile - visible.sinks;
      copy_async_8(shared_address(next + 2 * (tile & 1)),
                   p.prefix.keys + static_cast<int64_t>(block) * p.kv_heads + kv_head);
      copy_async_8(shared_address(next + 2 * (tile & 1) + 1), p.prefix.rotations + block);
    }
  };
  const auto fetch_value_pointer = [&](int tile) {
    if (threadIdx.x == 0 && is_block(tile)) {
      copy_async_8(
          shared_address(next + 4 + (kTrellis ? tile & 1 : 0)),
          p.prefix.values + static_cast<int64_t>(tile - visible.sinks) * p.kv_heads + kv_head);
    }
  };
  const auto key_block = [&](int tile) {
    return static_cast<const uint8_t*>(next[2 * (tile & 1)]);
  };
  const auto copy_scales = [&](int tile) {
    if (is_block(tile)) {
      const auto* rotation = static_cast<const float*>(next[2 * (tile & 1) + 1]);
      if constexpr (kTrellis) {
        copy_trellis_key_meta<D>(packed_keys, start, key_block(tile), rotation);
      } else {
        copy_key_scales<D>(packed_keys, start, p, key_block(tile), rotation);
      }
    }
  };
  const auto copy_keys = [&](int tile) {
    if (!is_block(tile)) return;
    if constexpr (kTrellis) {
      copy_trellis_key_codes<D>(packed_keys, p, key_block(tile));
    } else {
      copy_key_codes<D>(packed_keys, p, key_block(tile), key_block(tile));
    }
  };
  const auto copy_value_meta = [&](int tile) {
    if constexpr (kTrellis) {
      if (is_block(tile)) {
        copy_trellis_value_meta<D>(attention_shared + layout.value_meta,
                                   static_cast<const uint8_t*>(next[4 + (tile & 1)]));
      }
    }
  };
  const auto copy_values = [&](int tile) {
    if (!is_block(tile)) return;
    if constexpr (kTrellis) {
      copy_block_async<D>(
          packed_values,
          static_cast<const uint8_t*>(next[4 + (tile & 1)]) + trellis_value_meta_bytes(D),
          trellis_value_codes<D>(p));
    } else {
      copy_value_block<D>(packed_values, static_cast<const uint8_t*>(next[4]),
                          value_block_size<D>(p));
    }
  };
  const auto prepare_keys = [&](int tile) {
    if constexpr (kTrellis) {
      if (!is_block(tile)) return;
      write_subsets<D>(attention_shared + layout.key_subsets,
                       packed_keys + format::trellis_key_path_offset(D));
      if (threadIdx.x < D / 2) prepare_trellis_keys<D>(key_table, packed_keys, start);
    } else if (is_block(tile) && threadIdx.x < D / 2) {
      prepare_channels<D, true>(key_table, packed_keys, p.prefix.keys_symmetric, start);
    }
  };
  // In the interval before the values are filled.
  const auto prepare_value_meta = [&](int tile) {
    if constexpr (kTrellis) {
      if (!is_block(tile)) return;
      const uint8_t* meta = attention_shared + layout.value_meta;
      write_subsets<D>(attention_shared + layout.value_subsets,
                       meta + format::trellis_value_path_offset(kAttentionTile));
      prepare_trellis_values(attention_shared + layout.value_scales, meta, p.prefix.value_width);
    }
  };
  // Policy "ema" only: an extra barrier, before the values are filled.
  const auto prepare_values = [&](int tile) {
    if constexpr (!kTrellis) {
      if (p.prefix.values_channel_major && is_block(tile)) {
        if (threadIdx.x < D / 2) {
          prepare_channels<D, false>(attention_shared + layout.value_table, packed_values, true,
                                     nullptr);
        }
        __syncthreads();
      }
    }
  };
  const auto fill_key_tile = [&](int i) {
    const Tile t = tile_of(i);
    if constexpr (kTrellis) {
      if (t.kind == TileKind::kBlock) {
        fill_trellis_keys<D>(key_tile, packed_keys + trellis_key_meta_bytes(D), key_table,
                             attention_shared + layout.key_subsets, p.in_block_half,
                             opaque(thread));
      } else {
        fill_row_keys<D, T, kFastThreads>(key_tile, t.kind, p, kv_head, t.number, t.length);
      }
    } else {
      fill_keys<D, T>(key_tile, t, p, kv_head, packed_keys, key_table, opaque(thread));
    }
  };
  const auto fill_value_tile = [&](const Tile& t) {
    if constexpr (kTrellis) {
      if (t.kind == TileKind::kBlock) {
        fill_trellis_values<D>(value_tile, packed_values, attention_shared + layout.value_subsets,
                               attention_shared + layout.value_scales, p.prefix.value_width,
                               opaque(thread));
      } else {
        fill_row_values<D, T, kFastThreads>(value_tile, t.kind, p, kv_head, t.number, t.length);
      }
    } else {
      fill_values<D, T>(value_tile, t, p, kv_head, packed_values,
                        attention_shared + layout.value_table, opaque(thread));
    }
  };
  fetch_key_pointers(begin);
  fetch_key_pointers(begin + 1);
  fetch_value_pointer(begin);
  if constexpr (kTrellis) fetch_value_pointer(begin + 1);
  copy_async_commit();

  // Queries pass through the key tile's memory into registers, where they stay.
  uint32_t q[D / 16][4];
  {
    uint8_t* mine = key_tile + warp_id() * 16 * 2 * D;
    load_queries<D, T>(mine, p, kv_head, row0, rows);
    __syncwarp();
    const uint32_t base = query_fragment_base<D>(mine);
#pragma unroll
    for (int k = 0; k < D; k += 16) load_query_fragment(q[k / 16], base, k);
  }
  if constexpr (kTrellis) {
    static_assert(layout.value_walks == layout.value_scales + kTrellisScaleBytes);
    prepare_value_walks<D>(attention_shared + layout.value_walks, p.prefix);
  }
  auto* last_index = reinterpret_cast<int*>(attention_shared + layout.last_index);
  for (int row = static_cast<int>(threadIdx.x); row < kPrefillRows; row += kFastThreads) {
    last_index[row] = first_query + min(cta_row + row, rows - 1) / group;
  }
  copy_async_wait<0>();
  __syncthreads();
  copy_scales(begin);
  copy_keys(begin);
  copy_value_meta(begin);
  copy_values(begin);
  copy_async_commit();
  copy_async_wait<0>();
  __syncthreads();
  prepare_keys(begin);
  prepare_value_meta(begin);
  __syncthreads();
  copy_scales(begin + 1);
  copy_async_commit();
  if (begin < end) fill_key_tile(begin);
  copy_async_wait<0>();
  __syncthreads();
  prepare_values(begin);

  SoftmaxState state;
  float o[D / 8][4] = {};

#pragma unroll 1
  for (int i = begin; i < end; ++i) {
    const Tile tile = tile_of(i);
    uint32_t probabilities[kAttentionTile / 16][4];
    // ---- interval A ----
    copy_keys(i + 1);
    fetch_key_pointers(i + 2);
    copy_value_meta(i + 1);
    fetch_value_pointer(i + (kTrellis ? 2 : 1));
    copy_async_commit();
    prepare_keys(i + 1);
#pragma unroll 1
    for (int half = 0; half < 2; ++half) {
      if ((half == 0) == ((warp_id() & 4) != 0)) {
        fill_value_tile(tile);
      } else {
        float s[kAttentionTile / 8][4];
        with_layout(!keys_by_channel(tile), [&](auto layout) {
          constexpr bool by_column = decltype(layout)::by_column;
          const auto keys = tile_operand<by_column, row_bytes<D>(!by_column)>(key_tile);
          unrolled<0, kAttentionTile, 16>([&](auto n) {
            float(&left)[4] = s[n.value / 8], (&right)[4] = s[n.value / 8 + 1];
#pragma unroll
            for (int e = 0; e < 4; ++e) left[e] = right[e] = 0.0f;
            if (n.value >= tile.length) return;
            unrolled<0, D, 16>([&](auto k) {
              uint32_t b[4];
              keys.template load<n.value, k.value>(b);
              mma_16x8x16(left, q[k.value / 16], b[0], b[1]);
              mma_16x8x16(right, q[k.value / 16], b[2], b[3]);
            });
          });
        });
        int limit[2];
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          const int last = last_index[16 * warp_id() + lane_id() / 4 + 8 * r];
          limit[r] = min(tile.length, last - tile.first_index + 1);
        }
        mask_scores<kAttentionTile>(s, limit, 0, tile.kind == TileKind::kBlock);
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          const float fade = softmax_row<kAttentionTile>(
              s, probabilities, state, r, row_max<kAttentionTile>(s, r), p.scale * kScoreUnit);
#pragma unroll
          for (int n = 0; n < D / 8; ++n) {
            o[n][2 * r] *= fade;
            o[n][2 * r + 1] *= fade;
          }
        }
      }
    }
    copy_async_wait<0>();
    __syncthreads();
    // ---- interval B ----
    copy_values(i + 1);
    copy_scales(i + 2);
    copy_async_commit();
    prepare_value_meta(i + 1);
#pragma unroll 1
    for (int half = 0; half < 2; ++half) {
      if ((half == 0) == ((warp_id() & 4) != 0)) {
        if (i + 1 < end) fill_key_tile(i + 1);
      } else {
        with_layout(kTrellis ? keys_by_channel(tile) : values_by_channel(tile, p),
                    [&](auto layout) {
                      constexpr bool by_column = decltype(layout)::by_column;
                      add_values<D>(o, probabilities,
                                    tile_operand<by_column, row_bytes<D>(by_column)>(value_tile),
                                    tile.length);
                    });
      }
    }
    copy_async_wait<0>();
    __syncthreads();
    prepare_values(i + 1);
  }

  if (row0 >= rows) return;
  const float total[2] = {quad_sum(state.sum[0]), quad_sum(state.sum[1])};
  if (launch.splits == 1) {
    write_output<D, T>(o, total, key_tile + warp_id() * 16 * 2 * D, p, kv_head, row0, rows);
  } else {
    const int64_t part =
        (static_cast<int64_t>(blockIdx.z) * gridDim.y + kv_head) * launch.splits + split;
    write_part<D>(o, launch, part, row0, rows);
    write_part_sums(state, total, launch, part, row0, rows);
  }
}

}  // namespace rillkv::kernels::cuda
