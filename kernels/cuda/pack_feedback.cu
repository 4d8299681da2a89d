// (a2) with error feedback: as rillkv_pack_*, but the key blocks' channels are rounded one after
// the other, each making good what those before it cost the logits (kernels/feedback.h).
#include "kernels/cuda/feedback_any.cuh"
#include "kernels/cuda/feedback_tile.cuh"
#include "kernels/cuda/pack_values.cuh"

namespace rillkv::kernels::cuda {
namespace {

__device__ float* moment_of(const PackParams& p, int place) {
  return p.moments + place * static_cast<int64_t>(moment_floats(p.head_dim));
}

template <typename T>
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
    FeedbackAny<T>(p, rows, first, tokens, moment, scratch, out).pack();
  };
  if constexpr (sizeof(T) == 2) {
    if (!feedback_takes_tile(p)) {
      any_shape();
    } else if (p.head_dim == 128) {
      FeedbackTile<T, 128>(p, rows, first, tokens, moment, out).pack();
    } else {
      FeedbackTile<T, 64>(p, rows, first, tokens, moment, out).pack();
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
  if (block != 0 || leftover(p) == 0) return;
  const VirtualRows<T> rows(p, p.keys, p.tail_keys, kv_head);
  for (int n = thread / 32; n < leftover(p); n += kPackBlockThreads / 32) {
    rows.move(p.blocks * p.block_size + n, n, p.head_dim, thread % 32, 32);
  }
}

template <typename T>
__device__ void pack_with_feedback(const PackParams& p) {
  if (blockIdx.z == 0) {
    pack_key_block<T>(p);
    after_key_block<T>(p);
  } else {
    pack_values<T>(p);
  }
}

}  // namespace
}  // namespace rillkv::kernels::cuda

extern "C" __global__ void __launch_bounds__(rillkv::kernels::cuda::kPackBlockThreads, 1)
    rillkv_pack_feedback_bf16(const __grid_constant__ rillkv::kernels::cuda::PackParams p) {
  rillkv::kernels::cuda::pack_with_feedback<__nv_bfloat16>(p);
}

extern "C" __global__ void __launch_bounds__(rillkv::kernels::cuda::kPackBlockThreads, 1)
    rillkv_pack_feedback_fp16(const __grid_constant__ rillkv::kernels::cuda::PackParams p) {
  rillkv::kernels::cuda::pack_with_feedback<__half>(p);
}

extern "C" __global__ void __launch_bounds__(rillkv::kernels::cuda::kPackBlockThreads, 1)
    rillkv_pack_feedback_fp32(const __grid_constant__ rillkv::kernels::cuda::PackParams p) {
  rillkv::kernels::cuda::pack_with_feedback<float>(p);
}
