// (a2) with error feedback: as rillkv_pack_*, but the key blocks' channels are rounded one after the
// other, each making good what those before it cost the logits (kernels/feedback.h).
#include "kernels/cuda/feedback_any.cuh"
#include "kernels/cuda/feedback_tile.cuh"
#include "kernels/cuda/pack_values.cuh"

namespace rillkv::kernels::cuda {
namespace {

template <typename T>
__device__ void pack_keys_with_feedback(const PackParams& p) {
  const int kv_head = static_cast<int>(blockIdx.x), block = static_cast<int>(blockIdx.y);
  const int thread = static_cast<int>(threadIdx.x), head_dim = p.head_dim;
  const int place = block * p.kv_heads + kv_head;
  const VirtualRows<T> rows(p, p.keys, p.tail_keys, kv_head);
  const int first = block * p.block_size, tokens = min(p.block_size, p.tokens - first);
  uint8_t* out = p.storage[block] + static_cast<int64_t>(kv_head) * p.key_bytes;
  if (thread == 0 && p.key_table != nullptr) {
    p.key_table[static_cast<int64_t>(p.first_block) * p.kv_heads + place] = out;
  }
  const auto moment_size = static_cast<int64_t>(moment_floats(head_dim));
  float* moment = p.moments + place * moment_size;
  const auto any_shape = [&] {
    float* scratch = p.scratch + place * static_cast<int64_t>(feedback_scratch_floats(p));
    FeedbackAny<T>(p, rows, first, tokens, moment, scratch, out).pack();
  };
  if constexpr (sizeof(T) == 2) {
    if (!feedback_takes_tile(p)) {
      any_shape();
    } else if (head_dim == 128) {
      FeedbackTile<T, 128>(p, rows, first, tokens, moment, out).pack();
    } else {
      FeedbackTile<T, 64>(p, rows, first, tokens, moment, out).pack();
    }
  } else {
    any_shape();
  }
  // All of this CTA's reads of the moment and of the tail lie before a barrier.
  if (p.decay != 1.0f) {
    auto* fours = reinterpret_cast<float4*>(moment);
    for (int i = thread; i < moment_size / 4; i += kPackBlockThreads) {
      const float4 x = fours[i];
      fours[i] = {__fmul_rn(x.x, p.decay), __fmul_rn(x.y, p.decay), __fmul_rn(x.z, p.decay),
                  __fmul_rn(x.w, p.decay)};
    }
  }
  if (block != 0) return;
  for (int n = thread / 32; n < leftover(p); n += kPackBlockThreads / 32) {
    rows.move(p.blocks * p.block_size + n, n, head_dim, thread % 32, 32);
  }
}

template <typename T>
__device__ void pack_with_feedback(const PackParams& p) {
  if (blockIdx.z == 0) {
    pack_keys_with_feedback<T>(p);
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
