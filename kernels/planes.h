// Planes of packed_format.h in memory: where those of a channel or of a row lie, and reading and
// writing single elements. For host and device; always inlined (see RILLKV_HOST_DEVICE).
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/packed_format.h"

namespace rillkv::format {

/// The planes of one channel (or row). The second nibble plane of 8 bits follows the first.
template <typename Byte>
struct Planes {
  Byte* nibbles;
  Byte* crumbs;
  Byte* bits;
};

template <typename Byte>
RILLKV_HOST_DEVICE inline Planes<Byte> planes_at(Byte* codes, PlaneOffsets offsets) {
  return {codes + offsets.nibbles, codes + offsets.crumbs, codes + offsets.bits};
}

/// On to the planes that come after those of `planes`, of `count` elements each.
template <typename Byte>
RILLKV_HOST_DEVICE inline void advance(Planes<Byte>& at, int count, PlaneCounts planes) {
  const PlaneOffsets bytes = plane_extents(planes, count);
  at.nibbles += bytes.nibbles;
  at.crumbs += bytes.crumbs;
  at.bits += bytes.bits;
}
template <typename Byte>
RILLKV_HOST_DEVICE inline void advance(Planes<Byte>& at, int count, int width) {
  advance(at, count, planes_of(width));
}

/// Planes of all channels of a block whose widths are smaller by `less` (0 or 1) than those of
/// widths: [head_dim / 2] pairs, summed eight at a time.
RILLKV_HOST_DEVICE inline PlaneCounts planes_of_block(const uint8_t* widths, int head_dim,
                                                      int less = 0) {
  const int half = head_dim / 2;
  constexpr uint64_t kOnes = 0x0101010101010101u;
  const uint64_t lesses = 0x11 * kOnes * static_cast<uint64_t>(less);
  PlaneCounts sum;
  for (int p = 0; p < half; p += 8) {
    uint64_t pairs = lesses;
    __builtin_memcpy(&pairs, widths + p, static_cast<size_t>(half - p < 8 ? half - p : 8));
    pairs -= lesses;
    for (int side = 0; side < 2; ++side, pairs >>= 4) {
      // nibble_planes, crumb_planes and bit_planes of eight widths; the product adds up its bytes.
      sum.nibbles += static_cast<uint32_t>(((pairs >> 2 & (3 * kOnes)) * kOnes) >> 56);
      sum.crumbs += static_cast<uint32_t>(((pairs >> 1 & kOnes) * kOnes) >> 56);
      sum.bits += static_cast<uint32_t>(((pairs & kOnes) * kOnes) >> 56);
    }
  }
  return sum;
}
/// Sum of the widths of all channels.
RILLKV_HOST_DEVICE inline int width_sum(const uint8_t* widths, int head_dim) {
  const PlaneCounts planes = planes_of_block(widths, head_dim);
  return static_cast<int>(4 * planes.nibbles + 2 * planes.crumbs + planes.bits);
}

/// Of a channel block whose widths have been written.
template <typename Byte>
struct ChannelPlanes {
  Planes<Byte> begin;  // those of channel_at(0)
  Byte* end;           // after the last plane
};
template <typename Byte>
RILLKV_HOST_DEVICE inline ChannelPlanes<Byte> channel_planes(Byte* block, int block_size,
                                                             int head_dim, bool symmetric) {
  const PlaneCounts all =
      planes_of_block(block + channel_widths_offset(head_dim, symmetric), head_dim);
  Byte* codes = block + channel_codes_offset(head_dim, symmetric);
  return {planes_at(codes, plane_offsets({}, all, block_size)),
          codes + codes_bytes(block_size, all)};
}

/// The planes of row `token` of a token block of `rows` rows.
template <typename Byte>
RILLKV_HOST_DEVICE inline Planes<Byte> token_planes(Byte* block, int rows, int token, int head_dim,
                                                    int groups, bool symmetric, int width) {
  const PlaneCounts row = planes_of(width);
  return planes_at(block + token_codes_offset(rows, groups, symmetric),
                   plane_offsets(static_cast<uint32_t>(token) * row,
                                 static_cast<uint32_t>(rows) * row, head_dim));
}

/// The planes of a trellis block: `path` and `b` are at those of channel_at(0) at first.
template <typename Byte>
struct TrellisPlanes {
  Byte* path;
  Planes<Byte> b;
};
/// Of a key block whose widths have been written.
template <typename Byte>
RILLKV_HOST_DEVICE inline TrellisPlanes<Byte> trellis_key_planes(Byte* block, int block_size,
                                                                 int head_dim) {
  const size_t path = trellis_key_path_offset(head_dim);
  const PlaneCounts all = planes_of_block(block + trellis_widths_offset(head_dim), head_dim, 1);
  return {block + path, planes_at(block + trellis_codes_offset(path, head_dim, block_size),
                                  plane_offsets({}, all, block_size))};
}
template <typename Byte>
RILLKV_HOST_DEVICE inline TrellisPlanes<Byte> trellis_value_planes(Byte* block, int block_size,
                                                                   int head_dim, int width,
                                                                   int wide_pairs) {
  const size_t path = trellis_value_path_offset(block_size);
  const PlaneCounts all = trellis_value_planes(head_dim / 2, width, wide_pairs);
  return {block + path, planes_at(block + trellis_codes_offset(path, head_dim, block_size),
                                  plane_offsets({}, all, block_size))};
}
/// On to the planes after those of a channel of `width` bits.
template <typename Byte>
RILLKV_HOST_DEVICE inline void advance(TrellisPlanes<Byte>& at, int count, int width) {
  at.path += plane_bytes(count, 1);
  advance(at.b, count, width - 1);
}

// ---- elements ----

/// Element `index` of a plane of `count` elements of `element_bits` bits.
RILLKV_HOST_DEVICE inline uint32_t plane_element(const uint8_t* plane, int index, int count,
                                                 int element_bits) {
  const int words = plane_words(count, element_bits);
  const uint32_t word = reinterpret_cast<const uint32_t*>(plane)[index % words];
  return (word >> (index / words * element_bits)) & ((1u << element_bits) - 1);
}

/// Code `index` of a channel (or row) of `count` codes.
RILLKV_HOST_DEVICE inline uint32_t code_at(const Planes<const uint8_t>& at, int width, int index,
                                           int count) {
  uint32_t code = 0;
  for (int n = 0; n < nibble_planes(width); ++n) {
    code = code << 4 | plane_element(at.nibbles + static_cast<size_t>(n) * plane_bytes(count, 4),
                                     index, count, 4);
  }
  if (crumb_planes(width) > 0) code = code << 2 | plane_element(at.crumbs, index, count, 2);
  if (bit_planes(width) > 0) code = code << 1 | plane_element(at.bits, index, count, 1);
  return code;
}

/// The bits of an element of a plane, as a constant.
template <int kBits>
struct ElementBits {
  RILLKV_HOST_DEVICE constexpr operator int() const { return kBits; }
};

/// Calls visit(plane, element_bits, shift) for the planes of a channel (or row) of `count` codes:
/// element i of the plane is bits shift .. shift + element_bits - 1 of code i. element_bits is an
/// ElementBits.
template <typename Byte, class Visit>
RILLKV_HOST_DEVICE inline void for_each_plane(const Planes<Byte>& at, int count, int width,
                                              const Visit& visit) {
  if (nibble_planes(width) > 0) visit(at.nibbles, ElementBits<4>(), nibble_shift(width));
  if (nibble_planes(width) > 1) {
    visit(at.nibbles + plane_bytes(count, 4), ElementBits<4>(), 0);
  }
  if (crumb_planes(width) > 0) visit(at.crumbs, ElementBits<2>(), crumb_shift(width));
  if (bit_planes(width) > 0) visit(at.bits, ElementBits<1>(), 0);
}

/// The planes of one channel (or row); moves on to the next.
RILLKV_HOST_DEVICE inline void pack_codes(const uint8_t* codes, int count, int width,
                                          Planes<uint8_t>& at) {
  for_each_plane(at, count, width, [&](uint8_t* plane, int element_bits, int shift) {
    uint32_t* words = reinterpret_cast<uint32_t*>(plane);
    const int word_count = plane_words(count, element_bits);
    const uint32_t mask = (1u << element_bits) - 1u;
    for (int i = 0; i < word_count; ++i) words[i] = 0;
    for (int k = 0; k * word_count < count; ++k) {
      const int begin = k * word_count;
      const int end = begin + word_count < count ? begin + word_count : count;
      for (int i = begin; i < end; ++i) {
        words[i - begin] |= ((static_cast<uint32_t>(codes[i]) >> shift) & mask)
                            << (element_bits * k);
      }
    }
  });
  advance(at, count, width);
}

RILLKV_HOST_DEVICE inline void unpack_codes(Planes<const uint8_t>& at, int count, int width,
                                            uint8_t* codes) {
  for (int i = 0; i < count; ++i) codes[i] = 0;
  for_each_plane(at, count, width, [&](const uint8_t* plane, int element_bits, int shift) {
    const uint32_t* words = reinterpret_cast<const uint32_t*>(plane);
    const int word_count = plane_words(count, element_bits);
    const uint32_t mask = (1u << element_bits) - 1u;
    for (int k = 0; k * word_count < count; ++k) {
      const int begin = k * word_count;
      const int end = begin + word_count < count ? begin + word_count : count;
      for (int i = begin; i < end; ++i) {
        const uint32_t part = (words[i - begin] >> (element_bits * k)) & mask;
        codes[i] = static_cast<uint8_t>(codes[i] | part << shift);
      }
    }
  });
  advance(at, count, width);
}

/// The levels of a trellis channel of `count` codes; moves on to the next.
RILLKV_HOST_DEVICE inline void unpack_levels(TrellisPlanes<const uint8_t>& at, int count, int width,
                                             uint8_t* levels) {
  const uint8_t* plane = at.path;
  at.path += plane_bytes(count, 1);
  unpack_codes(at.b, count, width - 1, levels);
  uint32_t path = 0;
  for (int i = 0; i < count; ++i) {
    path = path << 1 | plane_element(plane, i, count, 1);
    levels[i] = static_cast<uint8_t>(trellis_level(levels[i], path));
  }
}

}  // namespace rillkv::format
