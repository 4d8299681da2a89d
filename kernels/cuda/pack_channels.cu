// (a2) Channel blocks of policy "ema": keys and values, symmetric, widths given. One CTA a kv head
// and block; policy "adaptive" has rillkv_pack_*.
//
//   1. step as stored; 2. codes, a byte each, in shared memory [head_dim][block_size + 4] (the 4
//   keeps the column-wise writes free of bank conflicts); 3. planes, word by word.
//   kernels/packed_format.h draws the result.
#include "kernels/cuda/channel_planes.cuh"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/entry_params.h"
#include "kernels/cuda/quantise.cuh"
#include "kernels/cuda/shared_layout.h"
#include "kernels/cuda/unpack.cuh"

namespace rillkv::kernels::cuda {
namespace {

extern __shared__ __align__(16) uint8_t shared_memory[];

constexpr int kAhead = 8;  // loads of a thread under way

template <typename T>
__device__ void pack_symmetric(const PackChannelsSymmetricParams& p) {
  const int head_dim = p.block.head_dim, block_size = p.block.block_size;
  const ChannelPackShared s(shared_memory, head_dim, block_size);
  const int64_t block = static_cast<int64_t>(blockIdx.y) * gridDim.x + blockIdx.x;
  uint8_t* out = p.block.blocks[block];
  const int first_token = static_cast<int>(blockIdx.y) * block_size;
  const int tokens = min(block_size, p.block.tokens - first_token);
  const int64_t stride = p.block.input.token_stride;
  const T* x = static_cast<const T*>(p.block.input.data) + first_token * stride +
               static_cast<int>(blockIdx.x) * p.block.input.head_stride;
  const int threads = static_cast<int>(blockDim.x), shares = max(1, threads / head_dim);
  for (int i = static_cast<int>(threadIdx.x); i < head_dim / 2; i += threads) {
    s.widths[i] = p.widths[block * (head_dim / 2) + i];
  }
  __syncthreads();
  scan_plane_counts(s.widths, head_dim, s.offsets);
  uint32_t clipped = 0;
  for (int i = static_cast<int>(threadIdx.x); i < shares * head_dim; i += threads) {
    const int c = i % head_dim, share = i / head_dim;
    const int width = format::channel_width(s.widths, c, head_dim);
    const uint16_t step_bits = symmetric_step_bits(p.absmax[block * head_dim + c], width);
    const float step = half_bits_to_float(step_bits);
    if (share == 0) reinterpret_cast<uint16_t*>(out)[c] = step_bits;
    uint8_t* codes = s.codes + c * (block_size + 4);
    // All loads of a round are under way before the first is used.
#pragma unroll 1
    for (int t = share; t < block_size; t += kAhead * shares) {
      T ahead[kAhead];
#pragma unroll
      for (int k = 0; k < kAhead; ++k) {
        if (t + k * shares < tokens) ahead[k] = x[(t + k * shares) * stride + c];
      }
#pragma unroll
      for (int k = 0; k < kAhead; ++k) {
        const int at = t + k * shares;
        if (at >= block_size) break;
        codes[at] =
            at < tokens
                ? static_cast<uint8_t>(symmetric_code(to_float(ahead[k]), step, width, clipped))
                : uint8_t{0};
      }
    }
  }
  __syncthreads();
  write_planes(head_dim, block_size, s, true, out);
  if (p.block.clipped != nullptr) {
    clipped = __reduce_add_sync(0xffffffffu, clipped);
    if (threadIdx.x % 32 == 0 && clipped != 0) {
      atomicAdd(p.block.clipped, static_cast<unsigned long long>(clipped));
    }
  }
}

}  // namespace
}  // namespace rillkv::kernels::cuda

extern "C" __global__ void __launch_bounds__(rillkv::kernels::cuda::kPackThreads, 3)
    rillkv_pack_channels_symmetric(
        const __grid_constant__ rillkv::kernels::cuda::PackChannelsSymmetricParams p) {
  namespace cuda = rillkv::kernels::cuda;
  cuda::with_type(p.block.dtype, [&](auto type) { cuda::pack_symmetric<decltype(type)>(p); });
}
