// (f) A slice of sealed blocks to dense fp16, once for all queries of a chunk (slices.h).
//
// A CTA owns the keys or the values of one block of one kv head: 256 threads. It copies the packed
// block to shared memory, turns it into the very tile that the fused kernels multiply
// (fill_channels.cuh, fill_tokens.cuh, fill_trellis.cuh), and copies that to its place, 16 bytes a
// lane, 64 or more bytes of a row together.
//
// Tiles of channels are [channel][position] and leave transposed. ldmatrix.trans gives lane l of a
// warp, of each of four 8 x 8 matrices, the columns 2 (l % 4) and the next of row l / 4: of what
// eight lanes address, so the lanes choose the channels. Matrix m takes the channels 8 q + 2 (m ^
// q) and the next for its columns 2 q and 2 q + 1: eight different chunks modulo 8, hence no bank
// twice, and lane l ends up with the channels 8 q ... 8 q + 7 of its token, q = l % 4, in pairs m ^
// q, which three exchanges put in order.
//
// Shared memory (ExpandShared): tile, R(t0), table, packed block: 45 KB at D = 128 and preset
// balanced, so four CTAs an SM of 227 KB, which hide each other's two waits for memory.
#include "kernels/cuda/attention_mma.cuh"
#include "kernels/cuda/expand_shared.h"

namespace rillkv::kernels::cuda {
namespace {

extern __shared__ __align__(1024) uint8_t expand_memory[];

/// In PTX, because of lanes' choices nvcc makes four stores.
__device__ inline void store_global_16(uint16_t* to, uint4 x) {
  asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to)),
               "r"(x.x), "r"(x.y), "r"(x.z), "r"(x.w)
               : "memory");
}

/// A tile [channel][position] of a packed block to rows [token][D] in global memory.
template <int D>
__device__ void store_transposed(uint16_t* out, const uint8_t* tile) {
  const int lane = lane_id();
  const int q = lane & 3, row = lane >> 2;  // of what this lane gets
  // What it addresses: row `lane & 7` of matrix `lane >> 3`.
  const int pair = lane >> 1 & 3, channel = 8 * pair + 2 * ((lane >> 3) ^ pair) + (lane & 1);
  const uint32_t base = shared_address(tile) + swizzled(channel, 0, 2 * kAttentionTile);
  // Position 8 i + row is token i + 16 (row >> 1) + 64 (row & 1): token_at_position.
  uint16_t* to = out + token_at_position(row) * D + 8 * q;
#pragma unroll
  for (int round = 0; round < kAttentionTile / 8 / kFastWarps; ++round) {
    const int i = warp_id() + round * kFastWarps;
    const uint32_t from = base ^ static_cast<uint32_t>(i << 4);
    unrolled<0, D, 32>([&](auto first) {
      uint32_t r[4];
      ldmatrix_x4_trans<first.value * 2 * kAttentionTile>(r, from);
      const bool odd = (q & 1) != 0, high = (q & 2) != 0;
      const uint32_t a = odd ? r[1] : r[0], b = odd ? r[0] : r[1];
      const uint32_t c = odd ? r[3] : r[2], d = odd ? r[2] : r[3];
      store_global_16(to + i * D + first.value,
                      {high ? c : a, high ? d : b, high ? a : c, high ? b : d});
    });
  }
}

/// A tile [position][channel] of a packed block to the same rows.
template <int D>
__device__ void store_rows(uint16_t* out, const uint8_t* tile) {
  constexpr int kChunks = D / 8, kRows = kExpandThreads / kChunks;
  const int thread = static_cast<int>(threadIdx.x), chunk = thread % kChunks;
#pragma unroll
  for (int round = 0; round < kAttentionTile / kRows; ++round) {
    const int position = thread / kChunks + round * kRows;
    *reinterpret_cast<uint4*>(out + token_at_position(position) * D + 8 * chunk) =
        *reinterpret_cast<const uint4*>(tile + swizzled(position, chunk, 2 * D));
  }
}

template <int D>
__device__ void expand_slice(const ExpandSliceParams& launch) {
  const AttentionParams& p = launch.sequence;
  const int block = launch.first_block + static_cast<int>(blockIdx.x);
  const int kv_head = static_cast<int>(blockIdx.y), thread = static_cast<int>(threadIdx.x);
  const int64_t pointer = static_cast<int64_t>(block) * p.kv_heads + kv_head;
  const int64_t out =
      (static_cast<int64_t>(kv_head) * launch.blocks + blockIdx.x) * (kAttentionTile * D);

  constexpr ExpandShared layout(D);
  uint8_t* tile = expand_memory;
  float* start = reinterpret_cast<float*>(expand_memory + layout.rotation);
  uint8_t* table = expand_memory + layout.table;
  uint8_t* packed = expand_memory + layout.packed;

  if (blockIdx.z == 0) {
    const bool symmetric = p.prefix.keys_symmetric;
    const uint8_t* keys = p.prefix.keys[pointer];
    copy_key_scales<D>(packed, start, p, keys, p.prefix.rotations[block]);
    copy_key_codes<D>(packed, p, keys, keys);
    copy_async_commit();
    copy_async_wait<0>();
    __syncthreads();
    if (thread < D / 2) prepare_channels<D, true>(table, packed, symmetric, start);
    __syncthreads();
    fill_channel_block<D, true>(tile, packed + format::channel_codes_offset(D, symmetric), table,
                                p.in_block_half, thread);
    __syncthreads();
    store_transposed<D>(launch.keys + out, tile);
    return;
  }
  copy_value_block<D>(packed, p.prefix.values[pointer], value_block_size<D>(p));
  copy_async_commit();
  copy_async_wait<0>();
  __syncthreads();
  if (p.prefix.values_channel_major) {
    if (thread < D / 2) prepare_channels<D, false>(table, packed, true, nullptr);
    __syncthreads();
    fill_channel_block<D, false>(tile, packed + format::channel_codes_offset(D, true), table,
                                 nullptr, thread);
    __syncthreads();
    store_transposed<D>(launch.values + out, tile);
  } else {
    fill_token_block<D>(tile, packed, p.prefix.value_groups, p.prefix.value_bits, thread);
    __syncthreads();
    store_rows<D>(launch.values + out, tile);
  }
}

/// The same of trellis blocks, whose tiles are all [channel][position].
template <int D>
__device__ void expand_trellis_slice(const ExpandSliceParams& launch) {
  const AttentionParams& p = launch.sequence;
  const int block = launch.first_block + static_cast<int>(blockIdx.x);
  const int kv_head = static_cast<int>(blockIdx.y), thread = static_cast<int>(threadIdx.x);
  const int64_t pointer = static_cast<int64_t>(block) * p.kv_heads + kv_head;
  const int64_t out =
      (static_cast<int64_t>(kv_head) * launch.blocks + blockIdx.x) * (kAttentionTile * D);

  constexpr ExpandTrellisShared layout(D);
  uint8_t* tile = expand_memory;
  uint8_t* table = expand_memory + layout.table;
  uint8_t* subsets = expand_memory + layout.subsets;
  uint8_t* packed = expand_memory + layout.packed;

  if (blockIdx.z == 0) {
    float* start = reinterpret_cast<float*>(expand_memory + layout.rotation);
    const uint8_t* keys = p.prefix.keys[pointer];
    copy_trellis_key_meta<D>(packed, start, keys, p.prefix.rotations[block]);
    copy_trellis_key_codes<D>(packed, p, keys);
    copy_async_commit();
    copy_async_wait<0>();
    __syncthreads();
    write_subsets<D>(subsets, packed + format::trellis_key_path_offset(D));
    if (thread < D / 2) prepare_trellis_keys<D>(table, packed, start);
    __syncthreads();
    fill_trellis_keys<D>(tile, packed + trellis_key_meta_bytes(D), table, subsets, p.in_block_half,
                         thread);
    __syncthreads();
    store_transposed<D>(launch.keys + out, tile);
    return;
  }
  constexpr int kMeta = trellis_value_meta_bytes(D);
  copy_block_async<D>(packed, p.prefix.values[pointer], kMeta + trellis_value_codes<D>(p));
  copy_async_commit();
  copy_async_wait<0>();
  __syncthreads();
  write_subsets<D>(subsets, packed + format::trellis_value_path_offset(kAttentionTile));
  prepare_trellis_values(table, packed, p.prefix.value_width);
  prepare_value_walks<D>(table + kTrellisScaleBytes, p.prefix);
  __syncthreads();
  fill_trellis_values<D>(tile, packed + kMeta, subsets, table, p.prefix.value_width, thread);
  __syncthreads();
  store_transposed<D>(launch.values + out, tile);
}

}  // namespace
}  // namespace rillkv::kernels::cuda

extern "C" __global__ void __launch_bounds__(rillkv::kernels::cuda::kExpandThreads, 3)
    rillkv_expand_slice_d64(const __grid_constant__ rillkv::kernels::cuda::ExpandSliceParams p) {
  rillkv::kernels::cuda::expand_slice<64>(p);
}

extern "C" __global__ void __launch_bounds__(rillkv::kernels::cuda::kExpandThreads, 3)
    rillkv_expand_slice_d128(const __grid_constant__ rillkv::kernels::cuda::ExpandSliceParams p) {
  rillkv::kernels::cuda::expand_slice<128>(p);
}

extern "C" __global__ void __launch_bounds__(rillkv::kernels::cuda::kExpandThreads, 3)
    rillkv_expand_slice_trellis_d64(
        const __grid_constant__ rillkv::kernels::cuda::ExpandSliceParams p) {
  rillkv::kernels::cuda::expand_trellis_slice<64>(p);
}

extern "C" __global__ void __launch_bounds__(rillkv::kernels::cuda::kExpandThreads, 3)
    rillkv_expand_slice_trellis_d128(
        const __grid_constant__ rillkv::kernels::cuda::ExpandSliceParams p) {
  rillkv::kernels::cuda::expand_trellis_slice<128>(p);
}
