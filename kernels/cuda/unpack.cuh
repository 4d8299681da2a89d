// Reading single codes of packed blocks, and the plane offsets of a channel block. Simple and for
// every shape; the fast attention kernels have their own vector version (expand_codes.cuh).
#pragma once

#include <cstdint>

#include "kernels/cuda/device.cuh"
#include "kernels/packed_format.h"

namespace rillkv::kernels::cuda {

/// Element `index` of a plane of `count` elements of `bits` bits.
__device__ inline uint32_t plane_element(const uint8_t* plane, int index, int count, int bits) {
  const int words = format::plane_words(count, bits);
  const uint32_t word = reinterpret_cast<const uint32_t*>(plane)[index % words];
  return (word >> (index / words * bits)) & ((1u << bits) - 1);
}

/// Code `index` of a row whose planes lie at the given places (the second nibble plane, width 8,
/// follows the first).
__device__ inline uint32_t code_at(const uint8_t* nibbles, const uint8_t* crumbs,
                                   const uint8_t* bit_plane, int width, int index, int count) {
  uint32_t code = 0;
  for (int n = 0; n < format::nibble_planes(width); ++n) {
    code = code << 4 | plane_element(nibbles + n * format::plane_bytes(count, 4), index, count, 4);
  }
  if (format::crumb_planes(width)) code = code << 2 | plane_element(crumbs, index, count, 2);
  if (format::bit_planes(width)) code = code << 1 | plane_element(bit_plane, index, count, 1);
  return code;
}

/// Planes of a code: bit planes in bits 0..9, crumb planes in 10..19, nibble planes in 20..29, so
/// that those of up to 512 channels may be added up. Bit 0 of a width counts its bit planes, bit 1
/// its crumb planes, bits 2 and 3 its nibble planes.
__device__ inline uint32_t plane_counts(uint32_t width) {
  return width * (1 + (1 << 9) + (1 << 18)) & (1 | 1 << 10 | 3 << 20);
}
struct PlaneOffsets {
  uint32_t nibbles, crumbs, bit_plane;  // bytes from the start of the codes
};
/// `before`: plane_counts summed over the channels whose planes come before; `total`: over all.
__device__ inline PlaneOffsets plane_offsets(uint32_t before, uint32_t total, int block_size) {
  const uint32_t unit = static_cast<uint32_t>(block_size) / 8;  // bytes of a bit plane
  const uint32_t crumb_start = (total >> 20) * 4 * unit;
  const uint32_t bit_start = crumb_start + (total >> 10 & 1023) * 2 * unit;
  return {(before >> 20) * 4 * unit, crumb_start + (before >> 10 & 1023) * 2 * unit,
          bit_start + (before & 1023) * unit};
}

/// Fills offsets[i] with plane_counts of the first i channels in the order of their planes
/// (format::channel_at) and offsets[head_dim] with the total. Called by all threads of a CTA of at
/// most 32 warps; ends with a barrier.
__device__ inline void scan_plane_counts(const uint8_t* widths, int head_dim, uint32_t* offsets) {
  if (threadIdx.x < 32) {
    uint32_t carry = 0;
    for (int base = 0; base < head_dim; base += 32) {
      const int i = base + static_cast<int>(threadIdx.x);
      const int c = format::channel_at(i, head_dim);
      const auto width =
          static_cast<uint32_t>(i < head_dim ? format::channel_width(widths, c, head_dim) : 0);
      const uint32_t own = plane_counts(width);
      uint32_t sum = own;
      for (int step = 1; step < 32; step *= 2) {
        const uint32_t other = __shfl_up_sync(0xffffffffu, sum, step);
        if (static_cast<int>(threadIdx.x) >= step) sum += other;
      }
      if (i < head_dim) offsets[i] = carry + sum - own;
      carry += __shfl_sync(0xffffffffu, sum, 31);
    }
    if (threadIdx.x == 0) offsets[head_dim] = carry;
  }
  __syncthreads();
}

/// Value (token, channel) of a channel block; offsets as scan_plane_counts leaves them.
__device__ inline float channel_block_value(const uint8_t* block, const uint32_t* offsets,
                                            int token, int channel, int block_size, int head_dim,
                                            bool symmetric) {
  const uint8_t* widths = block + format::channel_widths_offset(head_dim, symmetric);
  const uint8_t* codes = block + format::channel_codes_offset(head_dim, symmetric);
  const int width = format::channel_width(widths, channel, head_dim);
  const PlaneOffsets at = plane_offsets(offsets[format::channel_position(channel, head_dim)],
                                        offsets[head_dim], block_size);
  const uint32_t code = code_at(codes + at.nibbles, codes + at.crumbs, codes + at.bit_plane, width,
                                token, block_size);
  const auto* steps =
      reinterpret_cast<const uint16_t*>(block + format::channel_step_offset(head_dim, symmetric));
  const float step = half_bits_to_float(steps[channel]);
  if (symmetric) {
    return step * static_cast<float>(static_cast<int>(code) - (1 << (width - 1)));
  }
  const float lo = half_bits_to_float(reinterpret_cast<const uint16_t*>(block)[channel]);
  return lo + step * static_cast<float>(code);
}

/// Value (token, channel) of a token block of `rows` rows.
__device__ inline float token_block_value(const uint8_t* block, int token, int channel, int rows,
                                          int head_dim, int groups, bool symmetric, int bits) {
  const uint8_t* codes = block + format::token_codes_offset(rows, groups, symmetric);
  const size_t nibble_row = format::nibble_planes(bits) * format::plane_bytes(head_dim, 4);
  const size_t crumb_row = format::crumb_planes(bits) * format::plane_bytes(head_dim, 2);
  const size_t bit_row = format::bit_planes(bits) * format::plane_bytes(head_dim, 1);
  const uint8_t* crumbs = codes + rows * nibble_row;
  const uint8_t* bit_planes = crumbs + rows * crumb_row;
  const uint32_t code = code_at(codes + token * nibble_row, crumbs + token * crumb_row,
                                bit_planes + token * bit_row, bits, channel, head_dim);
  int group = 0;
  while (group + 1 < groups && channel >= format::group_begin(group + 1, groups, head_dim)) ++group;
  const auto* steps =
      reinterpret_cast<const uint16_t*>(block + format::token_step_offset(rows, groups, symmetric));
  const float step = half_bits_to_float(steps[group * rows + token]);
  if (symmetric) return step * static_cast<float>(static_cast<int>(code) - (1 << (bits - 1)));
  const float lo =
      half_bits_to_float(reinterpret_cast<const uint16_t*>(block)[group * rows + token]);
  return lo + step * static_cast<float>(code);
}

}  // namespace rillkv::kernels::cuda
