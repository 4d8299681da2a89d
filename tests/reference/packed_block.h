// A slow reader and writer of the packed format, written from the comment that describes the format
// and from nothing else: one bit field at a time.
#pragma once

#include <cstdint>
#include <vector>

namespace rillkv::reference {

/// What a block stores. Scales are indexed [scale], codes [row][element]: for a channel block a row
/// is a channel, an element a token and a scale a channel; for a token block a row is a token, an
/// element a channel and scale g * rows + t belongs to group g of token t.
struct PackedBlock {
  std::vector<uint16_t> lo;  // empty if symmetric
  std::vector<uint16_t> step;
  std::vector<int> widths;  // channel block: [head_dim]; token block: one entry
  std::vector<std::vector<int>> codes;
};

/// Bytes of a block with these widths.
int64_t channel_block_size(int block_size, const std::vector<int>& widths, bool symmetric);
int64_t token_block_size(int rows, int head_dim, int groups, bool symmetric, int width);

PackedBlock read_channel_block(const uint8_t* bytes, int block_size, int head_dim, bool symmetric);
PackedBlock read_token_block(const uint8_t* bytes, int rows, int head_dim, int groups,
                             bool symmetric, int width);

/// The bytes of a block, padding included.
std::vector<uint8_t> write_channel_block(const PackedBlock& block, int block_size, bool symmetric);
std::vector<uint8_t> write_token_block(const PackedBlock& block, int head_dim, int groups,
                                       bool symmetric);

/// Sinks of 16 bits: [tokens][head_dim] fp16 bit patterns, all of one length.
int64_t sink_rows_size(int tokens, int head_dim);
std::vector<uint8_t> write_sink_rows(const std::vector<std::vector<uint16_t>>& rows);
/// Their values, in double.
std::vector<std::vector<double>> sink_row_values(const std::vector<std::vector<uint16_t>>& rows);

/// The group that a channel belongs to: head_dim split into `groups` runs, earlier ones one longer.
int group_of(int channel, int groups, int head_dim);

/// Dequantised [tokens][head_dim], in double.
std::vector<std::vector<double>> channel_block_values(const PackedBlock& block, bool symmetric);
std::vector<std::vector<double>> token_block_values(const PackedBlock& block, int head_dim,
                                                    int groups, bool symmetric);

}  // namespace rillkv::reference
