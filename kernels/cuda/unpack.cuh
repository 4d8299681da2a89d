// Reading single codes of packed blocks, and the plane offsets of a channel block. Simple and for
// every shape; the fast attention kernels have their own vector version (expand_codes.cuh).
#pragma once

#include <cstdint>

#include "kernels/cuda/device.cuh"
#include "kernels/planes.h"

namespace rillkv::kernels::cuda {

/// format::PlaneCounts in one register: bit planes in bits 0..9, crumb planes in 10..19, nibble
/// planes in 20..29, so that those of up to 512 channels may be added up. Bit 0 of a width counts
/// its bit planes, bit 1 its crumb planes, bits 2 and 3 its nibble planes.
__device__ inline uint32_t plane_counts(uint32_t width) {
  return width * (1 + (1 << 9) + (1 << 18)) & (1 | 1 << 10 | 3 << 20);
}
__device__ inline format::PlaneCounts separate(uint32_t counts) {
  return {counts >> 20, counts >> 10 & 1023, counts & 1023};
}
/// `before`: plane_counts summed over the channels whose planes come before; `total`: over all.
__device__ inline format::PlaneOffsets plane_offsets(uint32_t before, uint32_t total,
                                                     int block_size) {
  return format::plane_offsets(separate(before), separate(total), block_size);
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
  const format::PlaneOffsets at = plane_offsets(
      offsets[format::channel_position(channel, head_dim)], offsets[head_dim], block_size);
  const uint32_t code = format::code_at(format::planes_at(codes, at), width, token, block_size);
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
  const auto planes = format::token_planes(block, rows, token, head_dim, groups, symmetric, bits);
  const uint32_t code = format::code_at(planes, bits, channel, head_dim);
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

/// Value (token, channel) of the sinks of a kv head.
__device__ inline float sink_value(const uint8_t* block, int token, int channel, int capacity,
                                   int head_dim, int bits) {
  if (bits == format::kRowBits) {
    return half_bits_to_float(reinterpret_cast<const uint16_t*>(
        block + format::sink_row_offset(token, head_dim))[channel]);
  }
  return token_block_value(block, token, channel, capacity, head_dim, 1, true, bits);
}

}  // namespace rillkv::kernels::cuda
