// Packed blocks back to fp32.
#include <vector>

#include "kernels/cpu/generic/half.h"
#include "kernels/cpu/generic/scales.h"
#include "kernels/cpu/kernels.h"
#include "kernels/planes.h"
#include "kernels/steps8.h"

namespace rillkv::kernels::cpu {

void unpack_channels(const uint8_t* block, int tokens, int block_size, int head_dim, bool symmetric,
                     float* out) {
  const int D = head_dim;
  const uint16_t* lo = reinterpret_cast<const uint16_t*>(block);
  const uint16_t* step =
      reinterpret_cast<const uint16_t*>(block + format::channel_step_offset(D, symmetric));
  const uint8_t* widths = block + format::channel_widths_offset(D, symmetric);
  format::Planes<const uint8_t> planes =
      format::channel_planes(block, block_size, D, symmetric).begin;
  uint8_t codes[kMaxBlockSize];
  for (int i = 0; i < D; ++i) {
    const int c = format::channel_at(i, D);
    const int width = format::channel_width(widths, c, D);
    format::unpack_codes(planes, block_size, width, codes);
    const float scale = half_to_float(step[c]);
    const float offset = symmetric ? 0.0f : half_to_float(lo[c]);
    const int zero = symmetric ? 1 << (width - 1) : 0;
    for (int t = 0; t < tokens; ++t) {
      out[static_cast<size_t>(t) * D + c] = offset + scale * static_cast<float>(codes[t] - zero);
    }
  }
}

void unpack_tokens(const uint8_t* block, int tokens, int block_size, int head_dim, int groups,
                   bool symmetric, int bits, float* out) {
  const int D = head_dim;
  const uint16_t* lo = reinterpret_cast<const uint16_t*>(block);
  const uint16_t* step = reinterpret_cast<const uint16_t*>(
      block + format::token_step_offset(block_size, groups, symmetric));
  const int zero = symmetric ? 1 << (bits - 1) : 0;
  std::vector<uint8_t> codes(static_cast<size_t>(D));
  for (int t = 0; t < tokens; ++t) {
    format::Planes<const uint8_t> planes =
        format::token_planes(block, block_size, t, D, groups, symmetric, bits);
    format::unpack_codes(planes, D, bits, codes.data());
    for (int g = 0; g < groups; ++g) {
      const float scale = half_to_float(step[g * block_size + t]);
      const float offset = symmetric ? 0.0f : half_to_float(lo[g * block_size + t]);
      for (int c = format::group_begin(g, groups, D); c < format::group_begin(g + 1, groups, D);
           ++c) {
        out[static_cast<size_t>(t) * D + c] = offset + scale * static_cast<float>(codes[c] - zero);
      }
    }
  }
}

void unpack_trellis_keys(const uint8_t* block, int tokens, int block_size, int head_dim,
                         float* out) {
  const int D = head_dim;
  const int16_t* zero = reinterpret_cast<const int16_t*>(block);
  const uint8_t* step = block + format::trellis_step_offset(D);
  const uint8_t* widths = block + format::trellis_widths_offset(D);
  format::TrellisPlanes<const uint8_t> planes = format::trellis_key_planes(block, block_size, D);
  uint8_t levels[kMaxBlockSize];
  for (int i = 0; i < D; ++i) {
    const int c = format::channel_at(i, D);
    format::unpack_levels(planes, block_size, format::channel_width(widths, c, D), levels);
    const float scale = format::step8(step[c]);
    for (int t = 0; t < tokens; ++t) {
      out[static_cast<size_t>(t) * D + c] = scale * static_cast<float>(zero[c] + levels[t]);
    }
  }
}

void unpack_trellis_values(const uint8_t* block, int tokens, int block_size, int head_dim,
                           int width, int wide_pairs, float* out) {
  const int D = head_dim;
  format::TrellisPlanes<const uint8_t> planes =
      format::trellis_value_planes(block, block_size, D, width, wide_pairs);
  uint8_t levels[kMaxBlockSize];
  for (int i = 0; i < D; ++i) {
    const int own = format::trellis_value_width(i / 2, width, wide_pairs);
    const float unit = own > width ? 0.5f : 1.0f;
    format::unpack_levels(planes, block_size, own, levels);
    for (int t = 0; t < tokens; ++t) {
      const int twice = 2 * levels[t] + 1 - (2 << own);
      out[static_cast<size_t>(t) * D + format::channel_at(i, D)] =
          format::step8(block[t]) * (unit * static_cast<float>(twice));
    }
  }
}

void unpack_sinks(const uint8_t* block, int tokens, int capacity, int head_dim, int bits,
                  float* out) {
  if (bits != format::kRowBits) {
    return unpack_tokens(block, tokens, capacity, head_dim, 1, true, bits, out);
  }
  const uint16_t* rows = reinterpret_cast<const uint16_t*>(block);
  for (int i = 0; i < tokens * head_dim; ++i) out[i] = half_to_float(rows[i]);
}

}  // namespace rillkv::kernels::cpu
