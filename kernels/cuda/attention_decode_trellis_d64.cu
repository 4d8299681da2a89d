// Instantiations of the decode kernel for trellis blocks, head_dim 64.
#include "kernels/cuda/attention_decode.cuh"

extern "C" __global__ void __launch_bounds__(rillkv::kernels::cuda::kDecodeThreads, 4)
    rillkv_decode_trellis_d64_bf16(
        const __grid_constant__ rillkv::kernels::cuda::AttentionLaunchParams p) {
  rillkv::kernels::cuda::decode<64, __nv_bfloat16, true>(p);
}

extern "C" __global__ void __launch_bounds__(rillkv::kernels::cuda::kDecodeThreads, 4)
    rillkv_decode_trellis_d64_fp16(
        const __grid_constant__ rillkv::kernels::cuda::AttentionLaunchParams p) {
  rillkv::kernels::cuda::decode<64, __half, true>(p);
}
