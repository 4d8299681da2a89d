#include "tests/reference/trellis_block.h"

#include <cmath>
#include <cstddef>

namespace rillkv::reference {
namespace {

int64_t to_multiple(int64_t bytes, int64_t of) { return (bytes + of - 1) / of * of; }

int bit_at(const uint8_t* bytes, int64_t plane_at, int64_t bit) {
  return bytes[plane_at + bit / 8] >> bit % 8 & 1;
}

/// Element `index` of a plane: element k of word i is index k W + i.
int element(const uint8_t* bytes, int64_t plane_at, int count, int element_bits, int index) {
  const int words = (count * element_bits + 31) / 32;
  int value = 0;
  for (int b = element_bits - 1; b >= 0; --b) {
    const int64_t bit = int64_t{32} * (index % words) + index / words * element_bits + b;
    value = 2 * value + bit_at(bytes, plane_at, bit);
  }
  return value;
}

/// How many elements of so many bits b has that a code of `width` bits keeps beside its path.
int planes_of_part(int width, int element_bits) { return (width - 1) / element_bits % 2; }

/// The new bit of a path and the two bits of the level that it decides: states are the last three
/// bits, the newest the lowest.
struct Machine {
  int state = 0;
  int step(int u) {
    const int newest = state & 1, middle = state >> 1 & 1, oldest = state >> 2 & 1;
    const int subset = 2 * ((u + newest + oldest) % 2) + middle;
    state = (2 * state + u) % 8;
    return subset;
  }
};

/// Levels [channel][token] of a block whose path planes begin at `at`; widths: of each pair.
std::vector<std::vector<int>> levels_of(const uint8_t* bytes, int64_t at, int block_size,
                                        const std::vector<int>& widths) {
  const int pairs = static_cast<int>(widths.size());
  std::vector<std::vector<int>> levels(2 * widths.size(),
                                       std::vector<int>(static_cast<size_t>(block_size)));
  const auto channel = [&](int position) {
    return static_cast<size_t>(position / 2 + position % 2 * pairs);
  };
  const auto plane_size = [&](int element_bits) {
    return to_multiple(int64_t{block_size} * element_bits, 32) / 8;
  };
  const int64_t path_at = at;
  at += 2 * pairs * plane_size(1);
  std::vector<std::vector<int>> part = levels;
  for (int bits : {4, 2, 1}) {
    for (int i = 0; i < 2 * pairs; ++i) {
      if (planes_of_part(widths[static_cast<size_t>(i / 2)], bits) == 0) continue;
      for (int t = 0; t < block_size; ++t) {
        int& b = part[channel(i)][static_cast<size_t>(t)];
        b = (b << bits) + element(bytes, at, block_size, bits, t);
      }
      at += plane_size(bits);
    }
  }
  for (int i = 0; i < 2 * pairs; ++i) {
    Machine machine;
    for (int t = 0; t < block_size; ++t) {
      const int u = element(bytes, path_at + i * plane_size(1), block_size, 1, t);
      levels[channel(i)][static_cast<size_t>(t)] =
          4 * part[channel(i)][static_cast<size_t>(t)] + machine.step(u);
    }
  }
  return levels;
}

int64_t size_of(int64_t planes_at, int block_size, const std::vector<int>& widths) {
  int64_t bits = 0;
  for (int w : widths) bits += int64_t{2} * w * block_size;
  return to_multiple(planes_at + bits / 8, 64);
}

}  // namespace

double trellis_step(int index) { return std::pow(2.0, (index - 136) / 8.0); }

int64_t trellis_key_planes_at(int head_dim) {
  return to_multiple(int64_t{3} * head_dim + head_dim / 2, 64);
}
int64_t trellis_value_planes_at(int block_size) { return to_multiple(block_size, 64); }

int64_t trellis_key_size(int block_size, const std::vector<int>& widths) {
  return size_of(trellis_key_planes_at(2 * static_cast<int>(widths.size())), block_size, widths);
}
int64_t trellis_value_size(int block_size, const std::vector<int>& widths) {
  return size_of(trellis_value_planes_at(block_size), block_size, widths);
}

std::vector<std::vector<double>> trellis_key_values(const uint8_t* bytes, int block_size,
                                                    int head_dim) {
  std::vector<int> widths;
  for (int p = 0; p < head_dim / 2; ++p) widths.push_back(bytes[3 * head_dim + p] & 15);
  const auto levels = levels_of(bytes, trellis_key_planes_at(head_dim), block_size, widths);
  std::vector<std::vector<double>> values(static_cast<size_t>(block_size));
  for (size_t t = 0; t < values.size(); ++t) {
    for (int c = 0; c < head_dim; ++c) {
      const auto zero = static_cast<int16_t>(bytes[2 * c] | bytes[2 * c + 1] << 8);
      values[t].push_back(trellis_step(bytes[2 * head_dim + c]) *
                          (zero + levels[static_cast<size_t>(c)][t]));
    }
  }
  return values;
}

std::vector<std::vector<double>> trellis_value_values(const uint8_t* bytes, int block_size,
                                                      int head_dim, int width, int wide_pairs) {
  std::vector<int> widths;
  for (int p = 0; p < head_dim / 2; ++p) widths.push_back(p < wide_pairs ? width + 1 : width);
  const auto levels = levels_of(bytes, trellis_value_planes_at(block_size), block_size, widths);
  std::vector<std::vector<double>> values(static_cast<size_t>(block_size));
  for (size_t t = 0; t < values.size(); ++t) {
    for (int c = 0; c < head_dim; ++c) {
      const int own = widths[static_cast<size_t>(c % (head_dim / 2))];
      const double centred = 2 * levels[static_cast<size_t>(c)][t] + 1 - std::ldexp(1.0, own + 1);
      values[t].push_back(trellis_step(bytes[t]) * centred *
                          (own > width ? std::pow(2.0, -7.0 / 8.0) : 1.0));
    }
  }
  return values;
}

}  // namespace rillkv::reference
