// (c) A packed block back to fp32, keys rotated if asked: a utility, and the oracle's counterpart
// of what the attention kernels do inside. One CTA a kv head.
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/entry_params.h"
#include "kernels/cuda/unpack.cuh"

namespace rillkv::kernels::cuda {
namespace {

extern __shared__ uint32_t plane_offsets_before[];  // [head_dim + 1]

__device__ float block_value(const DequantiseParams& p, const uint8_t* block, int token,
                             int channel) {
  if (p.trellis) {
    return p.channel_major ? trellis_key_value(block, plane_offsets_before, token, channel,
                                               p.block_size, p.head_dim)
                           : trellis_value(block, token, channel, p.block_size, p.head_dim, p.bits,
                                           p.wide_pairs);
  }
  if (p.channel_major) {
    return channel_block_value(block, plane_offsets_before, token, channel, p.block_size,
                               p.head_dim, p.symmetric);
  }
  if (p.symmetric) return sink_value(block, token, channel, p.block_size, p.head_dim, p.bits);
  return token_block_value(block, token, channel, p.block_size, p.head_dim, p.groups, false,
                           p.bits);
}

__device__ void dequantise(const DequantiseParams& p) {
  const uint8_t* block = p.blocks[blockIdx.x];
  if (p.channel_major && p.trellis) {
    scan_plane_counts(block + format::trellis_widths_offset(p.head_dim), p.head_dim,
                      plane_offsets_before, 1);
  } else if (p.channel_major) {
    scan_plane_counts(block + format::channel_widths_offset(p.head_dim, p.symmetric), p.head_dim,
                      plane_offsets_before);
  }
  const int half = p.head_dim / 2;
  float* out = p.out + static_cast<int64_t>(blockIdx.x) * p.tokens * p.head_dim;
  for (int i = static_cast<int>(threadIdx.x); i < p.tokens * half;
       i += static_cast<int>(blockDim.x)) {
    const int token = i / half, c = i % half;
    float x = block_value(p, block, token, c);
    float y = block_value(p, block, token, c + half);
    if (p.cos != nullptr) {
      const float cosine = p.cos[i], sine = p.sin[i];
      const float rotated = x * cosine - y * sine;
      y = y * cosine + x * sine;
      x = rotated;
    }
    out[token * p.head_dim + c] = x;
    out[token * p.head_dim + c + half] = y;
  }
}

}  // namespace
}  // namespace rillkv::kernels::cuda

extern "C" __global__ void __launch_bounds__(rillkv::kernels::cuda::kPackThreads)
    rillkv_dequantise(const __grid_constant__ rillkv::kernels::cuda::DequantiseParams p) {
  rillkv::kernels::cuda::dequantise(p);
}
