// (a2) Channel blocks: keys of policy "adaptive" (affine, widths by reverse water-filling) and both
// keys and values of policy "ema" (symmetric, widths given). One CTA a kv head and block.
//
//   1. lo, hi of each channel; 2. widths; 3. lo/step as stored; 4. codes, a byte each, in shared
//   memory [head_dim][block_size + 4] (the 4 keeps the column-wise writes free of bank conflicts);
//   5. planes, word by word. kernels/packed_format.h draws the result.
#include "kernels/cuda/channel_planes.cuh"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/entry_params.h"
#include "kernels/cuda/quantise.cuh"
#include "kernels/cuda/shared_layout.h"
#include "kernels/cuda/unpack.cuh"

namespace rillkv::kernels::cuda {
namespace {

extern __shared__ __align__(16) uint8_t shared_memory[];

struct BlockInput {
  const BlockPackParams& p;
  int kv_head, first_token, tokens;

  __device__ float operator()(int token, int channel) const {
    return load_element(p.input.data,
                        static_cast<int64_t>(first_token + token) * p.input.token_stride +
                            kv_head * p.input.head_stride + channel,
                        p.dtype);
  }
};

__device__ BlockInput block_input(const BlockPackParams& p) {
  const int first = static_cast<int>(blockIdx.y) * p.block_size;
  return {p, static_cast<int>(blockIdx.x), first, min(p.block_size, p.tokens - first)};
}
__device__ uint8_t* block_output(const BlockPackParams& p) {
  return p.blocks[blockIdx.y * gridDim.x + blockIdx.x];
}

/// lo and hi of each channel, exactly; the CTA's threads share a channel's tokens if they are more
/// than the channels.
__device__ void channel_ranges(const BlockInput& x, const ChannelPackShared& s) {
  const int head_dim = x.p.head_dim, threads = static_cast<int>(blockDim.x);
  const int shares = max(1, threads / head_dim);
  for (int i = static_cast<int>(threadIdx.x); i < shares * head_dim; i += threads) {
    const int c = i % head_dim, share = i / head_dim;
    const int first = min(share, x.tokens - 1);
    float lo = x(first, c), hi = lo;
#pragma unroll 4
    for (int t = first + shares; t < x.tokens; t += shares) {
      const float value = x(t, c);
      lo = fminf(lo, value);
      hi = fmaxf(hi, value);
    }
    s.partial[2 * i] = lo;
    s.partial[2 * i + 1] = hi;
  }
  __syncthreads();
  for (int c = static_cast<int>(threadIdx.x); c < head_dim; c += threads) {
    float lo = s.partial[2 * c], hi = s.partial[2 * c + 1];
    for (int share = 1; share < shares; ++share) {
      lo = fminf(lo, s.partial[2 * (share * head_dim + c)]);
      hi = fmaxf(hi, s.partial[2 * (share * head_dim + c) + 1]);
    }
    s.lo[c] = lo + 0.0f;  // -0 becomes +0
    s.hi[c] = hi + 0.0f;
  }
  __syncthreads();
}

/// Greedy reverse water-filling, as kernels/cpu/allocate_widths.cpp defines it. A pair's gains
/// shrink from class to class, so "greedy" is "the `increments` largest of all gains", ties to the
/// lower class, then the lower pair: a gain is taken iff fewer than `increments` come before it.
__device__ void allocate_widths(const PackChannelsAffineParams& p, const float* energy,
                                const ChannelPackShared& s) {
  const int pairs = p.block.head_dim / 2, count = pairs * (p.class_count - 1);
  for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x)) {
    const int pair = i % pairs, other = pair + pairs;
    const float a = __fsub_rn(s.hi[pair], s.lo[pair]), b = __fsub_rn(s.hi[other], s.lo[other]);
    const float score = __fmul_rn(__fadd_rn(__fmul_rn(a, a), __fmul_rn(b, b)),
                                  __fadd_rn(energy[pair], energy[other]));
    s.gains[i] = __fmul_rn(score, p.drops[i / pairs]);
  }
  for (int pair = static_cast<int>(threadIdx.x); pair < pairs; pair += static_cast<int>(blockDim.x))
    s.levels[pair] = 0;
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x)) {
    const float own = s.gains[i];
    int before = 0;
    for (int j = 0; j < count; ++j) {
      const float other = s.gains[j];
      before += other > own || (other == own && j < i) ? 1 : 0;
    }
    if (before < p.increments) atomicAdd(&s.levels[i % pairs], 1);
  }
  __syncthreads();
  for (int pair = static_cast<int>(threadIdx.x); pair < pairs;
       pair += static_cast<int>(blockDim.x)) {
    const int width = p.classes[s.levels[pair]];
    s.widths[pair] = format::pair_widths(width, width);
  }
  __syncthreads();
}

__device__ void pack_affine(const PackChannelsAffineParams& p) {
  const int head_dim = p.block.head_dim, block_size = p.block.block_size;
  const ChannelPackShared s(shared_memory, head_dim, block_size);
  const BlockInput x = block_input(p.block);
  uint8_t* out = block_output(p.block);
  channel_ranges(x, s);
  const int64_t block = static_cast<int64_t>(blockIdx.y) * gridDim.x + blockIdx.x;
  if (p.energy != nullptr) {
    allocate_widths(p, p.energy + block * head_dim, s);
  } else {
    for (int i = static_cast<int>(threadIdx.x); i < head_dim / 2;
         i += static_cast<int>(blockDim.x)) {
      s.widths[i] = p.widths[block * (head_dim / 2) + i];
    }
    __syncthreads();
  }
  scan_plane_counts(s.widths, head_dim, s.offsets);
  auto* lo_out = reinterpret_cast<uint16_t*>(out);
  auto* step_out = reinterpret_cast<uint16_t*>(out + format::channel_step_offset(head_dim, false));
  const int threads = static_cast<int>(blockDim.x), shares = max(1, threads / head_dim);
  for (int i = static_cast<int>(threadIdx.x); i < shares * head_dim; i += threads) {
    const int c = i % head_dim, share = i / head_dim;
    const int width = format::channel_width(s.widths, c, head_dim);
    const AffineScale scale = affine_scale(s.lo[c], s.hi[c], width);
    if (share == 0) {
      lo_out[c] = scale.lo_bits;
      step_out[c] = scale.step_bits;
    }
    uint8_t* codes = s.codes + c * (block_size + 4);
    for (int t = share; t < block_size; t += shares) {
      codes[t] =
          t < x.tokens ? static_cast<uint8_t>(affine_code(x(t, c), scale, width)) : uint8_t{0};
    }
  }
  __syncthreads();
  write_planes(head_dim, block_size, s, false, out);
}

__device__ void pack_symmetric(const PackChannelsSymmetricParams& p) {
  const int head_dim = p.block.head_dim, block_size = p.block.block_size;
  const ChannelPackShared s(shared_memory, head_dim, block_size);
  const BlockInput x = block_input(p.block);
  uint8_t* out = block_output(p.block);
  const int64_t block = static_cast<int64_t>(blockIdx.y) * gridDim.x + blockIdx.x;
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
    for (int t = share; t < block_size; t += shares) {
      codes[t] = t < x.tokens ? static_cast<uint8_t>(symmetric_code(x(t, c), step, width, clipped))
                              : uint8_t{0};
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

extern "C" __global__ void __launch_bounds__(rillkv::kernels::cuda::kPackThreads)
    rillkv_pack_channels_affine(
        const __grid_constant__ rillkv::kernels::cuda::PackChannelsAffineParams p) {
  rillkv::kernels::cuda::pack_affine(p);
}

extern "C" __global__ void __launch_bounds__(rillkv::kernels::cuda::kPackThreads)
    rillkv_pack_channels_symmetric(
        const __grid_constant__ rillkv::kernels::cuda::PackChannelsSymmetricParams p) {
  rillkv::kernels::cuda::pack_symmetric(p);
}
