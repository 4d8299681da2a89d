// Reading single codes of packed blocks, and the plane offsets of a channel block. Simple and for
// every shape; the fast attention kernels have their own vector version (expand_codes.cuh).
#pragma once

#include <cstdint>

#include "kernels/cuda/device.cuh"
#include "kernels/planes.h"
#include "kernels/steps8.h"

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
/// (format::channel_at) and offsets[head_dim] with the total, widths being smaller by `less` than
/// they say. Called by all threads of a CTA of at most 32 warps; ends with a barrier.
__device__ inline void scan_plane_counts(const uint8_t* widths, int head_dim, uint32_t* offsets,
                                         int less = 0) {
  if (threadIdx.x < 32) {
    uint32_t carry = 0;
    for (int base = 0; base < head_dim; base += 32) {
      const int i = base + static_cast<int>(threadIdx.x);
      const int c = format::channel_at(i, head_dim);
      const auto width = static_cast<uint32_t>(
          i < head_dim ? format::channel_width(widths, c, head_dim) - less : 0);
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

/// Level of a token of a trellis channel of `width` bits: `path` and `b` are its planes.
__device__ inline float trellis_level(const uint8_t* path, const format::Planes<const uint8_t>& b,
                                      int width, int token, int block_size) {
  uint32_t bits = 0;
  for (int t = max(token - 3, 0); t <= token; ++t) {
    bits = bits << 1 | format::plane_element(path, t, block_size, 1);
  }
  return static_cast<float>(
      format::trellis_level(format::code_at(b, width - 1, token, block_size), bits));
}

/// Value (token, channel) of a trellis key block; offsets as scan_plane_counts leaves them, of
/// widths that are smaller by one.
__device__ inline float trellis_key_value(const uint8_t* block, const uint32_t* offsets, int token,
                                          int channel, int block_size, int head_dim) {
  const int width =
      format::channel_width(block + format::trellis_widths_offset(head_dim), channel, head_dim);
  const int position = format::channel_position(channel, head_dim);
  const size_t path = format::trellis_key_path_offset(head_dim);
  const auto planes =
      format::planes_at(block + format::trellis_codes_offset(path, head_dim, block_size),
                        plane_offsets(offsets[position], offsets[head_dim], block_size));
  const float level = trellis_level(
      block + path + static_cast<size_t>(position) * format::plane_bytes(block_size, 1), planes,
      width, token, block_size);
  const float zero = static_cast<float>(reinterpret_cast<const int16_t*>(block)[channel]);
  return format::step8(block[format::trellis_step_offset(head_dim) + channel]) * (zero + level);
}

/// Value (token, channel) of a trellis value block.
__device__ inline float trellis_value(const uint8_t* block, int token, int channel, int block_size,
                                      int head_dim, int value_width, int wide_pairs) {
  const int half = head_dim / 2, pair = channel < half ? channel : channel - half;
  const int width = format::trellis_value_width(pair, value_width, wide_pairs);
  const int position = format::channel_position(channel, head_dim);
  format::TrellisPlanes<const uint8_t> at =
      format::trellis_value_planes(block, block_size, head_dim, value_width, wide_pairs);
  format::advance(at.b, block_size, format::trellis_value_planes(pair, value_width, wide_pairs));
  if (channel >= half) format::advance(at.b, block_size, width - 1);
  at.path += static_cast<size_t>(position) * format::plane_bytes(block_size, 1);
  const float level = trellis_level(at.path, at.b, width, token, block_size);
  const float odd = 2.0f * level + static_cast<float>(1 - (2 << width));
  return format::step8(block[token]) * (width > value_width ? format::kWideGain * odd : odd);
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
