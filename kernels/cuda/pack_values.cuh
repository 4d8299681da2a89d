// Rows of a token block of rillkv_pack_*: 16 lanes a token, kPackBlockRows tokens a CTA. Rows of
// the usual shapes stay in registers (pack_value_row.cuh), others go through shared memory.
#pragma once

#include "kernels/cuda/pack_rows.cuh"
#include "kernels/cuda/pack_value_row.cuh"
#include "kernels/cuda/shared_layout.h"
#include "kernels/cuda/token_rows.cuh"

namespace rillkv::kernels::cuda {
namespace {

extern __shared__ __align__(16) uint8_t shared_memory[];

/// A row to shared memory as fp32; `from` null: zeros.
template <typename T>
__device__ void load_row(const T* from, bool wide, int head_dim, int lane, float* to) {
  if (from == nullptr) {
    for (int c = lane; c < head_dim; c += kLanes) to[c] = 0.0f;
    return;
  }
  if (!wide) {
#pragma unroll 8
    for (int c = lane; c < head_dim; c += kLanes) to[c] = to_float(from[c]);
    return;
  }
  // Four elements a lane: as fp32 they are 16 bytes, which lanes store without bank conflicts.
  struct alignas(4 * sizeof(T)) Four {
    T x[4];
  };
#pragma unroll 4
  for (int i = lane; i < head_dim / 4; i += kLanes) {
    const Four four = reinterpret_cast<const Four*>(from)[i];
    *reinterpret_cast<float4*>(to + 4 * i) = {to_float(four.x[0]), to_float(four.x[1]),
                                              to_float(four.x[2]), to_float(four.x[3])};
  }
}

/// Row `row` of a block of p at `out`, from `from`, or zeros if that is null; returns this lane's
/// clipped codes. Called by all lanes of `mask`.
template <typename T>
__device__ uint32_t pack_any_value_row(const PackParams& p, const T* from, bool wide, int row,
                                       uint32_t mask, int lane, uint8_t* out) {
  const int head_dim = p.head_dim, block_size = p.block_size, bits = p.value_bits;
  const int groups = p.value_groups, half = static_cast<int>(threadIdx.x / kLanes);
  const TokenPackShared layout(head_dim);
  float* values = reinterpret_cast<float*>(shared_memory) + half * layout.value_stride;
  uint8_t* codes =
      shared_memory + 4 * kPackBlockRows * layout.value_stride + half * layout.code_stride;
  load_row<T>(from, wide, head_dim, lane, values);
  __syncwarp(mask);
  auto* lo_out = reinterpret_cast<uint16_t*>(out);
  auto* step_out =
      reinterpret_cast<uint16_t*>(out + format::token_step_offset(block_size, groups, false));
  uint32_t clipped = 0;
  for (int g = 0; g < groups; ++g) {
    const int begin = format::group_begin(g, groups, head_dim);
    const int count = format::group_begin(g + 1, groups, head_dim) - begin;
    const float* x = values + begin;
    // A row past the last token is zeros, and so are its lo, step and codes.
    const AffineScale scale = group_scale(StridedElements{x, lane, count}, bits, mask);
    for (int i = lane; i < count; i += kLanes) {
      codes[begin + i] = static_cast<uint8_t>(affine_code(x[i], scale, bits));
      if (bits == 2) clipped += affine_clips(x[i], scale, bits);
    }
    if (lane == 0) {
      lo_out[g * block_size + row] = scale.lo_bits;
      step_out[g * block_size + row] = scale.step_bits;
    }
  }
  __syncwarp(mask);
  write_row(format::token_planes(out, block_size, row, head_dim, groups, false, bits), codes,
            head_dim, bits, lane);
  return clipped;
}

template <typename T>
__device__ void pack_values(const PackParams& p) {
  const int head_dim = p.head_dim, block_size = p.block_size, bits = p.value_bits;
  const int groups = p.value_groups;
  const int kv_head = static_cast<int>(blockIdx.x), block = static_cast<int>(blockIdx.y);
  const int half = static_cast<int>(threadIdx.x / kLanes);
  const int lane = static_cast<int>(threadIdx.x % kLanes);
  const uint32_t mask = half_warp_mask();
  const int slab = static_cast<int>(blockIdx.z) - 1, row = slab * kPackBlockRows + half;
  uint8_t* out = p.storage[block] + static_cast<int64_t>(p.kv_heads) * p.key_bytes +
                 static_cast<int64_t>(kv_head) * p.value_bytes;
  if (slab == 0) {  // padding
    const size_t codes_at = format::token_codes_offset(block_size, groups, false);
    fill_zero(out + format::token_step_offset(block_size, groups, false) + 2 * groups * block_size,
              out + codes_at);
    fill_zero(out + codes_at + block_size * format::codes_bytes(head_dim, bits),
              out + p.value_bytes);
    if (threadIdx.x == 0 && p.value_table != nullptr) {
      p.value_table[static_cast<int64_t>(p.first_block + block) * p.kv_heads + kv_head] = out;
    }
  }
  if (row >= block_size) return;
  const VirtualRows<T> rows(p, p.values, p.tail_values, kv_head);
  const int n = block * block_size + row;
  const T* from = n < p.tokens ? rows.row(n) : nullptr;
  uint32_t clipped = 0;
  if (head_dim == 128 && groups == 2) {
    clipped = pack_value_row<128, 2>(p, from, row, lane, out);
  } else if (head_dim == 128 && groups == 1) {
    clipped = pack_value_row<128, 1>(p, from, row, lane, out);
  } else if (head_dim == 64 && groups == 1) {
    clipped = pack_value_row<64, 1>(p, from, row, lane, out);
  } else {
    clipped = pack_any_value_row(p, from, rows.wide(head_dim), row, mask, lane, out);
  }
  if (bits == 2 && p.clipped != nullptr) {  // only the search for a scale leaves codes out
    for (int span = kLanes / 2; span > 0; span /= 2)
      clipped += __shfl_xor_sync(mask, clipped, span);
    if (lane == 0 && clipped != 0) {
      atomicAdd(p.clipped + block, static_cast<unsigned long long>(clipped));
    }
  }
  // Only this half warp has read row `row` of the tail.
  if (block == 0 && row < leftover(p)) {
    __syncwarp(mask);
    rows.move(p.blocks * block_size + row, row, head_dim, lane, kLanes);
  }
}

}  // namespace
}  // namespace rillkv::kernels::cuda
