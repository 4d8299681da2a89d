// Packed blocks back to fp32.
#include <vector>

#include "kernels/cpu/generic/half.h"
#include "kernels/cpu/generic/scales.h"
#include "kernels/cpu/kernels.h"
#include "kernels/planes.h"

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

void unpack_sinks(const uint8_t* block, int tokens, int capacity, int head_dim, int bits,
                  float* out) {
  if (bits != format::kRowBits) {
    return unpack_tokens(block, tokens, capacity, head_dim, 1, true, bits, out);
  }
  const uint16_t* rows = reinterpret_cast<const uint16_t*>(block);
  for (int i = 0; i < tokens * head_dim; ++i) out[i] = half_to_float(rows[i]);
}

}  // namespace rillkv::kernels::cpu
