// Planes of a channel block, word by word, from codes that lie in shared memory, a byte each.
#pragma once

#include "kernels/cuda/quantise.cuh"
#include "kernels/cuda/shared_layout.h"
#include "kernels/cuda/unpack.cuh"

namespace rillkv::kernels::cuda {

/// Tokens of a block whose codes are four a lane.
inline constexpr int kTransposedTokens = 128;

/// One plane of `bits` (4, 2 or 1) an element of a channel of kTransposedTokens codes, by a warp;
/// `codes`: of tokens 4 lane .. 4 lane + 3, a byte each. Token k words + w is element k of word w
/// (words = 4 bits): lane bits below `bits` choose four words, a byte each; those from there to 4
/// the element's place in a byte, which shifting lanes together fills; 8 and 16 the byte's place in
/// its word, by a transposition of bytes.
template <int bits>
__device__ inline void write_plane(uint32_t codes, int shift, uint32_t* out) {
  constexpr uint32_t kAll = 0xffffffffu, kMask = ((1u << bits) - 1) * 0x01010101u;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  constexpr int kPlaces = 8 - bits;  // lane bits that are an element's place: as many bits to shift
  uint32_t x = (codes >> shift & kMask) << (lane & kPlaces);
#pragma unroll
  for (int span = bits; span <= 4; span *= 2) x |= __shfl_xor_sync(kAll, x, span);
  uint32_t other = __shfl_xor_sync(kAll, x, 8);
  x = __byte_perm(x, other, (lane & 8) != 0 ? 0x3715 : 0x6240);
  other = __shfl_xor_sync(kAll, x, 16);
  x = __byte_perm(x, other, (lane & 16) != 0 ? 0x3276 : 0x5410);
  if ((lane & kPlaces) == 0) out[4 * (lane % bits) + lane / 8] = x;
}

/// The planes of a channel of kTransposedTokens codes, by a warp; `codes`: as write_plane has them.
__device__ inline void write_channel_planes(uint32_t codes, int width,
                                            const format::PlaneOffsets& at, uint8_t* out) {
  auto* nibbles = reinterpret_cast<uint32_t*>(out + at.nibbles);
  const int planes = format::nibble_planes(width);
  if (planes > 0) write_plane<4>(codes, format::nibble_shift(width), nibbles);
  if (planes > 1) write_plane<4>(codes, 0, nibbles + kTransposedTokens / 8);
  if (format::crumb_planes(width) != 0) {
    write_plane<2>(codes, format::crumb_shift(width), reinterpret_cast<uint32_t*>(out + at.crumbs));
  }
  if (format::bit_planes(width) != 0) {
    write_plane<1>(codes, 0, reinterpret_cast<uint32_t*>(out + at.bits));
  }
}

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
    if (block_size == kTransposedTokens) {
      write_channel_planes(reinterpret_cast<const uint32_t*>(codes)[lane], width, at, codes_out);
      continue;
    }
    for (int i = lane; i < words_of_row(width, block_size); i += 32) {
      const PlaneWord word = make_plane_word(codes, i, width, block_size);
      const uint32_t start = word.plane == 0 ? at.nibbles : word.plane == 1 ? at.crumbs : at.bits;
      reinterpret_cast<uint32_t*>(codes_out + start)[word.word] = word.bits;
    }
  }
}

}  // namespace rillkv::kernels::cuda
