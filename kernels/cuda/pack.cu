// (a2) Every block that a chunk completes, policy "adaptive": channel blocks of keys, token blocks
// of values, the tables' pointers, and what is left over to the tail. Grid (kv_heads, blocks, 1 +
// slabs): z = 0 has a key block, z > 0 kPackBlockRows rows of a value block. The bytes are those of
// kernels/cpu; kernels/packed_format.h draws them.
//
// The tail is read and written by one launch. Virtual token n < tail_count is tail row n, and row n
// of block 0. The leftover goes to rows of the tail below block_size, once there is a block: row n
// is written by the CTA that packs row n of block 0, which alone has read it, after a barrier.
#include "kernels/cuda/pack_keys.cuh"
#include "kernels/cuda/pack_values.cuh"

namespace rillkv::kernels::cuda {
namespace {

template <typename T>
__device__ void pack(const PackParams& p) {
  if (blockIdx.z == 0) {
    pack_keys<T>(p);
  } else {
    pack_values<T>(p);
  }
}

}  // namespace
}  // namespace rillkv::kernels::cuda

extern "C" __global__ void __launch_bounds__(rillkv::kernels::cuda::kPackBlockThreads, 1)
    rillkv_pack_bf16(const __grid_constant__ rillkv::kernels::cuda::PackParams p) {
  rillkv::kernels::cuda::pack<__nv_bfloat16>(p);
}

extern "C" __global__ void __launch_bounds__(rillkv::kernels::cuda::kPackBlockThreads, 1)
    rillkv_pack_fp16(const __grid_constant__ rillkv::kernels::cuda::PackParams p) {
  rillkv::kernels::cuda::pack<__half>(p);
}

extern "C" __global__ void __launch_bounds__(rillkv::kernels::cuda::kPackBlockThreads, 1)
    rillkv_pack_fp32(const __grid_constant__ rillkv::kernels::cuda::PackParams p) {
  rillkv::kernels::cuda::pack<float>(p);
}
