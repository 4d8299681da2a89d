// Planes of a channel block, word by word, from codes that lie in shared memory, a byte each.
#pragma once

#include "kernels/cuda/quantise.cuh"
#include "kernels/cuda/shared_layout.h"
#include "kernels/cuda/unpack.cuh"

namespace rillkv::kernels::cuda {

/// Widths, padding and planes of a channel block from its codes in shared memory.
__device__ inline void write_planes(int head_dim, int block_size, const ChannelPackShared& s,
                                    bool symmetric, uint8_t* out) {
  const size_t widths_at = format::channel_widths_offset(head_dim, symmetric);
  uint8_t* codes_out = out + format::channel_codes_offset(head_dim, symmetric);
  for (int i = static_cast<int>(threadIdx.x); i < head_dim / 2; i += static_cast<int>(blockDim.x)) {
    out[widths_at + i] = s.widths[i];
  }
  fill_zero(out + widths_at + head_dim / 2, codes_out);
  const uint32_t total = s.offsets[head_dim];
  const uint32_t code_bytes = plane_offsets(total, total, block_size).bits;
  fill_zero(codes_out + code_bytes, codes_out + format::align_up(code_bytes));

  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  for (int n = warp; n < head_dim; n += static_cast<int>(blockDim.x) / 32) {
    const int c = format::channel_at(n, head_dim);
    const int width = format::channel_width(s.widths, c, head_dim);
    const format::PlaneOffsets at = plane_offsets(s.offsets[n], total, block_size);
    const uint8_t* codes = s.codes + c * (block_size + 4);
    for (int i = lane; i < words_of_row(width, block_size); i += 32) {
      const PlaneWord word = make_plane_word(codes, i, width, block_size);
      const uint32_t start = word.plane == 0 ? at.nibbles : word.plane == 1 ? at.crumbs : at.bits;
      reinterpret_cast<uint32_t*>(codes_out + start)[word.word] = word.bits;
    }
  }
}

}  // namespace rillkv::kernels::cuda
