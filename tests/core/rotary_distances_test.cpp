// The factors that turn queries' moments before RoPE into keys' Hessians, against the sum that they
// abbreviate.
#include "core/rotary_distances.h"

#include <gtest/gtest.h>

#include <cmath>

namespace rillkv {
namespace {

TEST(RotaryDistances, AreExpectationsOverDistances) {
  const std::vector<double> frequencies = {1.0, 0.31, 0.02, 1e-4};
  const auto table = rotary_distances(frequencies);
  const size_t pairs = frequencies.size();
  ASSERT_EQ(table->size(), pairs * pairs * 4);
  for (size_t a = 0; a < pairs; ++a) {
    for (size_t b = 0; b < pairs; ++b) {
      long double sums[4] = {}, total = 0;
      for (int d = 0; d < 1024; ++d) {
        const long double p = 1.0L / (d + 1);
        const long double apart = d * (static_cast<long double>(frequencies[a]) - frequencies[b]);
        const long double together =
            d * (static_cast<long double>(frequencies[a]) + frequencies[b]);
        sums[0] += p * std::cos(apart);
        sums[1] += p * std::sin(apart);
        sums[2] += p * std::cos(together);
        sums[3] += p * std::sin(together);
        total += p;
      }
      for (int i = 0; i < 4; ++i) {
        // One rounding to f32 of a number of at most 1, and 1024 roundings in double.
        EXPECT_NEAR((*table)[(a * pairs + b) * 4 + i], static_cast<double>(sums[i] / total),
                    std::ldexp(1.0, -25) + 1024 * std::ldexp(1.0, -52));
      }
    }
  }
}

TEST(RotaryDistances, AreSharedWhileSomeoneHasThem) {
  const std::vector<double> frequencies = {1.0, 0.5};
  const auto first = rotary_distances(frequencies);
  EXPECT_EQ(rotary_distances(frequencies), first);
  EXPECT_NE(rotary_distances({1.0, 0.25}), first);
}

}  // namespace
}  // namespace rillkv
