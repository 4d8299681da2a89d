// (a2) with error feedback: as rillkv_pack_*, but the key blocks' channels are rounded one after
// the other, each making good what those before it cost the logits (kernels/feedback.h).
#include "kernels/cuda/feedback_affine.cuh"
#include "kernels/cuda/feedback_block.cuh"
#include "kernels/cuda/pack_values.cuh"

namespace rillkv::kernels::cuda {
namespace {

template <typename T>
__device__ void pack_with_feedback(const PackParams& p) {
  if (blockIdx.z == 0) {
    pack_key_block<T, FeedbackAffine, FeedbackAny<T>>(p);
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
