// (e) Merges the parts of split attention by log-sum-exp:
//
//   out = sum_s 2^(m_s - m) o_s / sum_s 2^(m_s - m) l_s,   m = max_s m_s
//
// and rotates the result back if the values are rotated. One warp a query row, a lane two or four
// channels; grid (rows / 4, kv_heads, sequences).
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/entry_params.h"

namespace rillkv::kernels::cuda {
namespace {

template <int D>
__device__ void merge(const AttentionLaunchParams& launch) {
  constexpr int kEach = D / 32;
  const AttentionParams& p = launch.sequences[blockIdx.z];
  const int group = p.heads / p.kv_heads, lane = static_cast<int>(threadIdx.x) % 32;
  const int row = static_cast<int>(blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32);
  if (row >= p.query_count * group) return;
  const int64_t first = (static_cast<int64_t>(blockIdx.z) * gridDim.y + blockIdx.y) *
                            launch.splits * launch.row_stride +
                        row;

  float max = -INFINITY;
  for (int s = 0; s < launch.splits; ++s) {
    max =
        fmaxf(max, launch.part_max_sum[2 * (first + static_cast<int64_t>(s) * launch.row_stride)]);
  }
  float x[kEach] = {};
  float total = 0.0f;
  for (int s = 0; s < launch.splits; ++s) {
    const int64_t at = first + static_cast<int64_t>(s) * launch.row_stride;
    const float2 part = *reinterpret_cast<const float2*>(launch.part_max_sum + 2 * at);
    if (part.y == 0.0f) continue;  // this split held no visible token
    const float weight = exp2_fast(part.x - max);
    total += weight * part.y;
    const float* o = launch.part_out + at * D + kEach * lane;
#pragma unroll
    for (int i = 0; i < kEach; i += 2) {
      const float2 pair = *reinterpret_cast<const float2*>(o + i);
      x[i] += weight * pair.x;
      x[i + 1] += weight * pair.y;
    }
  }
  float factor = total > 0.0f ? 1.0f / total : 0.0f;
  if (p.rotate_output) {
    factor *= D == 64 ? 0.125f : 0.08838834764831845f;  // 1 / sqrt(D)
#pragma unroll
    for (int span = 1; span < kEach; span *= 2) {
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        if (i & span) continue;
        const float a = x[i], b = x[i + span];
        x[i] = a + b;
        x[i + span] = a - b;
      }
    }
#pragma unroll
    for (int span = 1; span < 32; span *= 2) {
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        const float other = __shfl_xor_sync(0xffffffffu, x[i], span);
        x[i] = (lane & span) ? other - x[i] : x[i] + other;
      }
    }
  }
  const int t = row / group, h = static_cast<int>(blockIdx.y) * group + row % group;
  const int64_t out = t * p.out.token_stride + h * p.out.head_stride + kEach * lane;
#pragma unroll
  for (int i = 0; i < kEach; i += 2) {
    uint32_t* to = static_cast<uint32_t*>(p.out.data) + (out + i) / 2;
    *to = p.dtype == Dtype::kBFloat16 ? Pair<__nv_bfloat16>::pack(x[i] * factor, x[i + 1] * factor)
                                      : Pair<__half>::pack(x[i] * factor, x[i + 1] * factor);
  }
}

}  // namespace
}  // namespace rillkv::kernels::cuda

extern "C" __global__ void __launch_bounds__(rillkv::kernels::cuda::kMergeThreads)
    rillkv_merge_d64(const __grid_constant__ rillkv::kernels::cuda::AttentionLaunchParams p) {
  rillkv::kernels::cuda::merge<64>(p);
}

extern "C" __global__ void __launch_bounds__(rillkv::kernels::cuda::kMergeThreads)
    rillkv_merge_d128(const __grid_constant__ rillkv::kernels::cuda::AttentionLaunchParams p) {
  rillkv::kernels::cuda::merge<128>(p);
}
