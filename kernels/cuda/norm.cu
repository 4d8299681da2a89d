// RMSNorm with the residual connection before it, one CTA a row:
//
//   x = round(x + delta);  out = round(x / sqrt(mean(x^2) + epsilon) * weight)
//
// In decode there are one to 32 rows, so time is latency: every load of a thread is issued before
// the first is used, the row stays in registers between the two passes, and there is one barrier.
// Rows that are too long or not 16-byte aligned take a plain loop.
#include "kernels/cuda/element_vectors.cuh"
#include "kernels/cuda/entry_params.h"

namespace rillkv::kernels::cuda {
namespace {

__shared__ float warp_sums[kNormThreads / 32];

/// The factor of the row: the sums of all threads, added in one order whatever the warps' order.
__device__ float row_scale(float sum, const NormParams& p) {
  sum *= __fdividef(1.0f, static_cast<float>(p.columns));  // before the barrier: it costs nothing
  for (int distance = 16; distance > 0; distance /= 2) {
    sum += __shfl_xor_sync(0xffffffffu, sum, distance);
  }
  if (lane_id() == 0) warp_sums[warp_id()] = sum;
  __syncthreads();
  sum = 0;
#pragma unroll
  for (int warp = 0; warp < kNormThreads / 32; ++warp) sum += warp_sums[warp];
  return rsqrtf(sum + p.epsilon);
}

template <typename T>
__device__ void norm_in_registers(const NormParams& p, T* x, const T* delta, T* out) {
  constexpr int kElements = kVectorElements<T>;
  constexpr int kVectors = kNormRegisterColumns / kElements / kNormThreads;
  const int vectors = p.columns / kElements;
  const auto at = [](int i) { return static_cast<int>(threadIdx.x + i * blockDim.x); };
  uint4 row[kVectors] = {}, added[kVectors] = {}, weight[kVectors] = {};
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    if (at(i) < vectors) row[i] = reinterpret_cast<const uint4*>(x)[at(i)];
  }
  if (delta != nullptr) {
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      if (at(i) < vectors) added[i] = __ldg(reinterpret_cast<const uint4*>(delta) + at(i));
    }
  }
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    if (at(i) < vectors) weight[i] = __ldg(static_cast<const uint4*>(p.weight) + at(i));
  }
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    float values[kElements];
    expand<T>(row[i], values);
    if (delta != nullptr) {
      float more[kElements];
      expand<T>(added[i], more);
#pragma unroll
      for (int e = 0; e < kElements; ++e) values[e] += more[e];
      row[i] = contract<T>(values);
      if (at(i) < vectors) reinterpret_cast<uint4*>(x)[at(i)] = row[i];
      expand<T>(row[i], values);
    }
#pragma unroll
    for (int e = 0; e < kElements; ++e) sum += values[e] * values[e];
  }
  const float scale = row_scale(sum, p);
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    float values[kElements], factors[kElements];
    expand<T>(row[i], values);
    expand<T>(weight[i], factors);
#pragma unroll
    for (int e = 0; e < kElements; ++e) values[e] = values[e] * scale * factors[e];
    if (at(i) < vectors) reinterpret_cast<uint4*>(out)[at(i)] = contract<T>(values);
  }
}

template <typename T>
__device__ void norm_in_memory(const NormParams& p, T* x, const T* delta, T* out) {
  const int first = static_cast<int>(threadIdx.x), step = static_cast<int>(blockDim.x);
  const T* weight = static_cast<const T*>(p.weight);
  float sum = 0;
  for (int c = first; c < p.columns; c += step) {
    float value = to_float(x[c]);
    if (delta != nullptr) {
      x[c] = from_float<T>(value + to_float(delta[c]));
      value = to_float(x[c]);
    }
    sum += value * value;
  }
  const float scale = row_scale(sum, p);
  for (int c = first; c < p.columns; c += step) {
    out[c] = from_float<T>(to_float(x[c]) * scale * to_float(weight[c]));
  }
}

template <typename T>
__device__ void rms_norm(const NormParams& p) {
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * p.columns;
  T* x = static_cast<T*>(p.x) + begin;
  T* out = static_cast<T*>(p.out) + begin;
  const T* delta = p.delta == nullptr ? nullptr : static_cast<const T*>(p.delta) + begin;
  const bool whole = p.columns % kVectorElements<T> == 0 && p.columns <= kNormRegisterColumns;
  if (whole && aligned_16(p.x, p.delta, p.weight, p.out)) {
    norm_in_registers(p, x, delta, out);
  } else {
    norm_in_memory(p, x, delta, out);
  }
}

}  // namespace
}  // namespace rillkv::kernels::cuda

extern "C" __global__ void __launch_bounds__(rillkv::kernels::cuda::kNormThreads)
    rillkv_rms_norm_bf16(const __grid_constant__ rillkv::kernels::cuda::NormParams p) {
  rillkv::kernels::cuda::rms_norm<__nv_bfloat16>(p);
}

extern "C" __global__ void __launch_bounds__(rillkv::kernels::cuda::kNormThreads)
    rillkv_rms_norm_fp16(const __grid_constant__ rillkv::kernels::cuda::NormParams p) {
  rillkv::kernels::cuda::rms_norm<__half>(p);
}

extern "C" __global__ void __launch_bounds__(rillkv::kernels::cuda::kNormThreads)
    rillkv_rms_norm_fp32(const __grid_constant__ rillkv::kernels::cuda::NormParams p) {
  rillkv::kernels::cuda::rms_norm<float>(p);
}
