// Instantiations of the decode kernel for trellis blocks, head_dim 128. Four CTAs an SM, three
// where shared memory is 164 KB.
#include "kernels/cuda/attention_decode.cuh"

extern "C" __global__ void __launch_bounds__(rillkv::kernels::cuda::kDecodeThreads, 4)
    rillkv_decode_trellis_d128_bf16(
        const __grid_constant__ rillkv::kernels::cuda::AttentionLaunchParams p) {
  rillkv::kernels::cuda::decode<128, __nv_bfloat16, true>(p);
}

extern "C" __global__ void __launch_bounds__(rillkv::kernels::cuda::kDecodeThreads, 4)
    rillkv_decode_trellis_d128_fp16(
        const __grid_constant__ rillkv::kernels::cuda::AttentionLaunchParams p) {
  rillkv::kernels::cuda::decode<128, __half, true>(p);
}
