// Instantiations of the prefill kernel over trellis blocks for head_dim 128.
#include "kernels/cuda/attention_prefill.cuh"

extern "C" __global__ void __launch_bounds__(rillkv::kernels::cuda::kFastThreads, 1)
    rillkv_prefill_trellis_d128_bf16(
        const __grid_constant__ rillkv::kernels::cuda::AttentionLaunchParams p) {
  rillkv::kernels::cuda::prefill<128, __nv_bfloat16, true>(p);
}

extern "C" __global__ void __launch_bounds__(rillkv::kernels::cuda::kFastThreads, 1)
    rillkv_prefill_trellis_d128_fp16(
        const __grid_constant__ rillkv::kernels::cuda::AttentionLaunchParams p) {
  rillkv::kernels::cuda::prefill<128, __half, true>(p);
}
