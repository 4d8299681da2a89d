// (a2) Token blocks: values of policy "adaptive" (affine, with the clip search at 2 bits) and sinks
// (symmetric, or fp16 rows). 16 lanes a token, 16 tokens a CTA; grid (kv_heads, blocks, 16-token
// slabs).
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/entry_params.h"
#include "kernels/cuda/quantise.cuh"
#include "kernels/cuda/shared_layout.h"
#include "kernels/cuda/token_rows.cuh"
#include "kernels/planes.h"

namespace rillkv::kernels::cuda {
namespace {

extern __shared__ __align__(16) uint8_t shared_memory[];

struct TokenRow {
  float* values;
  uint8_t* codes;
  uint32_t mask;
  int lane;
  int row;     // in the block
  int tokens;  // of the block
};

/// This half warp's token; its values are in shared memory, zeros past the last token.
__device__ TokenRow load_row(const BlockPackParams& p) {
  const TokenPackShared layout(p.head_dim);
  const int half = static_cast<int>(threadIdx.x) / kLanes;
  TokenRow r;
  r.values = reinterpret_cast<float*>(shared_memory) + half * layout.value_stride;
  r.codes = shared_memory + 4 * kPackRows * layout.value_stride + half * layout.code_stride;
  r.mask = half_warp_mask();
  r.lane = static_cast<int>(threadIdx.x) % kLanes;
  r.row = static_cast<int>(blockIdx.z) * kPackRows + half;
  const int first = static_cast<int>(blockIdx.y) * p.block_size;
  r.tokens = min(p.block_size, p.tokens - first);
  const int64_t base = static_cast<int64_t>(first + r.row) * p.input.token_stride +
                       static_cast<int64_t>(blockIdx.x) * p.input.head_stride;
  for (int c = r.lane; c < p.head_dim; c += kLanes) {
    r.values[c] = r.row < r.tokens ? load_element(p.input.data, base + c, p.dtype) : 0.0f;
  }
  __syncwarp(r.mask);
  return r;
}

__device__ void add_clipped(const BlockPackParams& p, uint32_t clipped, const TokenRow& r) {
  if (p.clipped == nullptr) return;
  for (int span = kLanes / 2; span > 0; span /= 2) {
    clipped += __shfl_xor_sync(r.mask, clipped, span);
  }
  if (r.lane == 0 && clipped != 0) atomicAdd(p.clipped, static_cast<unsigned long long>(clipped));
}

__device__ void pack_affine(const PackTokensParams& p) {
  const int head_dim = p.block.head_dim, rows = p.block.block_size;
  uint8_t* out = p.block.blocks[blockIdx.y * gridDim.x + blockIdx.x];
  if (blockIdx.z == 0) {  // padding
    const size_t codes_at = format::token_codes_offset(rows, p.groups, false);
    fill_zero(out + format::token_step_offset(rows, p.groups, false) + 2 * p.groups * rows,
              out + codes_at);
    fill_zero(out + codes_at + rows * format::codes_bytes(head_dim, p.bits),
              out + format::token_block_bytes(rows, head_dim, p.groups, false, p.bits));
  }
  const TokenRow r = load_row(p.block);
  if (r.row >= rows) return;
  auto* lo_out = reinterpret_cast<uint16_t*>(out);
  auto* step_out =
      reinterpret_cast<uint16_t*>(out + format::token_step_offset(rows, p.groups, false));
  uint32_t clipped = 0;
  for (int g = 0; g < p.groups; ++g) {
    const int begin = format::group_begin(g, p.groups, head_dim);
    const int count = format::group_begin(g + 1, p.groups, head_dim) - begin;
    const float* x = r.values + begin;
    // A row past the last token is zeros, and so are its lo, step and codes.
    const AffineScale scale = group_scale(x, count, p.bits, r.mask, r.lane);
    for (int i = r.lane; i < count; i += kLanes) {
      r.codes[begin + i] = static_cast<uint8_t>(affine_code(x[i], scale, p.bits));
      if (p.bits == 2) clipped += affine_clips(x[i], scale, p.bits);
    }
    if (r.lane == 0) {
      lo_out[g * rows + r.row] = scale.lo_bits;
      step_out[g * rows + r.row] = scale.step_bits;
    }
  }
  __syncwarp(r.mask);
  write_row(format::token_planes(out, rows, r.row, head_dim, p.groups, false, p.bits), r.codes,
            head_dim, p.bits, r.lane);
  add_clipped(p.block, clipped, r);
}

__device__ void pack_sinks(const PackTokensParams& p) {
  const int head_dim = p.block.head_dim, rows = p.block.block_size;
  uint8_t* out = p.block.blocks[blockIdx.y * gridDim.x + blockIdx.x];
  const TokenRow r = load_row(p.block);
  if (r.row >= r.tokens) return;
  if (p.bits == format::kRowBits) {
    auto* to =
        reinterpret_cast<__half*>(out + format::sink_row_offset(p.first_row + r.row, head_dim));
    for (int c = r.lane; c < head_dim; c += kLanes) to[c] = __float2half_rn(r.values[c]);
    return;
  }
  float most = 0.0f;
  for (int c = r.lane; c < head_dim; c += kLanes) most = fmaxf(most, fabsf(r.values[c]));
  for (int span = kLanes / 2; span > 0; span /= 2) {
    most = fmaxf(most, __shfl_xor_sync(r.mask, most, span));
  }
  const uint16_t step_bits = symmetric_step_bits(most, p.bits);
  uint32_t clipped = 0;
  for (int c = r.lane; c < head_dim; c += kLanes) {
    r.codes[c] = static_cast<uint8_t>(
        symmetric_code(r.values[c], half_bits_to_float(step_bits), p.bits, clipped));
  }
  __syncwarp(r.mask);
  const int row = p.first_row + r.row;
  if (r.lane == 0) reinterpret_cast<uint16_t*>(out)[row] = step_bits;
  write_row(format::token_planes(out, rows, row, head_dim, 1, true, p.bits), r.codes, head_dim,
            p.bits, r.lane);
}

}  // namespace
}  // namespace rillkv::kernels::cuda

extern "C" __global__ void __launch_bounds__(rillkv::kernels::cuda::kPackThreads)
    rillkv_pack_tokens_affine(const __grid_constant__ rillkv::kernels::cuda::PackTokensParams p) {
  rillkv::kernels::cuda::pack_affine(p);
}

extern "C" __global__ void __launch_bounds__(rillkv::kernels::cuda::kPackThreads)
    rillkv_pack_sinks(const __grid_constant__ rillkv::kernels::cuda::PackTokensParams p) {
  rillkv::kernels::cuda::pack_sinks(p);
}
