// rillkv_expand_slice_*: blocks as dense fp16 against the packed bytes read in double.
#include <cmath>

#include "tests/cuda/slice_fixture.h"
#include "tests/reference/trellis_block.h"

namespace rillkv::test {
namespace {

namespace cuda = kernels::cuda;

/// Dequantised values of a packed block [token][channel], and what their fp16 arithmetic is off by
/// relative to: the largest |centre| + |unit| that the block's scale has there (expand_codes.cuh).
struct Decoded {
  std::vector<std::vector<double>> values, sizes;
};

/// Of trellis blocks the scale is centre and unit of fill_trellis.cuh.
Decoded decode_trellis(const std::vector<uint8_t>& bytes, const Shape& s, bool keys) {
  const auto D = static_cast<size_t>(s.head_dim), half = D / 2;
  Decoded result;
  result.values = keys ? reference::trellis_key_values(bytes.data(), s.block_size, s.head_dim)
                       : reference::trellis_value_values(bytes.data(), s.block_size, s.head_dim,
                                                         s.value_width, s.value_wide_pairs);
  for (size_t t = 0; t < static_cast<size_t>(s.block_size); ++t) {
    result.sizes.emplace_back();
    for (size_t c = 0; c < D; ++c) {
      const bool wide = c % half < static_cast<size_t>(s.value_wide_pairs);
      const int width = keys ? bytes[3 * D + c % half] & 15 : s.value_width + (wide ? 1 : 0);
      const double step = reference::trellis_step(keys ? bytes[2 * D + c] : bytes[t]);
      const int zero = static_cast<int16_t>(bytes[2 * c] | bytes[2 * c + 1] << 8);
      const double unit = std::ldexp(step, width);
      result.sizes.back().push_back(keys ? std::fabs(step * zero + unit) + unit : 2 * unit + step);
    }
  }
  return result;
}

Decoded decode(const std::vector<uint8_t>& bytes, const Shape& s, bool keys) {
  if (s.trellis) return decode_trellis(bytes, s, keys);
  const bool by_channel = keys || s.ema, symmetric = s.ema;
  const int D = s.head_dim, B = s.block_size;
  const auto block = by_channel ? reference::read_channel_block(bytes.data(), B, D, symmetric)
                                : reference::read_token_block(bytes.data(), B, D, s.value_groups,
                                                              false, s.value_bits);
  Decoded result;
  result.values = by_channel ? reference::channel_block_values(block, symmetric)
                             : reference::token_block_values(block, D, s.value_groups, false);
  for (int t = 0; t < B; ++t) {
    result.sizes.emplace_back();
    for (int c = 0; c < D; ++c) {
      const auto at =
          static_cast<size_t>(by_channel ? c : reference::group_of(c, s.value_groups, D) * B + t);
      const int width = by_channel ? block.widths[at] : s.value_bits;
      const double unit = half_of(block.step[at]) * std::ldexp(1.0, width - 1);
      const double centre = symmetric ? 0 : half_of(block.lo[at]) + unit;
      result.sizes.back().push_back(std::fabs(centre) + std::fabs(unit));
    }
  }
  return result;
}

/// The larger, or NaN.
double larger(double worst, double x) { return !(x <= worst) ? x : worst; }

class CudaExpandSlice : public ToleranceTest {
 protected:
  /// Blocks first .. first + blocks - 1 against the packed bytes.
  void check_expansion(const Shape& shape, int first, int blocks) {
    Scenario scenario(shape);
    DeviceScenario on_device(device(), scenario);
    DeviceQueue queue(device(), 1);
    const int D = shape.head_dim;
    const Slice slice(device(), shape.kv_heads, blocks, D);
    cuda::expand_slice(queue, on_device.params(), first, blocks, slice.keys.data(),
                       slice.values.data());
    const auto keys = slice.keys.to_vector(), values = slice.values.to_vector();
    double worst = 0;  // over tolerance
    for (int h = 0; h < shape.kv_heads; ++h) {
      for (int n = 0; n < blocks; ++n) {
        const Decoded k = decode(scenario.key_block(first + n, h), shape, true);
        const Decoded v = decode(scenario.value_block(first + n, h), shape, false);
        for (int j = 0; j < 128; ++j) {
          const size_t row = static_cast<size_t>(((h * blocks + n) * 128 + j) * D);
          const auto t = static_cast<size_t>(j);
          const int64_t position =
              shape.sink_capacity + 128 * (first + n) + j + shape.position_shift;
          for (int c = 0; c < D; ++c) {
            const auto at = row + static_cast<size_t>(c);
            // Scale and offset are rounded to fp16, and so is the sum of the product.
            const double value_error = std::fabs(half_of(values[at]) - v.values[t][size_t(c)]);
            worst = larger(worst, value_error / (2 * kHalfUnit * v.sizes[t][size_t(c)]));
            // Of S = the sizes of both channels: u and v each by three roundings of their factors
            // and two of sums, together at most 3; sqrt(2) times that after R(j), of which cosine
            // and sine bring half a unit each, the product and the sum of sqrt(2) S one and 1.5
            // more: less than 8 units.
            const int p = c % (D / 2);
            const double angle = double(position) * std::pow(10000.0, -2.0 * p / D);
            const double a = k.values[t][size_t(p)], b = k.values[t][size_t(p + D / 2)];
            const double exact = c < D / 2 ? a * std::cos(angle) - b * std::sin(angle)
                                           : b * std::cos(angle) + a * std::sin(angle);
            const double size = k.sizes[t][size_t(p)] + k.sizes[t][size_t(p + D / 2)];
            worst =
                larger(worst, std::fabs(2 * half_of(keys[at]) - exact) / (8 * kHalfUnit * size));
          }
        }
      }
    }
    EXPECT_TRUE(worst <= 1) << worst << " times the tolerance: " << shape;
    took(worst);
  }
};

TEST_P(CudaExpandSlice, SlicesAreThePackedBlocks) {
  under_every_order([&] {
    for (int head_dim : {64, 128}) {
      for (bool ema : {false, true}) {
        check_expansion({.heads = 2,
                         .kv_heads = 2,
                         .head_dim = head_dim,
                         .dtype = Dtype::kBFloat16,
                         .ema = ema,
                         .value_groups = head_dim / 64,
                         .blocks = 4,
                         .position_shift = 1000,
                         .seed = 200},
                        1, 2);
      }
    }
  });
}

TEST_P(CudaExpandSlice, SlicesOfEveryWidth) {
  for (int head_dim : {64, 128}) {
    for (int width = 1; width <= 8; ++width) {
      check_expansion({.heads = 1,
                       .head_dim = head_dim,
                       .dtype = Dtype::kBFloat16,
                       .key_widths = {width},
                       .value_bits = std::max(2, width),
                       .value_groups = head_dim == 128 && width % 2 == 0 ? 2 : 1,
                       .blocks = 1,
                       .seed = 210},
                      0, 1);
    }
    // Any two widths of policy "ema", channels apart.
    for (int width = 2; width < 8; ++width) {
      check_expansion({.heads = 1,
                       .head_dim = head_dim,
                       .dtype = Dtype::kFloat16,
                       .ema = true,
                       .key_widths = {width, 8},
                       .blocks = 1,
                       .seed = 211},
                      0, 1);
    }
  }
}

TEST_P(CudaExpandSlice, TrellisSlices) {
  under_every_order([&] {
    for (int head_dim : {64, 128}) {
      check_expansion({.heads = 2,
                       .kv_heads = 2,
                       .head_dim = head_dim,
                       .dtype = Dtype::kBFloat16,
                       .trellis = true,
                       .key_widths = {1, 2, 3, 4, 5, 6, 7},
                       .value_wide_pairs = head_dim / 2 - 9,
                       .blocks = 4,
                       .position_shift = 1000,
                       .seed = 205},
                      1, 2);
    }
  });
}

TEST_P(CudaExpandSlice, TrellisSlicesOfEveryWidth) {
  for (int head_dim : {64, 128}) {
    for (int width = 1; width <= 7; ++width) {
      for (int wide : {0, 1, head_dim / 4, head_dim / 2 - 1}) {
        if (wide > 0 && width == 7) continue;
        check_expansion({.heads = 1,
                         .head_dim = head_dim,
                         .dtype = Dtype::kBFloat16,
                         .trellis = true,
                         .key_widths = {width},
                         .value_width = width,
                         .value_wide_pairs = wide,
                         .blocks = 1,
                         .seed = 215},
                        0, 1);
      }
    }
  }
}

/// A tolerance that no wrong code exceeds would be none.
TEST_P(CudaExpandSlice, OneWrongCodeIsSeen) {
  const Shape shape = {.dtype = Dtype::kFloat16,
                       .key_widths = {4},
                       .sink_capacity = 0,
                       .sinks = 0,
                       .blocks = 1,
                       .tail = 0,
                       .queries = 40,
                       .query_deviation = 0.1,
                       .seed = 220};
  const size_t value_codes = 2 * 2 * 128, key_codes = (2 * 2 * 64 + 32 + 63) / 64 * 64;
  Scenario right(shape);
  const int D = shape.head_dim;
  for (bool keys : {false, true}) {
    Scenario wrong(shape);
    (keys ? wrong.key_block(0, 0)[key_codes] : wrong.value_block(0, 0)[value_codes]) ^= 8;
    int differ[2] = {};
    std::vector<uint16_t> slices[2][2];
    for (Scenario* scenario : {&right, &wrong}) {
      DeviceScenario on_device(device(), *scenario);
      DeviceQueue queue(device(), 1);
      const Slice slice(device(), 1, 1, D);
      cuda::expand_slice(queue, on_device.params(), 0, 1, slice.keys.data(), slice.values.data());
      slices[scenario == &wrong][0] = slice.keys.to_vector();
      slices[scenario == &wrong][1] = slice.values.to_vector();
    }
    for (int which : {0, 1}) {
      for (size_t i = 0; i < slices[0][which].size(); ++i) {
        const double change =
            std::fabs(half_of(slices[0][which][i]) - half_of(slices[1][which][i]));
        // Half of the code's eight steps, of sixteen that are at least 2 wide together.
        if (change > 0.05) ++differ[which];
      }
    }
    EXPECT_EQ(differ[0] > 0, keys);
    EXPECT_EQ(differ[1], keys ? 0 : 1);
  }
}

RILLKV_INSTANTIATE_FOR_EVERY_DEVICE(CudaExpandSlice);

}  // namespace
}  // namespace rillkv::test
