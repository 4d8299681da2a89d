// Scalar access to the planes of kernels/packed_format.h, shared by the scalar packers, the scalar
// attention and the unpackers. Internal linkage: see common.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/packed_format.h"

namespace rillkv::kernels::cpu {
namespace {

/// Writes one plane of `count` elements: bits [shift, shift + element_bits) of each code.
inline void pack_plane(const uint8_t* codes, int count, int element_bits, int shift, uint8_t* out) {
  uint32_t* words = reinterpret_cast<uint32_t*>(out);
  const int word_count = format::plane_words(count, element_bits);
  const uint32_t mask = (1u << element_bits) - 1u;
  for (int i = 0; i < word_count; ++i) words[i] = 0;
  for (int k = 0; k * word_count < count; ++k) {
    const int begin = k * word_count;
    const int end = begin + word_count < count ? begin + word_count : count;
    for (int i = begin; i < end; ++i) {
      words[i - begin] |= ((static_cast<uint32_t>(codes[i]) >> shift) & mask) << (element_bits * k);
    }
  }
}

/// codes[i] |= element i of the plane << shift.
inline void unpack_plane(const uint8_t* plane, int count, int element_bits, int shift,
                         uint8_t* codes) {
  const uint32_t* words = reinterpret_cast<const uint32_t*>(plane);
  const int word_count = format::plane_words(count, element_bits);
  const uint32_t mask = (1u << element_bits) - 1u;
  for (int k = 0; k * word_count < count; ++k) {
    const int begin = k * word_count;
    const int end = begin + word_count < count ? begin + word_count : count;
    for (int i = begin; i < end; ++i) {
      codes[i] = static_cast<uint8_t>(codes[i] |
                                      (((words[i - begin] >> (element_bits * k)) & mask) << shift));
    }
  }
}

/// Where the next planes of a block go (or come from): nibbles, crumbs and bits advance separately.
template <typename Byte>
struct PlaneCursor {
  Byte* nibbles;
  Byte* crumbs;
  Byte* bits;
};

/// The planes of one channel (or row) of `count` codes; advances the cursor.
inline void pack_codes(const uint8_t* codes, int count, int width, PlaneCursor<uint8_t>& at) {
  if (format::nibble_planes(width) > 0) {
    pack_plane(codes, count, 4, format::nibble_shift(width), at.nibbles);
    at.nibbles += format::plane_bytes(count, 4);
  }
  if (format::nibble_planes(width) > 1) {
    pack_plane(codes, count, 4, 0, at.nibbles);
    at.nibbles += format::plane_bytes(count, 4);
  }
  if (format::crumb_planes(width) > 0) {
    pack_plane(codes, count, 2, format::crumb_shift(width), at.crumbs);
    at.crumbs += format::plane_bytes(count, 2);
  }
  if (format::bit_planes(width) > 0) {
    pack_plane(codes, count, 1, 0, at.bits);
    at.bits += format::plane_bytes(count, 1);
  }
}

inline void unpack_codes(PlaneCursor<const uint8_t>& at, int count, int width, uint8_t* codes) {
  for (int i = 0; i < count; ++i) codes[i] = 0;
  if (format::nibble_planes(width) > 0) {
    unpack_plane(at.nibbles, count, 4, format::nibble_shift(width), codes);
    at.nibbles += format::plane_bytes(count, 4);
  }
  if (format::nibble_planes(width) > 1) {
    unpack_plane(at.nibbles, count, 4, 0, codes);
    at.nibbles += format::plane_bytes(count, 4);
  }
  if (format::crumb_planes(width) > 0) {
    unpack_plane(at.crumbs, count, 2, format::crumb_shift(width), codes);
    at.crumbs += format::plane_bytes(count, 2);
  }
  if (format::bit_planes(width) > 0) {
    unpack_plane(at.bits, count, 1, 0, codes);
    at.bits += format::plane_bytes(count, 1);
  }
}

/// Past the planes of one channel (or row).
template <typename Byte>
inline void skip_codes(int count, int width, PlaneCursor<Byte>& at) {
  at.nibbles += static_cast<size_t>(format::nibble_planes(width)) * format::plane_bytes(count, 4);
  at.crumbs += static_cast<size_t>(format::crumb_planes(width)) * format::plane_bytes(count, 2);
  at.bits += static_cast<size_t>(format::bit_planes(width)) * format::plane_bytes(count, 1);
}

/// The planes of a channel block begin here, those of channel_at(0); `widths` as the format stores
/// them.
template <typename Byte>
inline PlaneCursor<Byte> channel_planes(Byte* block, int block_size, int head_dim, bool symmetric,
                                        const uint8_t* widths) {
  int nibble_count = 0, crumb_count = 0;
  for (int c = 0; c < head_dim; ++c) {
    const int width = format::channel_width(widths, c, head_dim);
    nibble_count += format::nibble_planes(width);
    crumb_count += format::crumb_planes(width);
  }
  PlaneCursor<Byte> at;
  at.nibbles = block + format::channel_codes_offset(head_dim, symmetric);
  at.crumbs = at.nibbles + static_cast<size_t>(nibble_count) * format::plane_bytes(block_size, 4);
  at.bits = at.crumbs + static_cast<size_t>(crumb_count) * format::plane_bytes(block_size, 2);
  return at;
}

/// The planes of row `token` of a token block of `rows` rows.
template <typename Byte>
inline PlaneCursor<Byte> token_planes(Byte* block, int rows, int token, int head_dim, int groups,
                                      bool symmetric, int width) {
  const size_t nibble_row =
      static_cast<size_t>(format::nibble_planes(width)) * format::plane_bytes(head_dim, 4);
  const size_t crumb_row =
      static_cast<size_t>(format::crumb_planes(width)) * format::plane_bytes(head_dim, 2);
  const size_t bit_row =
      static_cast<size_t>(format::bit_planes(width)) * format::plane_bytes(head_dim, 1);
  Byte* codes = block + format::token_codes_offset(rows, groups, symmetric);
  PlaneCursor<Byte> at;
  at.nibbles = codes + static_cast<size_t>(token) * nibble_row;
  at.crumbs =
      codes + static_cast<size_t>(rows) * nibble_row + static_cast<size_t>(token) * crumb_row;
  at.bits = codes + static_cast<size_t>(rows) * (nibble_row + crumb_row) +
            static_cast<size_t>(token) * bit_row;
  return at;
}

}  // namespace
}  // namespace rillkv::kernels::cpu
