// Trellis blocks and the trellis search in double precision, written from the descriptions in
// packed_format.h and trellis.h and from nothing else.
#pragma once

#include <cstdint>
#include <vector>

namespace rillkv::reference {

/// 2^((i - 136) / 8).
double step8(int i);
/// The i of 0 .. 255 whose step8 is nearest to x in ratio; 0 unless x > 0.
int nearest8(double x);

/// What numbers are multiplied by before they are coded.
double trellis_gain(int width);

/// One channel: u and b of every token.
struct TrellisRow {
  std::vector<int> path, b;
};
/// Levels by the shift register of the code.
std::vector<int> trellis_levels(const TrellisRow& row);

/// sum of weights[t] * (v[t] - level[t])^2.
double trellis_cost(const std::vector<double>& v, const std::vector<double>& weights,
                    const std::vector<int>& levels);
/// The least cost of all paths: by trying every path, and by dynamic programming.
double least_cost_of_all_paths(const std::vector<double>& v, const std::vector<double>& weights,
                               int width);
double least_trellis_cost(const std::vector<double>& v, const std::vector<double>& weights,
                          int width);

/// What a key block (zeros, steps and widths by channel) or a value block (scales by token) stores.
/// rows: [head_dim] of block_size tokens.
struct TrellisBlock {
  std::vector<int> zeros, steps, widths, scales;
  std::vector<TrellisRow> rows;
};
std::vector<int> trellis_value_widths(int head_dim, int width, int wide_pairs);
TrellisBlock read_trellis_keys(const uint8_t* bytes, int block_size, int head_dim);
TrellisBlock read_trellis_values(const uint8_t* bytes, int block_size, int head_dim, int width,
                                 int wide_pairs);
/// The bytes of a block, padding included: of keys if it has zeros.
std::vector<uint8_t> write_trellis_block(const TrellisBlock& block, int block_size);
/// [token][channel], in double.
std::vector<std::vector<double>> trellis_key_values(const TrellisBlock& block);
std::vector<std::vector<double>> trellis_value_values(const TrellisBlock& block, int width);

/// Quantisation parameters that the definition allows for a key channel: (step, zero before
/// rounding), where x is known to `off`. More than one where that cannot tell candidates apart.
struct KeyChoice {
  int step;
  double zero;
};
std::vector<KeyChoice> key_choices(const std::vector<double>& x, double off, int width);
/// Scales that the definition allows for a token's values.
std::vector<int> scale_choices(const std::vector<double>& x, int width, int wide_pairs);

}  // namespace rillkv::reference
