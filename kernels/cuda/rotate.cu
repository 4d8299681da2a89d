// (b) RoPE and the Walsh-Hadamard rotation of values, one warp a row, in place or not.
//
//   rope:      (x[c], x[c + D/2]) -> R(position) (x[c], x[c + D/2])
//   hadamard:  y = H x / sqrt(D), butterflies of spans 1, 2, 4, ..., one multiply at the end: the
//              order of kernels/cpu, so the results are the same bits.
#include "kernels/cuda/element_vectors.cuh"
#include "kernels/cuda/entry_params.h"

namespace rillkv::kernels::cuda {
namespace {

extern __shared__ __align__(16) float rows[];

/// Row of this warp: index / heads is the token.
__device__ bool locate(const RotateParams& p, int64_t& token, int64_t& head) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
  token = row / p.heads;
  head = row % p.heads;
  return token < p.tokens;
}

template <typename T>
__device__ void rope(const RotateParams& p) {
  int64_t token, head;
  if (!locate(p, token, head)) return;
  const int half = p.head_dim / 2;
  const T* in = static_cast<const T*>(p.input.data) + token * p.input.token_stride +
                head * p.input.head_stride;
  T* out = static_cast<T*>(p.out.data) + token * p.out.token_stride + head * p.out.head_stride;
  const float *cosines = p.cos + token * half, *sines = p.sin + token * half;
  // Two pairs a lane at a time: head_dim 128 has all its loads under way before the first is used.
  for (int first = lane_id(); first < half; first += 64) {
    const int second = first + 32;
    const bool both = second < half;
    const int other = both ? second : first;
    const float cos0 = cosines[first], sin0 = sines[first], cos1 = cosines[other],
                sin1 = sines[other];
    const float x0 = to_float(in[first]), y0 = to_float(in[first + half]);
    const float x1 = to_float(in[other]), y1 = to_float(in[other + half]);
    out[first] = from_float<T>(x0 * cos0 - y0 * sin0);
    out[first + half] = from_float<T>(y0 * cos0 + x0 * sin0);
    if (both) {
      out[second] = from_float<T>(x1 * cos1 - y1 * sin1);
      out[second + half] = from_float<T>(y1 * cos1 + x1 * sin1);
    }
  }
}

template <typename T>
__device__ void hadamard(const RotateParams& p) {
  int64_t token, head;
  if (!locate(p, token, head)) return;
  const int lane = lane_id();
  float* x = rows + warp_id() * p.head_dim;
  const T* in = static_cast<const T*>(p.input.data) + token * p.input.token_stride +
                head * p.input.head_stride;
  T* out = static_cast<T*>(p.out.data) + token * p.out.token_stride + head * p.out.head_stride;
#pragma unroll 4
  for (int c = lane; c < p.head_dim; c += 32) x[c] = to_float(in[c]);
  for (int span = 1; span < p.head_dim; span *= 2) {
    __syncwarp();
    for (int i = lane; i < p.head_dim / 2; i += 32) {
      const int low = i / span * 2 * span + i % span;
      const float a = x[low], b = x[low + span];
      x[low] = a + b;
      x[low + span] = a - b;
    }
  }
  __syncwarp();
  for (int c = lane; c < p.head_dim; c += 32) out[c] = from_float<T>(x[c] * p.hadamard_factor);
}

}  // namespace
}  // namespace rillkv::kernels::cuda

extern "C" __global__ void __launch_bounds__(rillkv::kernels::cuda::kRotateThreads)
    rillkv_rope(const __grid_constant__ rillkv::kernels::cuda::RotateParams p) {
  namespace cuda = rillkv::kernels::cuda;
  cuda::with_type(p.dtype, [&](auto type) { cuda::rope<decltype(type)>(p); });
}

extern "C" __global__ void __launch_bounds__(rillkv::kernels::cuda::kRotateThreads)
    rillkv_hadamard(const __grid_constant__ rillkv::kernels::cuda::RotateParams p) {
  namespace cuda = rillkv::kernels::cuda;
  cuda::with_type(p.dtype, [&](auto type) { cuda::hadamard<decltype(type)>(p); });
}
