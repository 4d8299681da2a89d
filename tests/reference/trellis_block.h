// A slow reader of trellis blocks, written from the comment that describes the format and from
// nothing else: one bit at a time, the code as a machine of eight states.
#pragma once

#include <cstdint>
#include <vector>

namespace rillkv::reference {

/// 2^((index - 136) / 8), as blocks store steps and scales. To 2^-24 of itself what a block means.
double trellis_step(int index);

/// Bytes of blocks; widths: [head_dim / 2], of each pair.
int64_t trellis_key_size(int block_size, const std::vector<int>& widths);
int64_t trellis_value_size(int block_size, const std::vector<int>& widths);
/// Where the path planes begin, after zeros, steps and widths, or after the scales.
int64_t trellis_key_planes_at(int head_dim);
int64_t trellis_value_planes_at(int block_size);

/// Dequantised [tokens][head_dim], in double. The widths of a key block are read from it; those of
/// a value block are `width`, and one more for the pairs before wide_pairs.
std::vector<std::vector<double>> trellis_key_values(const uint8_t* bytes, int block_size,
                                                    int head_dim);
std::vector<std::vector<double>> trellis_value_values(const uint8_t* bytes, int block_size,
                                                      int head_dim, int width, int wide_pairs);

}  // namespace rillkv::reference
