// (b) RoPE and the Walsh-Hadamard rotation of values, one warp a row, in place or not.
//
//   rope:      (x[c], x[c + D/2]) -> R(position) (x[c], x[c + D/2])
//   hadamard:  y = H x / sqrt(D), butterflies of spans 1, 2, 4, ..., one multiply at the end: the
//              order of kernels/cpu, so the results are the same bits.
#include "kernels/cuda/device.cuh"
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

__device__ void rope(const RotateParams& p) {
  int64_t token, head;
  if (!locate(p, token, head)) return;
  const int half = p.head_dim / 2;
  const int64_t in = token * p.input.token_stride + head * p.input.head_stride;
  const int64_t out = token * p.out.token_stride + head * p.out.head_stride;
  for (int c = static_cast<int>(threadIdx.x) % 32; c < half; c += 32) {
    const float cosine = p.cos[token * half + c], sine = p.sin[token * half + c];
    const float x = load_element(p.input.data, in + c, p.dtype);
    const float y = load_element(p.input.data, in + c + half, p.dtype);
    store_element(p.out.data, out + c, p.dtype, x * cosine - y * sine);
    store_element(p.out.data, out + c + half, p.dtype, y * cosine + x * sine);
  }
}

__device__ void hadamard(const RotateParams& p) {
  int64_t token, head;
  if (!locate(p, token, head)) return;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  float* x = rows + threadIdx.x / 32 * p.head_dim;
  const int64_t in = token * p.input.token_stride + head * p.input.head_stride;
  const int64_t out = token * p.out.token_stride + head * p.out.head_stride;
  for (int c = lane; c < p.head_dim; c += 32) x[c] = load_element(p.input.data, in + c, p.dtype);
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
  for (int c = lane; c < p.head_dim; c += 32) {
    store_element(p.out.data, out + c, p.dtype, x[c] * p.hadamard_factor);
  }
}

}  // namespace
}  // namespace rillkv::kernels::cuda

extern "C" __global__ void __launch_bounds__(rillkv::kernels::cuda::kRotateThreads)
    rillkv_rope(const __grid_constant__ rillkv::kernels::cuda::RotateParams p) {
  rillkv::kernels::cuda::rope(p);
}

extern "C" __global__ void __launch_bounds__(rillkv::kernels::cuda::kRotateThreads)
    rillkv_hadamard(const __grid_constant__ rillkv::kernels::cuda::RotateParams p) {
  rillkv::kernels::cuda::hadamard(p);
}
