// (a1) Statistics of a chunk: absmax and query energy of every head and channel.
//
//   absmax[h, c] = max_t |x[t, h, c]|        squares[h, c] += x[t, h, c]^2, t ascending
//
// One CTA a head, one thread a channel: a warp reads consecutive channels of a token. The order of
// the sum is part of the format's byte identity (it decides widths), so tokens are not split over
// threads; loads run eight tokens ahead of the additions instead.
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/entry_params.h"

namespace rillkv::kernels::cuda {
namespace {

constexpr int kAhead = 8;

__device__ void column_statistics(const ColumnStatisticsParams& p) {
  const int head = static_cast<int>(blockIdx.x);
  for (int c = static_cast<int>(threadIdx.x); c < p.head_dim; c += static_cast<int>(blockDim.x)) {
    const int64_t out = static_cast<int64_t>(head) * p.head_dim + c;
    const int64_t base = head * p.input.head_stride + c;
    uint32_t most = 0;  // magnitudes compare as integers, and NaN is above every number
    float sum = p.squares != nullptr ? p.squares[out] : 0.0f;
    const auto take = [&](float x) {
      const uint32_t magnitude = __float_as_uint(x) & 0x7fffffffu;
      most = magnitude > most ? magnitude : most;
      sum = __fadd_rn(sum, __fmul_rn(x, x));
    };
    int t = 0;
    for (; t + kAhead <= p.tokens; t += kAhead) {
      float x[kAhead];
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        x[i] = load_element(p.input.data, base + (t + i) * p.input.token_stride, p.dtype);
      }
#pragma unroll
      for (int i = 0; i < kAhead; ++i) take(x[i]);
    }
    for (; t < p.tokens; ++t) {
      take(load_element(p.input.data, base + t * p.input.token_stride, p.dtype));
    }
    if (p.absmax != nullptr) {
      p.absmax[out] = __uint_as_float(most > 0x7f800000u ? 0x7fc00000u : most);
    }
    if (p.squares != nullptr) p.squares[out] = sum;
  }
}

}  // namespace
}  // namespace rillkv::kernels::cuda

extern "C" __global__ void rillkv_column_statistics(
    const __grid_constant__ rillkv::kernels::cuda::ColumnStatisticsParams p) {
  rillkv::kernels::cuda::column_statistics(p);
}
