#include "tests/reference/packed_block.h"

#include <array>
#include <cassert>
#include <cstddef>

#include "tests/reference/half.h"

namespace rillkv::reference {
namespace {

int64_t to_multiple(int64_t bytes, int64_t of) { return (bytes + of - 1) / of * of; }

// Element sizes in the order in which the planes follow each other.
constexpr std::array<int, 3> kElementBits = {4, 2, 1};

/// How many planes of this element size a code of `width` bits has.
int planes_of(int width, int element_bits) {
  switch (element_bits) {
    case 4:
      return width == 8 ? 2 : (width >= 4 ? 1 : 0);
    case 2:
      return width == 2 || width == 3 || width == 6 || width == 7 ? 1 : 0;
    default:
      return width % 2;
  }
}

/// Lowest code bit of that plane: the planes take the code's bits from the most significant down.
int lowest_bit(int width, int element_bits, int plane) {
  int bit = width;
  for (int bits : kElementBits) {
    for (int i = 0; i < planes_of(width, bits); ++i) {
      bit -= bits;
      if (bits == element_bits && i == plane) return bit;
    }
  }
  assert(false);
  return 0;
}

int64_t plane_size(int count, int element_bits) {
  return to_multiple(count * element_bits, 32) / 8;
}

/// Calls visit(byte, bit in that byte, bit of the code) for every bit of code `index` of one plane.
template <typename Visit>
void for_each_bit(int64_t plane_at, int count, int element_bits, int lowest, int index,
                  Visit&& visit) {
  const int words = static_cast<int>(plane_size(count, element_bits) / 4);
  const int word = index % words, element = index / words;
  for (int b = 0; b < element_bits; ++b) {
    const int bit = 32 * word + element_bits * element + b;
    visit(plane_at + bit / 8, bit % 8, lowest + b);
  }
}

/// Calls visit(row, index, byte, bit, code bit) for all codes of a block whose planes begin at
/// `codes_at`: all nibble planes row by row, then all crumb planes, then all bit planes.
template <typename Visit>
void for_each_code_bit(int64_t codes_at, const std::vector<int>& row_widths, int count,
                       Visit&& visit) {
  int64_t at = codes_at;
  for (int bits : kElementBits) {
    for (size_t row = 0; row < row_widths.size(); ++row) {
      for (int plane = 0; plane < planes_of(row_widths[row], bits); ++plane) {
        for (int index = 0; index < count; ++index) {
          for_each_bit(
              at, count, bits, lowest_bit(row_widths[row], bits, plane), index,
              [&](int64_t byte, int bit, int code_bit) { visit(row, index, byte, bit, code_bit); });
        }
        at += plane_size(count, bits);
      }
    }
  }
}

int64_t planes_size(const std::vector<int>& row_widths, int count) {
  int64_t size = 0;
  for (int bits : kElementBits) {
    for (int width : row_widths) size += planes_of(width, bits) * plane_size(count, bits);
  }
  return size;
}

uint16_t read16(const uint8_t* bytes, int64_t at) {
  return static_cast<uint16_t>(bytes[at] | bytes[at + 1] << 8);
}

void write16(std::vector<uint8_t>& bytes, int64_t at, uint16_t value) {
  bytes[static_cast<size_t>(at)] = static_cast<uint8_t>(value & 255);
  bytes[static_cast<size_t>(at) + 1] = static_cast<uint8_t>(value >> 8);
}

int64_t channel_codes_at(int head_dim, bool symmetric) {
  return to_multiple((symmetric ? 2 : 4) * head_dim + head_dim / 2, 64);
}

int64_t token_codes_at(int rows, int groups, bool symmetric) {
  return to_multiple(static_cast<int64_t>(symmetric ? 2 : 4) * groups * rows, 64);
}

void read_codes(const uint8_t* bytes, int64_t codes_at, const std::vector<int>& row_widths,
                int count, std::vector<std::vector<int>>& codes) {
  codes.assign(row_widths.size(), std::vector<int>(static_cast<size_t>(count), 0));
  for_each_code_bit(
      codes_at, row_widths, count, [&](size_t row, int index, int64_t byte, int bit, int code_bit) {
        codes[row][static_cast<size_t>(index)] |= (bytes[byte] >> bit & 1) << code_bit;
      });
}

void write_codes(std::vector<uint8_t>& bytes, int64_t codes_at, const std::vector<int>& row_widths,
                 int count, const std::vector<std::vector<int>>& codes) {
  for_each_code_bit(codes_at, row_widths, count,
                    [&](size_t row, int index, int64_t byte, int bit, int code_bit) {
                      const int value = codes[row][static_cast<size_t>(index)] >> code_bit & 1;
                      bytes[static_cast<size_t>(byte)] |= static_cast<uint8_t>(value << bit);
                    });
}

// The planes of a channel block are stored by pair: of the channels 0, D/2, 1, D/2 + 1, ...
template <typename T>
std::vector<T> channels_to_pairs(const std::vector<T>& channels) {
  std::vector<T> pairs;
  for (size_t p = 0; p < channels.size() / 2; ++p) {
    pairs.push_back(channels[p]);
    pairs.push_back(channels[p + channels.size() / 2]);
  }
  return pairs;
}

template <typename T>
std::vector<T> pairs_to_channels(const std::vector<T>& pairs) {
  std::vector<T> channels;
  for (size_t first : {0, 1}) {
    for (size_t i = first; i < pairs.size(); i += 2) channels.push_back(pairs[i]);
  }
  return channels;
}

void read_scales(const uint8_t* bytes, int64_t count, bool symmetric, PackedBlock& block) {
  for (int64_t i = 0; i < count; ++i) {
    if (!symmetric) block.lo.push_back(read16(bytes, 2 * i));
    block.step.push_back(read16(bytes, (symmetric ? 0 : 2 * count) + 2 * i));
  }
}

void write_scales(std::vector<uint8_t>& bytes, const PackedBlock& block, bool symmetric) {
  const auto count = static_cast<int64_t>(block.step.size());
  for (int64_t i = 0; i < count; ++i) {
    if (!symmetric) write16(bytes, 2 * i, block.lo[static_cast<size_t>(i)]);
    write16(bytes, (symmetric ? 0 : 2 * count) + 2 * i, block.step[static_cast<size_t>(i)]);
  }
}

double value_of(const PackedBlock& block, size_t scale, int code, int width, bool symmetric) {
  const double step = half_value(block.step[scale]);
  if (symmetric) return step * (code - (1 << (width - 1)));
  return half_value(block.lo[scale]) + step * code;
}

}  // namespace

int64_t channel_block_size(int block_size, const std::vector<int>& widths, bool symmetric) {
  const int head_dim = static_cast<int>(widths.size());
  return to_multiple(channel_codes_at(head_dim, symmetric) + planes_size(widths, block_size), 64);
}

int64_t token_block_size(int rows, int head_dim, int groups, bool symmetric, int width) {
  const std::vector<int> row_widths(static_cast<size_t>(rows), width);
  return to_multiple(token_codes_at(rows, groups, symmetric) + planes_size(row_widths, head_dim),
                     64);
}

PackedBlock read_channel_block(const uint8_t* bytes, int block_size, int head_dim, bool symmetric) {
  PackedBlock block;
  read_scales(bytes, head_dim, symmetric, block);
  const uint8_t* widths = bytes + (symmetric ? 2 : 4) * head_dim;
  for (int c = 0; c < head_dim; ++c) {
    const uint8_t both = widths[c % (head_dim / 2)];
    block.widths.push_back(c < head_dim / 2 ? both % 16 : both / 16);
  }
  read_codes(bytes, channel_codes_at(head_dim, symmetric), channels_to_pairs(block.widths),
             block_size, block.codes);
  block.codes = pairs_to_channels(block.codes);
  return block;
}

PackedBlock read_token_block(const uint8_t* bytes, int rows, int head_dim, int groups,
                             bool symmetric, int width) {
  PackedBlock block;
  read_scales(bytes, static_cast<int64_t>(groups) * rows, symmetric, block);
  block.widths = {width};
  const std::vector<int> row_widths(static_cast<size_t>(rows), width);
  read_codes(bytes, token_codes_at(rows, groups, symmetric), row_widths, head_dim, block.codes);
  return block;
}

std::vector<uint8_t> write_channel_block(const PackedBlock& block, int block_size, bool symmetric) {
  const int head_dim = static_cast<int>(block.widths.size());
  std::vector<uint8_t> bytes(
      static_cast<size_t>(channel_block_size(block_size, block.widths, symmetric)), 0);
  write_scales(bytes, block, symmetric);
  const auto widths_at = static_cast<size_t>((symmetric ? 2 : 4) * head_dim);
  const auto half = static_cast<size_t>(head_dim) / 2;
  for (size_t p = 0; p < half; ++p) {
    bytes[widths_at + p] = static_cast<uint8_t>(block.widths[p] + 16 * block.widths[p + half]);
  }
  write_codes(bytes, channel_codes_at(head_dim, symmetric), channels_to_pairs(block.widths),
              block_size, channels_to_pairs(block.codes));
  return bytes;
}

std::vector<uint8_t> write_token_block(const PackedBlock& block, int head_dim, int groups,
                                       bool symmetric) {
  const int rows = static_cast<int>(block.codes.size()), width = block.widths[0];
  std::vector<uint8_t> bytes(
      static_cast<size_t>(token_block_size(rows, head_dim, groups, symmetric, width)), 0);
  write_scales(bytes, block, symmetric);
  const std::vector<int> row_widths(static_cast<size_t>(rows), width);
  write_codes(bytes, token_codes_at(rows, groups, symmetric), row_widths, head_dim, block.codes);
  return bytes;
}

int64_t sink_rows_size(int tokens, int head_dim) {
  return to_multiple(int64_t{2} * tokens * head_dim, 64);
}

std::vector<uint8_t> write_sink_rows(const std::vector<std::vector<uint16_t>>& rows) {
  std::vector<uint8_t> bytes;
  for (const auto& row : rows) {
    for (uint16_t x : row) {
      bytes.push_back(static_cast<uint8_t>(x % 256));
      bytes.push_back(static_cast<uint8_t>(x / 256));
    }
  }
  bytes.resize(static_cast<size_t>(to_multiple(static_cast<int64_t>(bytes.size()), 64)), 0);
  return bytes;
}

std::vector<std::vector<double>> sink_row_values(const std::vector<std::vector<uint16_t>>& rows) {
  std::vector<std::vector<double>> values;
  for (const auto& row : rows) {
    values.emplace_back();
    for (uint16_t x : row) values.back().push_back(half_value(x));
  }
  return values;
}

int group_of(int channel, int groups, int head_dim) {
  int end = 0;
  for (int g = 0; g < groups; ++g) {
    end += head_dim / groups + (g < head_dim % groups ? 1 : 0);
    if (channel < end) return g;
  }
  assert(false);
  return 0;
}

std::vector<std::vector<double>> channel_block_values(const PackedBlock& block, bool symmetric) {
  const size_t tokens = block.codes[0].size(), head_dim = block.codes.size();
  std::vector<std::vector<double>> values(tokens, std::vector<double>(head_dim));
  for (size_t t = 0; t < tokens; ++t) {
    for (size_t c = 0; c < head_dim; ++c) {
      values[t][c] = value_of(block, c, block.codes[c][t], block.widths[c], symmetric);
    }
  }
  return values;
}

std::vector<std::vector<double>> token_block_values(const PackedBlock& block, int head_dim,
                                                    int groups, bool symmetric) {
  const size_t rows = block.codes.size();
  std::vector<std::vector<double>> values(rows, std::vector<double>(static_cast<size_t>(head_dim)));
  for (size_t t = 0; t < rows; ++t) {
    for (int c = 0; c < head_dim; ++c) {
      const size_t scale = static_cast<size_t>(group_of(c, groups, head_dim)) * rows + t;
      const auto channel = static_cast<size_t>(c);
      values[t][channel] =
          value_of(block, scale, block.codes[t][channel], block.widths[0], symmetric);
    }
  }
  return values;
}

}  // namespace rillkv::reference
