// (a2) of policy "trellis": as rillkv_pack_feedback_*, but keys and values are trellis codes
// (kernels/trellis.h). Grid (kv_heads, blocks, 2): z = 0 has a key block, z = 1 a value block.
#include "kernels/cuda/feedback_block.cuh"
#include "kernels/cuda/trellis_any.cuh"
#include "kernels/cuda/trellis_values.cuh"

namespace rillkv::kernels::cuda {
namespace {

template <typename T>
__device__ void pack_value_block(const PackParams& p) {
  const int kv_head = static_cast<int>(blockIdx.x), block = static_cast<int>(blockIdx.y);
  const VirtualRows<T> rows(p, p.values, p.tail_values, kv_head);
  const int first = block * p.block_size, tokens = min(p.block_size, p.tokens - first);
  uint8_t* out = p.storage[block] + static_cast<int64_t>(p.kv_heads) * p.key_bytes +
                 static_cast<int64_t>(kv_head) * p.value_bytes;
  if (threadIdx.x == 0 && p.value_table != nullptr) {
    p.value_table[static_cast<int64_t>(p.first_block + block) * p.kv_heads + kv_head] = out;
  }
  TrellisValues<T>(p, rows, first, tokens, out).pack();
  if (block == 0) move_leftover(p, rows);
}

template <typename T>
__device__ void pack_trellis(const PackParams& p) {
  if (blockIdx.z == 0) {
    pack_key_block<T, FeedbackTrellis, TrellisAny<T>>(p);
    after_key_block<T>(p);
  } else {
    pack_value_block<T>(p);
  }
}

}  // namespace
}  // namespace rillkv::kernels::cuda

extern "C" __global__ void __launch_bounds__(rillkv::kernels::cuda::kPackBlockThreads, 1)
    rillkv_pack_trellis_bf16(const __grid_constant__ rillkv::kernels::cuda::PackParams p) {
  rillkv::kernels::cuda::pack_trellis<__nv_bfloat16>(p);
}

extern "C" __global__ void __launch_bounds__(rillkv::kernels::cuda::kPackBlockThreads, 1)
    rillkv_pack_trellis_fp16(const __grid_constant__ rillkv::kernels::cuda::PackParams p) {
  rillkv::kernels::cuda::pack_trellis<__half>(p);
}

extern "C" __global__ void __launch_bounds__(rillkv::kernels::cuda::kPackBlockThreads, 1)
    rillkv_pack_trellis_fp32(const __grid_constant__ rillkv::kernels::cuda::PackParams p) {
  rillkv::kernels::cuda::pack_trellis<float>(p);
}
