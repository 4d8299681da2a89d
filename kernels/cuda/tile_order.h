// The order of the 128 tokens of a packed block in a tile of the fast attention kernels. Attention
// does not care in which order tokens come as long as keys, values and masks agree, so a tile takes
// the order in which a lane unpacks them: word i of a nibble plane holds tokens i, i + 16, ...,
// i + 112, the low and high halves of a register hold nibbles e and e + 4, and the eight codes are
// one 16-byte chunk of a row of 16-bit numbers:
//
//   position   8 i   8 i + 1   8 i + 2   8 i + 3   8 i + 4   8 i + 5   8 i + 6   8 i + 7
//   token      i     i + 64    i + 16    i + 80    i + 32    i + 96    i + 48    i + 112
//
// Tiles of sinks and of uncompressed tokens keep the natural order.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/packed_format.h"

namespace rillkv::kernels::cuda {

RILLKV_HOST_DEVICE constexpr int token_at_position(int position) {
  return (position >> 3) + 16 * (position >> 1 & 3) + 64 * (position & 1);
}

/// AttentionParams::in_block_half: R(j) of a block of 128 tokens in fp16, cosines [D/2][128] then
/// sines, a row in the order of a tile, its 16-byte chunks where a swizzled tile has them (chunk k
/// of row r at k ^ (r & 7)): one offset leads to the angles and to the place of the rotated keys.
RILLKV_HOST_DEVICE constexpr size_t half_rotation_index(int pair, int position) {
  return 128 * static_cast<size_t>(pair) +
         static_cast<size_t>(((position >> 3 ^ (pair & 7)) << 3) + (position & 7));
}

/// Behind it, the same angles as decode reads them: a pair (cosine, sine) of each token, eight of a
/// word of a nibble plane by four: [D/2 pairs][2][16 words][4], (e / 4, word, e % 4) being token
/// word + 16 e.
RILLKV_HOST_DEVICE constexpr size_t pair_rotations_offset(int head_dim) {
  return 128 * static_cast<size_t>(head_dim);
}
RILLKV_HOST_DEVICE constexpr size_t pair_rotation_index(int head_dim, int pair, int token) {
  const int word = token & 15, e = token >> 4;
  return pair_rotations_offset(head_dim) +
         2 * static_cast<size_t>(128 * pair + 64 * (e >> 2) + 4 * word + (e & 3));
}
/// Elements of both.
RILLKV_HOST_DEVICE constexpr size_t half_rotation_elements(int head_dim) {
  return 2 * pair_rotations_offset(head_dim);
}

/// Fills both from in_block_cos and in_block_sin, all in host memory.
void fill_half_rotations(const float* cosines, const float* sines, int head_dim, uint16_t* out);

}  // namespace rillkv::kernels::cuda
