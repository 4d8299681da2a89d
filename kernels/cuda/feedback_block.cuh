// A CTA of keys with error feedback (rillkv_pack_feedback_*, rillkv_pack_trellis_*).
#pragma once

#include "kernels/cuda/feedback_any.cuh"

namespace rillkv::kernels::cuda {
namespace {

__device__ float* moment_of(const PackParams& p, int place) {
  return p.moments + place * static_cast<int64_t>(moment_floats(p.head_dim));
}

/// Tile: FeedbackAffine or FeedbackTrellis; Any: what packs the other shapes.
template <typename T, template <typename, int> typename Tile, typename Any>
__device__ void pack_key_block(const PackParams& p) {
  const int kv_head = static_cast<int>(blockIdx.x), block = static_cast<int>(blockIdx.y);
  const int place = block * p.kv_heads + kv_head;
  const VirtualRows<T> rows(p, p.keys, p.tail_keys, kv_head);
  const int first = block * p.block_size, tokens = min(p.block_size, p.tokens - first);
  uint8_t* out = p.storage[block] + static_cast<int64_t>(kv_head) * p.key_bytes;
  if (threadIdx.x == 0 && p.key_table != nullptr) {
    p.key_table[static_cast<int64_t>(p.first_block) * p.kv_heads + place] = out;
  }
  const float* moment = moment_of(p, place);
  const auto any_shape = [&] {
    float* scratch = p.scratch + place * static_cast<int64_t>(feedback_scratch_floats(p));
    Any(p, rows, first, tokens, moment, scratch, out).pack();
  };
  if constexpr (sizeof(T) == 2) {
    if (!feedback_takes_tile(p)) {
      any_shape();
    } else if (p.head_dim == 128) {
      Tile<T, 128>(p, rows, first, tokens, moment, out).pack();
    } else {
      Tile<T, 64>(p, rows, first, tokens, moment, out).pack();
    }
  } else {
    any_shape();
  }
}

/// What comes when all of a CTA's reads of the moment and of the tail lie before a barrier.
template <typename T>
__device__ void after_key_block(const PackParams& p) {
  // Computed anew: packing has no registers to keep it in.
  const int kv_head = opaque(static_cast<int>(blockIdx.x));
  const int thread = static_cast<int>(threadIdx.x), block = static_cast<int>(blockIdx.y);
  if (p.decay != 1.0f) {
    auto* fours = reinterpret_cast<float4*>(moment_of(p, block * p.kv_heads + kv_head));
    for (int i = thread; i < static_cast<int>(moment_floats(p.head_dim)) / 4;
         i += kPackBlockThreads) {
      const float4 x = fours[i];
      fours[i] = {__fmul_rn(x.x, p.decay), __fmul_rn(x.y, p.decay), __fmul_rn(x.z, p.decay),
                  __fmul_rn(x.w, p.decay)};
    }
  }
  if (block != 0) return;
  move_leftover(p, VirtualRows<T>(p, p.keys, p.tail_keys, kv_head));
}

}  // namespace
}  // namespace rillkv::kernels::cuda
