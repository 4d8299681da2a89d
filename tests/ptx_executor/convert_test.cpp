// cvt between integers, floats and doubles. (Half formats: half_test.cpp.)
#include <cmath>
#include <limits>

#include "tests/ptx_executor/exact_oracle.h"
#include "tests/ptx_executor/ptx_case.h"

namespace rillkv::ptx {
namespace {

constexpr size_t kRows = 2000;

TEST(PtxConvert, CutsAndExtendsIntegers) {
  const auto a = interesting_integers<uint32_t>(kRows, 1);
  const auto w = interesting_integers<uint64_t>(kRows, 2);
  const auto s8 = run_rows<uint32_t>("cvt.s32.s8 %d, %a;", a);
  const auto u8 = run_rows<uint32_t>("cvt.u32.u8 %d, %a;", a);
  const auto s16 = run_rows<uint64_t>("cvt.s64.s16 %d, %a;", a);
  const auto s64 = run_rows<uint64_t>("cvt.s64.s32 %d, %a;", a);
  const auto u64 = run_rows<uint64_t>("cvt.u64.u32 %d, %a;", a);
  const auto low = run_rows<uint32_t>("cvt.u32.u64 %d, %a;", w);
  const auto half = run_rows<uint16_t>("cvt.u16.u64 %d, %a;", w);
  const auto byte = run_rows<uint16_t>("cvt.s16.s8 %d, %a;", a);
  const auto cut = run_rows<uint32_t>("cvt.u8.u32 %d, %a;", a);  // a register holds 8 bits extended
  for (size_t i = 0; i < kRows; ++i) {
    const int64_t low_byte = a[i] % 256, low_half = a[i] % 65536;
    EXPECT_EQ(s8[i], static_cast<uint32_t>(low_byte > 127 ? low_byte - 256 : low_byte));
    EXPECT_EQ(u8[i], static_cast<uint32_t>(low_byte));
    EXPECT_EQ(cut[i], static_cast<uint32_t>(low_byte));
    EXPECT_EQ(byte[i], static_cast<uint16_t>(low_byte > 127 ? low_byte - 256 : low_byte));
    EXPECT_EQ(s16[i], static_cast<uint64_t>(low_half > 32767 ? low_half - 65536 : low_half));
    EXPECT_EQ(s64[i], static_cast<uint64_t>(int64_t{a[i]} - (a[i] >> 31 != 0 ? 4294967296 : 0)));
    EXPECT_EQ(u64[i], uint64_t{a[i]});
    EXPECT_EQ(low[i], w[i] % 4294967296u);
    EXPECT_EQ(half[i], w[i] % 65536);
  }
}

TEST(PtxConvert, ClampsIntegers) {
  const auto a = interesting_integers<int32_t>(kRows, 3);
  const auto s8 = run_rows<int32_t>("cvt.sat.s8.s32 %d, %a;", a);
  const auto u8 = run_rows<int32_t>("cvt.sat.u8.s32 %d, %a;", a);
  const auto u16 = run_rows<int32_t>("cvt.sat.u16.s32 %d, %a;", a);
  const auto from_unsigned = run_rows<int32_t>("cvt.sat.s32.u32 %d, %a;", a);
  for (size_t i = 0; i < kRows; ++i) {
    const auto within = [&](int64_t low, int64_t high) {
      return a[i] < low ? low : a[i] > high ? high : a[i];
    };
    EXPECT_EQ(s8[i], within(-128, 127));
    EXPECT_EQ(u8[i], within(0, 255));
    EXPECT_EQ(u16[i], within(0, 65535));
    EXPECT_EQ(from_unsigned[i], a[i] < 0 ? std::numeric_limits<int32_t>::max() : a[i]);
  }
}

TEST(PtxConvert, IntegersToFloats) {
  const auto a = interesting_integers<int32_t>(kRows, 4);
  const auto w = interesting_integers<int64_t>(kRows, 5);
  const std::pair<const char*, Direction> modes[] = {{"rn", Direction::kNearestEven},
                                                     {"rz", Direction::kTowardsZero},
                                                     {"rm", Direction::kDown},
                                                     {"rp", Direction::kUp}};
  for (const auto& [mode, direction] : modes) {
    const std::string opcode = std::string("cvt.") + mode + ".f32.";
    const auto from_signed = run_rows<float>(opcode + "s32 %d, %a;", a);
    const auto from_unsigned = run_rows<float>(opcode + "u32 %d, %a;", a);
    const auto from_byte = run_rows<float>(opcode + "s8 %d, %a;", a);
    for (size_t i = 0; i < kRows; ++i) {
      ASSERT_TRUE(is_rounded_float(from_signed[i], a[i], direction)) << mode << ' ' << a[i];
      ASSERT_TRUE(is_rounded_float(from_unsigned[i], static_cast<uint32_t>(a[i]), direction));
      ASSERT_EQ(from_byte[i], static_cast<float>(static_cast<int8_t>(a[i])));
    }
  }
  const auto wide = run_rows<float>("cvt.rn.f32.s64 %d, %a;", w);
  const auto wide_unsigned = run_rows<float>("cvt.rn.f32.u64 %d, %a;", w);
  const auto exact = run_rows<double>("cvt.rn.f64.s32 %d, %a;", a);
  const auto half = run_rows<uint16_t>("cvt.rn.f16.s32 %d, %a;", a);
  for (size_t i = 0; i < kRows; ++i) {
    ASSERT_TRUE(is_rounded_float(wide[i], w[i], Direction::kNearestEven)) << w[i];
    ASSERT_TRUE(
        is_rounded_float(wide_unsigned[i], static_cast<uint64_t>(w[i]), Direction::kNearestEven));
    ASSERT_EQ(exact[i], a[i]);
    ASSERT_EQ(half[i], half_format().round(a[i], Direction::kNearestEven));
  }
}

std::vector<float> floats_near_integers() {
  std::mt19937_64 random(6);
  std::vector<float> values = {0.0f,     -0.0f,         0.5f,         1.5f,   2.5f,   -0.5f,
                               -1.5f,    -2.5f,         1e10f,        -1e10f, 3e19f,  -3e19f,
                               INFINITY, -INFINITY,     NAN,          255.5f, 254.5f, 127.5f,
                               -128.5f,  2147483520.0f, 4294967040.0f};
  while (values.size() < kRows) {
    const auto bits = static_cast<int64_t>(random());
    values.push_back(static_cast<float>(bits >> 40) / static_cast<float>(1 << (random() % 24)));
  }
  return values;
}

/// The integer that x rounds to, found by comparing: nearbyint and its like are not asked.
Exact to_integral(Exact x, char mode) {
  const Exact truncated = static_cast<Exact>(static_cast<__int128>(x));
  const Exact rest = x - truncated;
  switch (mode) {
    case 'm':
      return rest < 0 ? truncated - 1 : truncated;
    case 'p':
      return rest > 0 ? truncated + 1 : truncated;
    case 'n': {
      const Exact away = truncated + (x < 0 ? -1 : 1);
      const Exact size = rest < 0 ? -rest : rest;
      const bool odd = static_cast<__int128>(truncated) % 2 != 0;
      return size > 0.5 || (size == 0.5 && odd) ? away : truncated;
    }
    default:
      return truncated;
  }
}

template <typename T>
void check_to_integer(const std::string& type) {
  const auto values = floats_near_integers();
  for (const char mode : {'n', 'z', 'm', 'p'}) {
    const std::string lines = std::string("cvt.r") + mode + "i." + type + ".f32 " +
                              (sizeof(T) == 8 ? "%d" : "%r5") + ", %a;" +
                              (sizeof(T) == 8   ? ""
                               : sizeof(T) == 4 ? " mov.b32 %d, %r5;"
                                                : "");
    std::vector<T> got;
    if constexpr (sizeof(T) >= 4) {
      got = run_rows<T>(lines, values);
    } else {
      for (const uint32_t x :
           run_rows<uint32_t>(std::string("cvt.r") + mode + "i." + type + ".f32 %d, %a;", values)) {
        got.push_back(static_cast<T>(x));
      }
    }
    for (size_t i = 0; i < values.size(); ++i) {
      T expected = 0;  // of NaN
      if (std::isinf(values[i]) || std::fabs(values[i]) > 1e30f) {
        expected = values[i] > 0 ? std::numeric_limits<T>::max() : std::numeric_limits<T>::min();
      } else if (!std::isnan(values[i])) {
        const Exact whole = to_integral(values[i], mode);
        const Exact low = std::numeric_limits<T>::min(), high = std::numeric_limits<T>::max();
        expected = static_cast<T>(whole < low ? low : whole > high ? high : whole);
      }
      ASSERT_EQ(got[i], expected) << lines << ' ' << values[i];
    }
  }
}

TEST(PtxConvert, FloatsToIntegersSaturate) {
  check_to_integer<int32_t>("s32");
  check_to_integer<uint32_t>("u32");
  check_to_integer<int64_t>("s64");
  check_to_integer<uint64_t>("u64");
  check_to_integer<uint8_t>("u8");
  check_to_integer<int16_t>("s16");
}

TEST(PtxConvert, FloatsToIntegralFloats) {
  const auto values = floats_near_integers();
  for (const char mode : {'n', 'z', 'm', 'p'}) {
    const auto got = run_rows<float>(std::string("cvt.r") + mode + "i.f32.f32 %d, %a;", values);
    for (size_t i = 0; i < values.size(); ++i) {
      if (!(std::fabs(values[i]) < 1e30f)) continue;
      EXPECT_EQ(Exact(got[i]), to_integral(values[i], mode)) << mode << ' ' << values[i];
    }
  }
}

TEST(PtxConvert, BetweenFloatAndDouble) {
  std::mt19937_64 random(7);
  std::vector<double> wide(kRows);
  for (double& x : wide) x = std::ldexp(double(random() >> 11), int(random() % 300) - 200);
  wide[0] = 1e300, wide[1] = -1e300, wide[2] = 1e-320, wide[3] = -1e-46, wide[4] = 0;
  const std::pair<const char*, Direction> modes[] = {{"rn", Direction::kNearestEven},
                                                     {"rz", Direction::kTowardsZero},
                                                     {"rm", Direction::kDown},
                                                     {"rp", Direction::kUp}};
  for (const auto& [mode, direction] : modes) {
    const auto got = run_rows<float>(std::string("cvt.") + mode + ".f32.f64 %d, %a;", wide);
    for (size_t i = 0; i < kRows; ++i) {
      ASSERT_TRUE(is_rounded_float(got[i], wide[i], direction)) << mode << ' ' << wide[i];
    }
  }
  const std::vector<float> narrow = floats_near_integers();
  const auto got = run_rows<double>("cvt.f64.f32 %d, %a;", narrow);
  const auto clamped = run_rows<float>("cvt.sat.f32.f32 %d, %a;", narrow);
  for (size_t i = 0; i < narrow.size(); ++i) {
    EXPECT_TRUE(got[i] == narrow[i] || (std::isnan(got[i]) && std::isnan(narrow[i])));
    EXPECT_EQ(clamped[i], narrow[i] > 1 ? 1.0f : narrow[i] > 0 ? narrow[i] : 0.0f);
  }
}

}  // namespace
}  // namespace rillkv::ptx
