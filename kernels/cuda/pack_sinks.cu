// (a2) Sinks: token rows, symmetric or fp16. 16 lanes a token, kPackRows tokens a CTA; grid
// (kv_heads, 1, slabs of tokens).
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/entry_params.h"
#include "kernels/cuda/quantise.cuh"
#include "kernels/cuda/shared_layout.h"
#include "kernels/cuda/token_rows.cuh"
#include "kernels/planes.h"

namespace rillkv::kernels::cuda {
namespace {

extern __shared__ __align__(16) uint8_t shared_memory[];

constexpr int kAhead = 8;  // loads of a thread under way

template <typename T>
__device__ void pack_sinks(const PackSinksParams& p) {
  const int head_dim = p.block.head_dim, rows = p.block.block_size;
  uint8_t* out = p.block.blocks[blockIdx.x];
  const int half = static_cast<int>(threadIdx.x) / kLanes;
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const uint32_t mask = half_warp_mask();
  const int token = static_cast<int>(blockIdx.z) * kPackRows + half, row = p.first_row + token;
  if (token >= p.block.tokens) return;
  const TokenPackShared layout(head_dim);
  float* values = reinterpret_cast<float*>(shared_memory) + half * layout.value_stride;
  uint8_t* codes = shared_memory + 4 * kPackRows * layout.value_stride + half * layout.code_stride;
  const T* x = static_cast<const T*>(p.block.input.data) + token * p.block.input.token_stride +
               static_cast<int>(blockIdx.x) * p.block.input.head_stride;
  // All loads of a round are under way before the first is used: head_dim 128 in one.
#pragma unroll 1
  for (int first = lane; first < head_dim; first += kAhead * kLanes) {
    T ahead[kAhead];
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      if (first + k * kLanes < head_dim) ahead[k] = x[first + k * kLanes];
    }
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      if (first + k * kLanes < head_dim) values[first + k * kLanes] = to_float(ahead[k]);
    }
  }
  __syncwarp(mask);
  if (p.bits == format::kRowBits) {
    auto* to = reinterpret_cast<__half*>(out + format::sink_row_offset(row, head_dim));
    for (int c = lane; c < head_dim; c += kLanes) to[c] = __float2half_rn(values[c]);
    return;
  }
  float most = 0.0f;
  for (int c = lane; c < head_dim; c += kLanes) most = fmaxf(most, fabsf(values[c]));
  for (int span = kLanes / 2; span > 0; span /= 2) {
    most = fmaxf(most, __shfl_xor_sync(mask, most, span));
  }
  const uint16_t step_bits = symmetric_step_bits(most, p.bits);
  uint32_t clipped = 0;
  for (int c = lane; c < head_dim; c += kLanes) {
    codes[c] = static_cast<uint8_t>(
        symmetric_code(values[c], half_bits_to_float(step_bits), p.bits, clipped));
  }
  __syncwarp(mask);
  if (lane == 0) reinterpret_cast<uint16_t*>(out)[row] = step_bits;
  write_row(format::token_planes(out, rows, row, head_dim, 1, true, p.bits), codes, head_dim,
            p.bits, lane);
}

}  // namespace
}  // namespace rillkv::kernels::cuda

extern "C" __global__ void __launch_bounds__(rillkv::kernels::cuda::kPackThreads)
    rillkv_pack_sinks(const __grid_constant__ rillkv::kernels::cuda::PackSinksParams p) {
  namespace cuda = rillkv::kernels::cuda;
  cuda::with_type(p.block.dtype, [&](auto type) { cuda::pack_sinks<decltype(type)>(p); });
}
