// (e) Merges the parts of split attention by log-sum-exp:
//
//   out = sum_s 2^(m_s - m) o_s / sum_s 2^(m_s - m) l_s,   m = max_s m_s
//
// and rotates the result back if the values are rotated. A lane has two or four channels of a row.
//
// What this costs is latency, so nothing waits twice: merge_warps(splits) warps share a row, each
// asks for its parts, eight at most, and for every split's maximum and sum before it uses any. The
// warps' sums meet in shared memory (MergeShared) and the row's first warp finishes. Grid (rows /
// rows a CTA, kv_heads, sequences).
//
// In steps mode a sequence may have fewer tiles than the launch has splits; those parts do not
// exist and are not read.
#include "kernels/cuda/attention_sequence.cuh"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/entry_params.h"
#include "kernels/cuda/shared_layout.h"

namespace rillkv::kernels::cuda {
namespace {

extern __shared__ __align__(16) uint8_t merge_shared[];

constexpr int kPartsAWarp = kMaxSplits / kMergeWarps;

/// The channels of a lane, two or four.
template <int kEach>
__device__ void load_channels(float (&x)[kEach], const float* from) {
  if constexpr (kEach == 4) {
    const auto four = *reinterpret_cast<const float4*>(from);
    x[0] = four.x, x[1] = four.y, x[2] = four.z, x[3] = four.w;
  } else {
    const auto two = *reinterpret_cast<const float2*>(from);
    x[0] = two.x, x[1] = two.y;
  }
}

/// Walsh-Hadamard butterflies over a row, the lanes' channels being neighbours.
template <int kEach>
__device__ void hadamard_row(float (&x)[kEach]) {
  const int lane = lane_id();
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

template <int D>
__device__ void merge(const AttentionLaunchParams& launch) {
  constexpr int kEach = D / 32;
  const int sequence = static_cast<int>(blockIdx.z), lane = lane_id();
  const AttentionParams& p = launch.sequences[launch.steps != nullptr ? 0 : sequence];
  const int warps = merge_warps(launch.splits), share = warp_id() % warps;
  const int row = static_cast<int>(blockIdx.x) * (kMergeWarps / warps) + warp_id() / warps;
  const int group = p.heads / p.kv_heads;
  int parts = row < p.query_count * group ? launch.splits : 0;
  if (launch.steps != nullptr) {
    parts = min(parts, step_tiles(p.prefix.sink_capacity, launch.steps[sequence].block_count));
  }
  // Of this row's part of split 0, and from one split to the next.
  const size_t first =
      (static_cast<size_t>(sequence) * gridDim.y + blockIdx.y) * launch.splits * launch.row_stride +
      row;
  const float* sums = launch.part_max_sum + 2 * first + 2 * lane * launch.row_stride;
  const float* out_part =
      launch.part_out + first * D + kEach * lane + share * launch.row_stride * D;

  // This lane's splits are lane and lane + 32; this warp's are share, share + warps, ....
  float2 max_sum[2];
  float o[kPartsAWarp][kEach];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int split = lane + 32 * i;
    max_sum[i] = {-INFINITY, 0.0f};
    if (split < parts) {
      max_sum[i] = *reinterpret_cast<const float2*>(sums + 64 * i * launch.row_stride);
    }
  }
#pragma unroll
  for (int k = 0; k < kPartsAWarp; ++k) {
    const int split = share + k * warps;
#pragma unroll
    for (int i = 0; i < kEach; ++i) o[k][i] = 0.0f;
    if (split < parts) load_channels(o[k], out_part);
    out_part += warps * launch.row_stride * D;
  }

  float max = fmaxf(max_sum[0].x, max_sum[1].x);
#pragma unroll
  for (int span = 16; span > 0; span /= 2) {
    max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, span));
  }
  float weight[2], total = 0.0f;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    // A split without a visible token has no maximum.
    weight[i] = max_sum[i].y == 0.0f ? 0.0f : exp2_fast(max_sum[i].x - max);
    total += weight[i] * max_sum[i].y;
  }
#pragma unroll
  for (int span = 16; span > 0; span /= 2) total += __shfl_xor_sync(0xffffffffu, total, span);
  float x[kEach] = {};
#pragma unroll
  for (int k = 0; k < kPartsAWarp; ++k) {
    const int split = share + k * warps;
    // Up to 32 splits are the lanes' first ones; `split` is the same in the whole warp.
    const float w = __shfl_sync(0xffffffffu, split < 32 ? weight[0] : weight[1], split & 31);
#pragma unroll
    for (int i = 0; i < kEach; ++i) x[i] += w * o[k][i];
  }

  if (warps > 1) {
    auto* rows = reinterpret_cast<float*>(merge_shared) + kEach * lane;
    if (share > 0) {
#pragma unroll
      for (int i = 0; i < kEach; i += 2) {
        *reinterpret_cast<float2*>(rows + warp_id() * D + i) = {x[i], x[i + 1]};
      }
    }
    __syncthreads();
    if (share > 0) return;
#pragma unroll
    for (int w = 1; w < kMergeWarps; ++w) {
      if (w >= warps) break;
      float more[kEach];
      load_channels(more, rows + (warp_id() + w) * D);
#pragma unroll
      for (int i = 0; i < kEach; ++i) x[i] += more[i];
    }
  }
  if (parts == 0) return;  // no such row: no sequence is without tokens
  float factor = total > 0.0f ? __fdividef(1.0f, total) : 0.0f;
  if (p.rotate_output) {
    factor *= D == 64 ? 0.125f : 0.08838834764831845f;  // 1 / sqrt(D)
    hadamard_row(x);
  }
  const int t = launch.steps != nullptr ? sequence : row / group;
  const int h = static_cast<int>(blockIdx.y) * group + row % group;
  uint32_t pairs[kEach / 2];
#pragma unroll
  for (int i = 0; i < kEach / 2; ++i) {
    const float a = x[2 * i] * factor, b = x[2 * i + 1] * factor;
    pairs[i] =
        p.dtype == Dtype::kBFloat16 ? Pair<__nv_bfloat16>::pack(a, b) : Pair<__half>::pack(a, b);
  }
  uint16_t* out = static_cast<uint16_t*>(p.out.data) + t * p.out.token_stride +
                  h * p.out.head_stride + kEach * lane;
  if constexpr (kEach == 4) {
    *reinterpret_cast<uint2*>(out) = {pairs[0], pairs[1]};
  } else {
    *reinterpret_cast<uint32_t*>(out) = pairs[0];
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
