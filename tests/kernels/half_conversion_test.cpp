// The scalar 16-bit conversions against their definition.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "kernels/cpu/generic/half.h"
#include "tests/reference/half.h"

namespace rillkv::kernels::cpu {
namespace {

using reference::Direction;

TEST(HalfConversion, EveryPatternHasItsValue) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const double expected = reference::half_value(static_cast<uint16_t>(bits));
    const float actual = half_to_float(static_cast<uint16_t>(bits));
    if (std::isnan(expected)) {
      EXPECT_TRUE(std::isnan(actual)) << bits;
    } else {
      ASSERT_EQ(static_cast<double>(actual), expected) << bits;
      ASSERT_EQ(std::signbit(actual), std::signbit(expected)) << bits;
    }
  }
}

void expect_all_roundings(float x) {
  const double exact = static_cast<double>(x);
  ASSERT_EQ(float_to_half(x), reference::half_round(exact, Direction::kNearest)) << x;
  ASSERT_EQ(float_to_half(x, Rounding::kDown), reference::half_round(exact, Direction::kDown)) << x;
  ASSERT_EQ(float_to_half(x, Rounding::kUp), reference::half_round(exact, Direction::kUp)) << x;
}

TEST(HalfConversion, RoundsInEveryDirection) {
  std::mt19937 random(1);
  std::uniform_int_distribution<uint32_t> any;
  for (int i = 0; i < 300000; ++i) {
    const float x = float_from_bits(any(random));
    if (std::isfinite(x)) expect_all_roundings(x);
  }
}

TEST(HalfConversion, RoundsNumbersAtAndBesideEveryHalfWayPoint) {
  for (uint32_t bits = 0; bits + 1 < 0x7c00; bits += 7) {
    const double low = reference::half_value(static_cast<uint16_t>(bits));
    const double high = reference::half_value(static_cast<uint16_t>(bits + 1));
    const auto middle = static_cast<float>((low + high) / 2);  // exact in fp32
    for (float x : {static_cast<float>(low), std::nextafter(static_cast<float>(low), 1e9f), middle,
                    std::nextafter(middle, 0.0f), std::nextafter(middle, 1e9f)}) {
      expect_all_roundings(x);
      expect_all_roundings(-x);
    }
  }
}

TEST(HalfConversion, LimitsAndSpecialValues) {
  const float infinity = std::numeric_limits<float>::infinity();
  for (float x : {0.0f, -0.0f, 65504.0f, 65505.0f, 65519.9f, 65520.0f, 65536.0f, 1e30f, -65519.9f,
                  -65520.0f, -1e30f, 1e-30f, -1e-30f, 1e-45f}) {
    expect_all_roundings(x);
  }
  for (Rounding rounding : {Rounding::kNearestEven, Rounding::kDown, Rounding::kUp}) {
    EXPECT_EQ(float_to_half(infinity, rounding), 0x7c00);
    EXPECT_EQ(float_to_half(-infinity, rounding), 0xfc00);
    EXPECT_TRUE(std::isnan(
        half_to_float(float_to_half(std::numeric_limits<float>::quiet_NaN(), rounding))));
  }
}

TEST(BFloat16Conversion, RoundsToNearestEven) {
  std::mt19937 random(2);
  std::uniform_int_distribution<uint32_t> any;
  for (int i = 0; i < 300000; ++i) {
    const float x = float_from_bits(any(random));
    if (std::isnan(x)) {
      EXPECT_TRUE(std::isnan(bfloat16_to_float(float_to_bfloat16(x))));
    } else if (std::isnormal(x) && std::fabs(x) < 3e38f) {
      ASSERT_EQ(static_cast<double>(bfloat16_to_float(float_to_bfloat16(x))),
                reference::bfloat16_round(static_cast<double>(x)))
          << x;
    }
  }
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const double expected = reference::bfloat16_value(static_cast<uint16_t>(bits));
    const auto actual = static_cast<double>(bfloat16_to_float(static_cast<uint16_t>(bits)));
    ASSERT_TRUE(actual == expected || (std::isnan(actual) && std::isnan(expected))) << bits;
  }
}

}  // namespace
}  // namespace rillkv::kernels::cpu
