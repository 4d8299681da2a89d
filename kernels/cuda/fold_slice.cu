// (g) What is left of attention by slices (slices.h) beside the library: its queries, and folding
// what it returns into the parts of the fused kernel.
//
//   m' = max(m, lse_p log2(e)),  l' = l 2^(m - m') + sum_p 2^(lse_p log2(e) - m')
//   o' = o 2^(m - m') + sum_p 2^(lse_p log2(e) - m') out_p
//
// since a part with log-sum-exp lse and a normalised result is one with the maximum lse and the sum
// 1. A lane owns four channels of each half of a row, and all loads of a row are under way
// together; everything comes from the L2 cache.
#include "kernels/cuda/attention_mma.cuh"

namespace rillkv::kernels::cuda {
namespace {

/// As load_queries has them, from the model's rows to the library's.
template <int D, typename T>
__device__ void slice_queries(const SliceQueriesParams& launch) {
  constexpr int kItems = D / 8;
  const AttentionParams& p = launch.sequence;
  const int group = p.heads / p.kv_heads, rows = p.query_count * group;
  const int index = static_cast<int>(blockIdx.x * kSliceQueryThreads + threadIdx.x);
  const int row = index / kItems, item = index % kItems, kv_head = static_cast<int>(blockIdx.y);
  if (row >= rows) return;
  const int t = row / group, g = row % group;
  const T* q = static_cast<const T*>(p.queries.data) + t * p.queries.token_stride +
               (kv_head * group + g) * p.queries.head_stride + 4 * item;
  const int64_t at = static_cast<int64_t>(t) * (D / 2) + 4 * item;
  float4 x = unpack_four_dense<T>(*reinterpret_cast<const uint2*>(q));
  float4 y = unpack_four_dense<T>(*reinterpret_cast<const uint2*>(q + D / 2));
  rotate_four(x, y, *reinterpret_cast<const float4*>(p.query_cos + at),
              *reinterpret_cast<const float4*>(p.query_sin + at), 1.0f);
  const uint2 low = pack_four(x), high = pack_four(y);
  uint16_t* to =
      launch.out + (static_cast<int64_t>(kv_head) * launch.parts * rows + row) * D + 4 * item;
  for (int part = 0; part < launch.parts; ++part, to += static_cast<int64_t>(rows) * D) {
    *reinterpret_cast<uint2*>(to) = low;
    *reinterpret_cast<uint2*>(to + D / 2) = high;
  }
}

template <int D, int kParts>
__device__ void fold(const FoldSliceParams& p) {
  constexpr int kItems = D / 8;
  constexpr float kLog2E = 1.4426950408889634f;
  const int index = static_cast<int>(blockIdx.x * kFoldThreads + threadIdx.x);
  // Warps past the end have nothing to do; in the last one, lanes past it do the last row's work,
  // up to storing it, and meet the others below.
  if ((index & ~31) / kItems >= p.rows) return;
  const bool inside = index / kItems < p.rows;
  const int row = min(index / kItems, p.rows - 1), item = index % kItems;
  const int64_t kv_head = blockIdx.y, first = kv_head * kParts;

  const int64_t at = kv_head * p.part_stride + row;
  float* sums = p.part_max_sum + 2 * at;
  // Four channels of each half of the row: what neighbours access lies together.
  float4* to = reinterpret_cast<float4*>(p.part_out + at * D) + item;
  uint2 lower[kParts], upper[kParts];
  float most[kParts];
#pragma unroll
  for (int i = 0; i < kParts; ++i) {
    most[i] =
        p.log_sum_exp[(first + i) * p.log_sum_exp_head_stride + row * p.log_sum_exp_row_stride];
    const uint16_t* from =
        p.out + (first + i) * p.out_head_stride + row * p.out_row_stride + 4 * item;
    lower[i] = *reinterpret_cast<const uint2*>(from);
    upper[i] = *reinterpret_cast<const uint2*>(from + D / 2);
  }
  const float2 old = *reinterpret_cast<const float2*>(sums);
  const float4 low = to[0], high = to[kItems];

  float max = old.x;
#pragma unroll
  for (int i = 0; i < kParts; ++i) {
    most[i] *= kLog2E;
    max = fmaxf(max, most[i]);
  }
  const float fade = exp2_fast(old.x - max);
  float sum = old.y * fade;
  float x[8] = {low.x * fade,  low.y * fade,  low.z * fade,  low.w * fade,
                high.x * fade, high.y * fade, high.z * fade, high.w * fade};
#pragma unroll
  for (int i = 0; i < kParts; ++i) {
    const float weight = exp2_fast(most[i] - max);
    sum += weight;
    const uint32_t pairs[4] = {lower[i].x, lower[i].y, upper[i].x, upper[i].y};
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const float2 pair = Pair<__half>::unpack(pairs[k]);
      x[2 * k] = fmaf(weight, pair.x, x[2 * k]);
      x[2 * k + 1] = fmaf(weight, pair.y, x[2 * k + 1]);
    }
  }
  __syncwarp();  // the row's other lanes have read its sums
  if (!inside) return;
  to[0] = {x[0], x[1], x[2], x[3]};
  to[kItems] = {x[4], x[5], x[6], x[7]};
  if (item == 0) *reinterpret_cast<float2*>(sums) = {max, sum};
}

template <int D>
__device__ void fold_parts(const FoldSliceParams& p) {
  if (p.parts == 1) return fold<D, 1>(p);
  if (p.parts == 2) return fold<D, 2>(p);
  if (p.parts == 4) return fold<D, 4>(p);
  fold<D, 8>(p);
}

}  // namespace
}  // namespace rillkv::kernels::cuda

extern "C" __global__ void __launch_bounds__(rillkv::kernels::cuda::kSliceQueryThreads)
    rillkv_slice_queries(const __grid_constant__ rillkv::kernels::cuda::SliceQueriesParams p) {
  using namespace rillkv::kernels;
  using namespace rillkv::kernels::cuda;
  if (p.sequence.dtype == Dtype::kBFloat16) {
    if (p.sequence.head_dim == 64) return slice_queries<64, __nv_bfloat16>(p);
    return slice_queries<128, __nv_bfloat16>(p);
  }
  if (p.sequence.head_dim == 64) return slice_queries<64, __half>(p);
  slice_queries<128, __half>(p);
}

extern "C" __global__ void __launch_bounds__(rillkv::kernels::cuda::kFoldThreads)
    rillkv_fold_slice(const __grid_constant__ rillkv::kernels::cuda::FoldSliceParams p) {
  if (p.head_dim == 64) return rillkv::kernels::cuda::fold_parts<64>(p);
  rillkv::kernels::cuda::fold_parts<128>(p);
}
