// (e) Decode attention, fast path: few query rows against a long prefix. head_dim 64 or 128, bf16
// or fp16, blocks of 128 tokens.
//
// A CTA of four warps owns 8 query rows (the G heads of a kv head share them, r = t * G + g) and a
// split of the tiles. Unpacking is the work here, the matrix products are small: keys and values
// are A operands made in registers from packed codes, never a tile, and the 8 rows are the columns
// of the products (decode_keys.cuh, decode_values.cuh).
//
//   scores    a warp: half the tokens of a block, half of its channel pairs
//   exchange  warps of the same tokens add up each other's scores: 32 tokens each
//   values    a warp: its 32 tokens, all channels; its own maximum, sum and output, which meet
//             those of the other warps after the last tile
//
// Two barriers a block: K has come and the last V is done with; V has come and K is done with. Four
// CTAs an SM fill each other's gaps. A block's scales travel before its codes: two warps, in turns,
// make the next block's query operands of them while others multiply.
//
// Sinks and uncompressed tokens come after the blocks (decode_rows.cuh).
#pragma once

#include "kernels/cuda/attention_mma.cuh"
#include "kernels/cuda/attention_sequence.cuh"
#include "kernels/cuda/decode_keys.cuh"
#include "kernels/cuda/decode_rows.cuh"
#include "kernels/cuda/decode_softmax.cuh"
#include "kernels/cuda/decode_trellis.cuh"
#include "kernels/cuda/decode_values.cuh"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/shared_layout.h"

namespace rillkv::kernels::cuda {

extern __shared__ __align__(1024) uint8_t attention_shared[];

/// The CTA's queries, rotated, in fp32: each row times a power of two, so that its products with
/// any block's scales are numbers of fp16; scales[row] takes scores of them (of keys times
/// kKeyUnit) to units of log2, last_index[row] is the last index that it sees. Rows past the last
/// are zeros. A warp a row.
template <int D, typename T>
__device__ inline void load_decode_queries(float2* queries, int stride, float* scales,
                                           int* last_index, const AttentionParams& p, int kv_head,
                                           int row0, int end_row) {
  constexpr int kHalf = D / 2, kEach = D / 64;
  const int group = p.heads / p.kv_heads, lane = lane_id();
#pragma unroll 1
  for (int row = warp_id(); row < kDecodeRows; row += kDecodeWarps) {
    float2 rotated[kEach] = {};
    float most = 0.0f;
    if (row0 + row < end_row) {
      const int t = (row0 + row) / group, g = (row0 + row) % group;
      const T* q = static_cast<const T*>(in_global(p.queries.data)) + t * p.queries.token_stride +
                   (kv_head * group + g) * p.queries.head_stride;
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        const int pair = lane + 32 * i;
        const int64_t angle = static_cast<int64_t>(t) * kHalf + pair;
        const float c = in_global(p.query_cos)[angle], s = in_global(p.query_sin)[angle];
        const float x = to_float(q[pair]), y = to_float(q[pair + kHalf]);
        rotated[i] = {x * c - y * s, x * s + y * c};
        most = fmaxf(most, fmaxf(fabsf(rotated[i].x), fabsf(rotated[i].y)));
      }
    }
#pragma unroll
    for (int span = 16; span > 0; span /= 2) {
      most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, span));
    }
    // The largest comes to lie in [1/8, 1/4).
    const int exponent = min(max(static_cast<int>(__float_as_uint(most) >> 23), 4), 250);
    const float factor = __uint_as_float(static_cast<uint32_t>(251 - exponent) << 23);
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      queries[row * stride + lane + 32 * i] = {rotated[i].x * factor, rotated[i].y * factor};
    }
    if (lane == 0) {
      last_index[row] =
          static_cast<int>(p.first_query_index) + min(row0 + row, end_row - 1) / group;
      scales[row] =
          p.scale * kScoreUnit * __uint_as_float(static_cast<uint32_t>(exponent + 3) << 23);
    }
  }
}

/// What a CTA attends. `cta` is blockIdx.x.
struct DecodeShare {
  int row0, rows;  // the first row and how many, none if the CTA has nothing to do
  int split;
  VisibleTiles visible;
  int begin, end;              // its tiles
  int first_block, end_block;  // its blocks

  __device__ DecodeShare(const AttentionParams& p, const AttentionLaunchParams& launch, int cta)
      : row0(cta % launch.row_tiles * kDecodeRows),
        rows(min(kDecodeRows, p.query_count * (p.heads / p.kv_heads) - row0)),
        split(cta / launch.row_tiles),
        visible(p,
                static_cast<int>(p.first_query_index) + (row0 + rows - 1) / (p.heads / p.kv_heads),
                kAttentionTile) {
    int splits = launch.splits;
    if (launch.steps != nullptr) {  // those that exist; the merge asks for no others
      splits = min(splits, step_tiles(p.prefix.sink_capacity, p.prefix.block_count));
      if (split >= splits) rows = 0;
    }
    split_range(visible.count(), split, splits, begin, end);
    first_block = max(begin - visible.sinks, 0);
    end_block = min(end - visible.sinks, visible.blocks);
  }
  /// The i-th of its tiles that are not blocks.
  __device__ int tile_after_blocks(int i) const {
    const int tile = begin + i;
    return tile < visible.sinks ? tile : tile + max(end_block - first_block, 0);
  }
};

/// Of the two rows of a lane (decode_softmax.cuh); read where they are used, since the loop over
/// blocks has no register to spare.
template <int D>
__device__ inline void scales_of_rows(float (&scale_log2)[2]) {
  const uint2 x = load_shared_8(shared_address(attention_shared + DecodeShared(D).scales) +
                                8 * static_cast<uint32_t>(opaque(lane_id()) & 3));
  scale_log2[0] = __uint_as_float(x.x);
  scale_log2[1] = __uint_as_float(x.y);
}
/// How many tokens each sees from index `first_index` on; may be negative.
template <int D>
__device__ inline void limits_of_rows(int (&limit)[2], int first_index) {
  const uint2 x = load_shared_8(shared_address(attention_shared + DecodeShared(D).last_index) +
                                8 * static_cast<uint32_t>(opaque(lane_id()) & 3));
  limit[0] = static_cast<int>(x.x) - first_index + 1;
  limit[1] = static_cast<int>(x.y) - first_index + 1;
}

/// Where things are. kTrellis: of the entries for trellis blocks.
template <int D, bool kTrellis>
inline constexpr DecodeShared kDecodeShared(D, kTrellis);

/// The CTA's tiles that are not blocks. Which one it is lies in shared memory, where the pointers
/// to blocks were: filling a tile takes the registers that outputs leave.
template <int D, typename T, bool kTrellis>
__device__ inline void attend_rows(DecodeSoftmax& state, float (&o)[D / 16][4],
                                   const AttentionParams& p, const AttentionLaunchParams& launch) {
  constexpr DecodeShared layout = kDecodeShared<D, kTrellis>;
  uint8_t* tile_memory = attention_shared + layout.values;
#pragma unroll 1
  for (int i = 0;; ++i) {
    const auto tile_at_hand = [&] {
      const uint4 x = load_shared_16(shared_address(attention_shared + layout.next) +
                                     16 * static_cast<uint32_t>(i & 1));
      return Tile{static_cast<TileKind>(x.x), static_cast<int>(x.y), static_cast<int>(x.z),
                  static_cast<int>(x.w)};
    };
    if (threadIdx.x == 0) {
      const DecodeShare share(p, launch, static_cast<int>(blockIdx.x));
      const int number = share.tile_after_blocks(i);
      Tile tile = {};
      if (number < share.end) tile = tile_at(p, share.visible, number, kAttentionTile);
      store_shared_16(
          shared_address(attention_shared + layout.next) + 16 * static_cast<uint32_t>(i & 1),
          {static_cast<uint32_t>(tile.kind), static_cast<uint32_t>(tile.number),
           static_cast<uint32_t>(tile.length), static_cast<uint32_t>(tile.first_index)});
    }
    __syncthreads();
    if (tile_at_hand().length == 0) break;
#pragma unroll 1
    for (int first = 0; first < tile_at_hand().length; first += 16 * kDecodeWarps) {
      const auto length = [&] { return min(tile_at_hand().length - first, 16 * kDecodeWarps); };
      if (first > 0) __syncthreads();
      {
        const Tile tile = tile_at_hand();
        fill_row_keys<D, T, kDecodeThreads>(tile_memory, tile.kind, p, static_cast<int>(blockIdx.y),
                                            tile.number + first, length());
      }
      __syncthreads();
      const int my_first = 16 * opaque(warp_id());
      Probabilities probabilities[1] = {};
      if (my_first < length()) {
        float s[1][4] = {};
        add_row_scores<D>(s[0], tile_memory, shared_address(attention_shared + layout.queries),
                          DecodeShared::query_stride(D));
        int limit[2];
        float scale_log2[2];
        limits_of_rows<D>(limit, tile_at_hand().first_index + first);
        scales_of_rows<D>(scale_log2);
        limit[0] = min(limit[0], length());
        limit[1] = min(limit[1], length());
        const int token = my_first + lane_id() / 4;
        mask_tokens(s, limit, [&](int, int later) { return token + 8 * later; });
        softmax(s, scale_log2, state, probabilities, o);
      }
      __syncthreads();
      {
        const Tile tile = tile_at_hand();
        fill_row_values<D, T, kDecodeThreads>(
            tile_memory, tile.kind, p, static_cast<int>(blockIdx.y), tile.number + first, length());
      }
      __syncthreads();
      if (16 * opaque(warp_id()) < length()) {
        add_row_values<D>(o, probabilities[0], tile_memory);
      }
    }
  }
}

/// The CTA's part: the outputs of its warps, brought to the largest of their maxima.
template <int D, bool kTrellis>
__device__ inline void finish(const DecodeSoftmax& state, const float (&o)[D / 16][4],
                              const AttentionParams& p, const AttentionLaunchParams& launch) {
  constexpr DecodeShared layout = kDecodeShared<D, kTrellis>;
  const int lane = opaque(lane_id()), warp = warp_id(), my_row = 2 * (lane & 3);
  __syncthreads();
  float* maxima = reinterpret_cast<float*>(attention_shared + layout.maxima);
  float* sums = reinterpret_cast<float*>(attention_shared + layout.sums);
  float* all = reinterpret_cast<float*>(attention_shared + layout.values);
  constexpr int kStride = DecodeShared::sum_stride(D);
  if (lane < 4) {
#pragma unroll
    for (int r = 0; r < 2; ++r) maxima[kDecodeRows * warp + my_row + r] = state.max[r];
  }
  __syncthreads();
  float factor[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float most = maxima[my_row + r];
#pragma unroll
    for (int w = 1; w < kDecodeWarps; ++w) {
      most = fmaxf(most, maxima[kDecodeRows * w + my_row + r]);
    }
    factor[r] = exp2_fast(state.max[r] - (most == -INFINITY ? 0.0f : most));
    const float sum = over_tokens(state.sum[r], [](float a, float b) { return a + b; }) * factor[r];
    if (lane < 4) sums[kDecodeRows * warp + my_row + r] = sum;
  }
#pragma unroll
  for (int m = 0; m < D / 16; ++m) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      all[(kDecodeRows * warp + my_row + (e & 1)) * kStride + 16 * m + 8 * (e >> 1) + lane / 4] =
          o[m][e] * factor[e & 1];
    }
  }
  __syncthreads();
  const DecodeShare last(p, launch, opaque(static_cast<int>(blockIdx.x)));
  const int64_t part =
      (static_cast<int64_t>(blockIdx.z) * gridDim.y + static_cast<int>(blockIdx.y)) *
          launch.splits +
      last.split;
  const int64_t out_row = part * launch.row_stride + last.row0;
  for (int i = static_cast<int>(threadIdx.x); i < last.rows * (D / 4); i += kDecodeThreads) {
    const int row = i / (D / 4), at = 4 * (i % (D / 4));
    float4 x = {};
#pragma unroll
    for (int w = 0; w < kDecodeWarps; ++w) {
      const auto y = *reinterpret_cast<const float4*>(all + (kDecodeRows * w + row) * kStride + at);
      x = {x.x + y.x, x.y + y.y, x.z + y.z, x.w + y.w};
    }
    *reinterpret_cast<float4*>(launch.part_out + (out_row + row) * D + at) = x;
  }
  const int row = static_cast<int>(threadIdx.x);
  if (row < last.rows) {
    float most = maxima[row], sum = sums[row];
#pragma unroll
    for (int w = 1; w < kDecodeWarps; ++w) {
      most = fmaxf(most, maxima[kDecodeRows * w + row]);
      sum += sums[kDecodeRows * w + row];
    }
    *reinterpret_cast<float2*>(launch.part_max_sum + 2 * (out_row + row)) = {most, sum};
  }
}

/// kTrellis: blocks are of policy "trellis".
template <int D, typename T, bool kTrellis = false>
__device__ void decode(const AttentionLaunchParams& launch) {
  constexpr DecodeShared layout = kDecodeShared<D, kTrellis>;
  constexpr int kPairWarps = D / 64;  // with a thread a channel pair
  const AttentionParams& p = load_sequence(attention_shared + layout.sequence, launch);
  const int lane = lane_id(), warp = warp_id();
  // Read where it is used, as other things here: the loop has no register to spare.
  const auto kv_head = [] { return opaque(static_cast<int>(blockIdx.y)); };
  const DecodeShare mine(p, launch, static_cast<int>(blockIdx.x));
  if (mine.rows <= 0) return;
  const int first_block = mine.first_block, end_block = mine.end_block, rows = mine.rows;

  uint8_t* packed_values = attention_shared + layout.values;
  uint8_t* packed_keys = packed_values + DecodeShared::value_bytes(D, p.prefix, kTrellis);
  float* start = reinterpret_cast<float*>(attention_shared + layout.rotation);
  const uint32_t queries = shared_address(attention_shared + layout.queries);
  const uint32_t value_table = shared_address(attention_shared + layout.value_table);
  const KeyOperands operands = {shared_address(attention_shared + layout.pairs),
                                shared_address(attention_shared + layout.operands)};
  const uint32_t key_subsets = shared_address(attention_shared + layout.key_subsets);
  const uint32_t value_subsets = shared_address(attention_shared + layout.value_subsets);
  const int key_codes =
      kTrellis ? trellis_key_codes_at<D>()
               : static_cast<int>(format::channel_codes_offset(D, p.prefix.keys_symmetric));

  // Pointers to packed blocks are fetched into shared memory a tile before the blocks, which are
  // fetched a tile before they are worked on: nobody waits for two loads one after the other.
  auto* next = reinterpret_cast<const void**>(attention_shared + layout.next);
  const auto pointer = [&](int block, int which) { return next[4 * (block & 3) + which]; };
  const auto fetch_pointers = [&](int block) {
    if (threadIdx.x == 0 && block < end_block) {
      const int64_t at = static_cast<int64_t>(block) * p.kv_heads + kv_head();
      const uint32_t to = shared_address(next + 4 * (block & 3));
      copy_async_8(to, p.prefix.keys + at);
      copy_async_8(to + 8, p.prefix.rotations + block);
      copy_async_8(to + 16, p.prefix.values + at);
    }
  };
  const auto copy_scales = [&](int block) {
    if (block >= end_block) return;
    const auto* keys = static_cast<const uint8_t*>(pointer(block, 0));
    const auto* rotation = static_cast<const float*>(pointer(block, 1));
    if constexpr (kTrellis) {
      copy_trellis_key_scales<D>(packed_keys, start, keys, rotation);
    } else {
      copy_key_scales<D, kDecodeThreads>(packed_keys, start, p, keys, rotation);
    }
  };
  const auto copy_keys = [&](int block) {  // after its scales
    if (block < end_block) {
      const auto* keys = static_cast<const uint8_t*>(pointer(block, 0));
      if constexpr (kTrellis) {
        copy_trellis_key_codes<D>(packed_keys, keys, p.key_block_bytes);
        copy_trellis_value_path<D>(packed_values, static_cast<const uint8_t*>(pointer(block, 2)));
      } else {
        copy_key_codes<D, kDecodeThreads>(packed_keys, p, keys, packed_keys);
      }
    }
    copy_async_commit();
  };
  const auto copy_values = [&](int block) {
    const auto* values = static_cast<const uint8_t*>(pointer(block, 2));
    if constexpr (kTrellis) {
      copy_trellis_values<D>(packed_values, values, DecodeShared::value_bytes(D, p.prefix, true));
    } else {
      copy_value_block<D, kDecodeThreads>(packed_values, values, value_block_size<D>(p));
    }
  };
  // Policy "trellis": by D / 32 warps.
  const auto subsets_of_block = [&](uint32_t to, const uint8_t* path, int turn) {
    const int position =
        32 * ((opaque(warp_id()) + D / 32 * turn) & (kDecodeWarps - 1)) + opaque(lane_id());
    if (position < D) write_subsets<D>(to, path, position);
  };
  // Warps take turns, so that the SM's schedulers have equal work.
  const auto prepare = [&](int block) {
    const int from = (block * kPairWarps) & (kDecodeWarps - 1);
    if (block < end_block && warp >= from && warp < from + kPairWarps) {
      if constexpr (kTrellis) {
        prepare_keys<D>(operands, TrellisScales<D>{packed_keys}, start, queries,
                        DecodeShared::query_stride(D), rows, 32 * (warp - from) + lane);
      } else {
        prepare_keys<D>(operands, ChannelScales<D>{packed_keys, p.prefix.keys_symmetric}, start,
                        queries, DecodeShared::query_stride(D), rows, 32 * (warp - from) + lane);
      }
    }
    if constexpr (kTrellis) {
      if (block < end_block) {
        subsets_of_block(key_subsets, packed_keys + format::trellis_key_path_offset(D), block + 1);
      }
    }
  };

  if (first_block < end_block) {
    fetch_pointers(first_block);
    fetch_pointers(first_block + 1);
    copy_async_commit();
    // Of rows that do not exist.
    for (int i = static_cast<int>(threadIdx.x); i < 4 * D; i += kDecodeThreads) {
      store_shared_16(operands.queries + 16 * static_cast<uint32_t>(i), {0, 0, 0, 0});
    }
  }
  load_decode_queries<D, T>(reinterpret_cast<float2*>(attention_shared + layout.queries),
                            DecodeShared::query_stride(D) / 8,
                            reinterpret_cast<float*>(attention_shared + layout.scales),
                            reinterpret_cast<int*>(attention_shared + layout.last_index), p,
                            kv_head(), mine.row0, mine.row0 + rows);
  copy_async_wait<0>();
  __syncthreads();
  if (first_block < end_block) {
    copy_scales(first_block);
    copy_async_commit();
    copy_async_wait<0>();
    __syncthreads();
    copy_keys(first_block);
    prepare(first_block);
  }

  DecodeSoftmax state;
  float o[D / 16 + (kTrellis ? 1 : 0)][4] = {};
  int reference_scale = -1 << 16;  // of policy "trellis": none yet
  const int half = warp >> 1, share = warp & 1;
  const uint32_t exchange =
      shared_address(attention_shared + layout.exchange) + 16 * static_cast<uint32_t>(lane);

#pragma unroll 1
  for (int i = first_block; i < end_block; ++i) {
    copy_async_wait<0>();  // K(i)
    __syncthreads();
    copy_values(i);
    copy_scales(i + 1);
    fetch_pointers(i + 2);
    copy_async_commit();

    float s[4][4] = {};
    if constexpr (kTrellis) {
      subsets_of_block(value_subsets, packed_values + trellis_value_path_at<D>(), i);
      add_key_scores<D>(
          s, operands,
          [&](uint32_t word) {
            return TrellisCodes<D>(packed_keys + key_codes, key_subsets, word);
          },
          p.in_block_half, half, share);
    } else {
      add_key_scores<D>(
          s, operands, [&](uint32_t word) { return ChannelCodes(packed_keys + key_codes, word); },
          p.in_block_half, half, share);
    }
    // This warp keeps operands 2 share and 2 share + 1.
    const auto send = [&](int slot, const float(&x)[4]) {
      store_shared_16(exchange + static_cast<uint32_t>(1024 * (warp ^ 1) + 512 * slot),
                      {__float_as_uint(x[0]), __float_as_uint(x[1]), __float_as_uint(x[2]),
                       __float_as_uint(x[3])});
    };
    if (share == 0) {
      send(0, s[2]);
      send(1, s[3]);
    } else {
      send(0, s[0]);
      send(1, s[1]);
    }
    float kept[2][4];
#pragma unroll
    for (int j = 0; j < 2; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) kept[j][e] = share == 0 ? s[j][e] : s[j + 2][e];
    }
    copy_async_wait<0>();  // V(i), scales of K(i + 1)
    __syncthreads();
    copy_keys(i + 1);
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const uint4 x = load_shared_16(exchange + static_cast<uint32_t>(1024 * warp + 512 * j));
      kept[j][0] += __uint_as_float(x.x);
      kept[j][1] += __uint_as_float(x.y);
      kept[j][2] += __uint_as_float(x.z);
      kept[j][3] += __uint_as_float(x.w);
    }
    const int first_index = p.prefix.sink_capacity + i * kAttentionTile;
    int limit[2];
    float scale_log2[2];
    limits_of_rows<D>(limit, first_index);
    scales_of_rows<D>(scale_log2);
    if (min(limit[0], limit[1]) < kAttentionTile) {
      mask_tokens(kept, limit, [&](int j, int later) {
        return 8 * half + lane / 4 + 16 * (2 * share + j) + 64 * later;
      });
    }
    Probabilities probabilities[2];
    if constexpr (kTrellis) {
      softmax(kept, scale_log2, state, probabilities, o,
              weigh_tokens(reference_scale, o, packed_values, half, 2 * share));
      add_trellis_values<D>(o, probabilities, packed_values + trellis_value_codes_at<D>(),
                            value_subsets, p.prefix.value_width, p.prefix.value_wide_pairs, half,
                            2 * share);
    } else {
      softmax(kept, scale_log2, state, probabilities, o);
      if (p.prefix.values_channel_major) {
        if (warp < kPairWarps) {
          prepare_channel_values<D>(value_table, packed_values, static_cast<int>(threadIdx.x));
        }
        __syncthreads();
        add_channel_values<D>(o, probabilities, value_table, packed_values, half, 2 * share);
      } else {
        add_token_values<D>(o, probabilities, packed_values, p.prefix.value_groups,
                            p.prefix.value_bits, half, 2 * share);
      }
    }
    prepare(i + 1);
  }

  if constexpr (kTrellis) {
    float sums[D / 16][4];
    settle_values<D>(sums, o, reference_scale, p.prefix.value_width, p.prefix.value_wide_pairs);
    attend_rows<D, T, true>(state, sums, p, launch);
    finish<D, true>(state, sums, p, launch);
  } else {
    attend_rows<D, T, false>(state, o, p, launch);
    finish<D, false>(state, o, p, launch);
  }
}

}  // namespace rillkv::kernels::cuda
