// Quantisation as the design words it, one row of values at a time: a row is a channel of a block,
// or a group of channels of a token. The fp32 operations that byte identity prescribes are done in
// fp32, the 16-bit roundings by search (half.h).
#pragma once

#include <cstdint>
#include <vector>

namespace rillkv::reference {

struct QuantizedRow {
  uint16_t lo = 0;
  uint16_t step = 0;
  std::vector<int> codes;
  int64_t clipped = 0;
};

/// Between the row's own minimum and maximum.
QuantizedRow quantize_affine(const std::vector<float>& row, int width);

/// The same with a given range.
QuantizedRow quantize_affine(const std::vector<float>& row, float lo, float hi, int width);

/// The range shrunk about its middle by the best of seven factors (2-bit values).
QuantizedRow quantize_affine_clipped(const std::vector<float>& row, int width);

/// With the scale that `absmax` gives.
QuantizedRow quantize_symmetric(const std::vector<float>& row, float absmax, int width);

}  // namespace rillkv::reference
