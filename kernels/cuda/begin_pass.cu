// What a pass begins with: the sequences' steps, which travel as arguments, and rotations of new
// rows, R(t0 + j) = R(t0) R(j) in fp32.
#include <cuda_runtime.h>

#include "kernels/cuda/entry_params.h"

namespace rillkv::kernels::cuda {
namespace {

struct Rotation {
  float cosine, sine;
};

/// Pair `pair` of R(t0 + j): `block` is cos[half], sin[half] of R(t0).
__device__ inline Rotation rotation_in_block(const float* block, const float* in_block_cos,
                                             const float* in_block_sin, int half, int block_size,
                                             int j, int pair) {
  const float cos0 = block[pair], sin0 = block[half + pair];
  const float cos_j = in_block_cos[pair * block_size + j];
  const float sin_j = in_block_sin[pair * block_size + j];
  return {cos0 * cos_j - sin0 * sin_j, sin0 * cos_j + cos0 * sin_j};
}

/// One CTA a sequence.
__device__ void begin_pass(const BeginPassParams& p) {
  const int sequence = static_cast<int>(blockIdx.x), thread = static_cast<int>(threadIdx.x);
  const SequenceStep& step = p.values[sequence];
  if (thread == 0) {
    p.steps[p.first + sequence] = step;
    p.ids_out[p.first + sequence] = p.ids[sequence];
  }
  const int half = p.head_dim / 2;
  const float* block = step.block_rotations[step.block_count];
  for (int pair = thread; pair < half; pair += static_cast<int>(blockDim.x)) {
    const Rotation r = rotation_in_block(block, p.in_block_cos, p.in_block_sin, half, p.block_size,
                                         step.tail_count, pair);
    step.tail_cos[step.tail_count * half + pair] = r.cosine;
    step.tail_sin[step.tail_count * half + pair] = r.sine;
  }
}

/// A thread a pair of a token.
__device__ void rope_rows(const RopeRowsParams& p) {
  const int half = p.head_dim / 2;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int row = static_cast<int>(i / half), pair = static_cast<int>(i % half);
  if (row >= p.count) return;
  const int index = static_cast<int>(p.first) + row;
  Rotation r;
  if (index < p.sinks) {
    r = {p.sink_cos[index * half + pair], p.sink_sin[index * half + pair]};
  } else {
    const int after = index - p.sinks;
    r = rotation_in_block(p.block_rotations[after / p.block_size], p.in_block_cos, p.in_block_sin,
                          half, p.block_size, after % p.block_size, pair);
  }
  p.cos[i] = r.cosine;
  p.sin[i] = r.sine;
}

}  // namespace
}  // namespace rillkv::kernels::cuda

extern "C" __global__ void __launch_bounds__(rillkv::kernels::cuda::kBeginThreads)
    rillkv_begin_pass(const __grid_constant__ rillkv::kernels::cuda::BeginPassParams p) {
  rillkv::kernels::cuda::begin_pass(p);
}

extern "C" __global__ void __launch_bounds__(rillkv::kernels::cuda::kRopeRowThreads)
    rillkv_rope_rows(const __grid_constant__ rillkv::kernels::cuda::RopeRowsParams p) {
  rillkv::kernels::cuda::rope_rows(p);
}
