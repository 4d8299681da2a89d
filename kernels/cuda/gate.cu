// The SiLU gate: out = round(g / (1 + exp(-g)) * u) in fp32. Grid (column groups, rows).
#include "kernels/cuda/element_vectors.cuh"
#include "kernels/cuda/entry_params.h"

namespace rillkv::kernels::cuda {
namespace {

/// exp(-g) is clamped as kernels/cpu clamps it: it stays finite, so that -infinity gives itself,
/// and below 2^126, above which the fast division returns 0.
__device__ inline float gated(float g, float u) {
  return __fdividef(g, 1.0f + expf(fminf(-g, 87.0f))) * u;
}

template <typename T>
__device__ void gate(const GateParams& p) {
  constexpr int kElements = kVectorElements<T>;
  const int first = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  const int step = static_cast<int>(gridDim.x * blockDim.x);
  const bool vectors = p.columns % kElements == 0 && aligned_16(p.gate_up, p.out);
  for (int64_t row = blockIdx.y; row < p.rows; row += gridDim.y) {
    const T* gates = static_cast<const T*>(p.gate_up) + row * 2 * p.columns;
    const T* ups = gates + p.columns;
    T* out = static_cast<T*>(p.out) + row * p.columns;
    if (vectors) {
      for (int i = first; i < p.columns / kElements; i += step) {
        const uint4 g = __ldg(reinterpret_cast<const uint4*>(gates) + i);
        const uint4 u = __ldg(reinterpret_cast<const uint4*>(ups) + i);
        float x[kElements], y[kElements];
        expand<T>(g, x);
        expand<T>(u, y);
#pragma unroll
        for (int e = 0; e < kElements; ++e) x[e] = gated(x[e], y[e]);
        reinterpret_cast<uint4*>(out)[i] = contract<T>(x);
      }
    } else {
      for (int i = first; i < p.columns; i += step) {
        out[i] = from_float<T>(gated(to_float(gates[i]), to_float(ups[i])));
      }
    }
  }
}

}  // namespace
}  // namespace rillkv::kernels::cuda

extern "C" __global__ void __launch_bounds__(rillkv::kernels::cuda::kGateThreads)
    rillkv_gate_bf16(const __grid_constant__ rillkv::kernels::cuda::GateParams p) {
  rillkv::kernels::cuda::gate<__nv_bfloat16>(p);
}

extern "C" __global__ void __launch_bounds__(rillkv::kernels::cuda::kGateThreads)
    rillkv_gate_fp16(const __grid_constant__ rillkv::kernels::cuda::GateParams p) {
  rillkv::kernels::cuda::gate<__half>(p);
}

extern "C" __global__ void __launch_bounds__(rillkv::kernels::cuda::kGateThreads)
    rillkv_gate_fp32(const __grid_constant__ rillkv::kernels::cuda::GateParams p) {
  rillkv::kernels::cuda::gate<float>(p);
}
