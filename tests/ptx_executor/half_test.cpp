// f16 and bf16: every conversion and each instruction against a search through all values.
#include <bit>
#include <cmath>
#include <functional>
#include <numeric>

#include "tests/ptx_executor/exact_oracle.h"
#include "tests/ptx_executor/ptx_case.h"

namespace rillkv::ptx {
namespace {

constexpr size_t kRows = 4000;

struct Format {
  const char* name;
  const SmallFormat& (*table)();
};
const Format kFormats[] = {{"f16", half_format}, {"bf16", bfloat_format}};

std::vector<uint16_t> all_codes() {
  std::vector<uint16_t> codes(65536);
  std::iota(codes.begin(), codes.end(), uint16_t{0});
  return codes;
}

bool same_half(const SmallFormat& table, uint16_t got, uint16_t expected) {
  return table.is_nan(expected) ? got == SmallFormat::kNan : got == expected;
}

/// Floats around every kind of rounding boundary of both formats.
std::vector<float> floats_to_round() {
  std::mt19937_64 random(3);
  std::vector<float> values;
  for (size_t i = 0; i < 20000; ++i) values.push_back(std::bit_cast<float>(uint32_t(random())));
  for (const Format& format : kFormats) {
    for (size_t i = 0; i < 4000; ++i) {
      const auto code = static_cast<uint16_t>(random());
      if (format.table().is_nan(code) || (code & 0x7fff) >= format.table().infinity() - 1) continue;
      const auto x = static_cast<float>(format.table().value(code));
      const auto middle = static_cast<float>(
          (format.table().value(code) + format.table().value(static_cast<uint16_t>(code + 1))) / 2);
      for (const float v :
           {x, middle, std::nextafter(middle, INFINITY), std::nextafter(middle, -INFINITY)}) {
        values.push_back(v);
      }
    }
  }
  for (const float v : {65504.0f, 65519.0f, 65520.0f, 65536.0f, 3.4e38f, INFINITY, -INFINITY, NAN,
                        0.0f, -0.0f, 1e-8f, -1e-8f, 1e-45f}) {
    values.push_back(v);
  }
  return values;
}

TEST(PtxHalf, ConvertsFromEveryHalf) {
  const auto codes = all_codes();
  const auto got = run_rows<float>("cvt.f32.f16 %d, %a;", codes);
  const auto as_double = run_rows<double>("cvt.f64.f16 %d, %a;", codes);
  for (size_t i = 0; i < codes.size(); ++i) {
    if (half_format().is_nan(codes[i])) {
      ASSERT_TRUE(std::isnan(got[i]));
      continue;
    }
    ASSERT_EQ(Exact(got[i]), half_format().value(codes[i])) << codes[i];
    ASSERT_EQ(Exact(as_double[i]), half_format().value(codes[i])) << codes[i];
    ASSERT_EQ(std::signbit(got[i]), codes[i] >= 0x8000);
  }
}

TEST(PtxHalf, RoundsFloatsInEveryDirection) {
  const auto values = floats_to_round();
  const std::pair<const char*, Direction> modes[] = {{"rn", Direction::kNearestEven},
                                                     {"rz", Direction::kTowardsZero},
                                                     {"rm", Direction::kDown},
                                                     {"rp", Direction::kUp}};
  for (const Format& format : kFormats) {
    for (const auto& [mode, direction] : modes) {
      if (format.name[0] == 'b' && mode[1] != 'n' && mode[1] != 'z') continue;  // PTX has no others
      const auto got = run_rows<uint16_t>(
          std::string("cvt.") + mode + "." + format.name + ".f32 %d, %a;", values);
      for (size_t i = 0; i < values.size(); ++i) {
        const uint16_t expected =
            format.table().round(values[i], direction, std::signbit(values[i]));
        ASSERT_TRUE(same_half(format.table(), got[i], expected))
            << format.name << ' ' << mode << ' ' << values[i] << ": " << got[i] << " vs "
            << expected;
      }
    }
  }
}

TEST(PtxHalf, PacksPairsOfFloats) {
  const auto a = floats_to_round();
  std::vector<float> b(a.rbegin(), a.rend());
  for (const Format& format : kFormats) {
    const auto got =
        run_rows<uint32_t>(std::string("cvt.rn.") + format.name + "x2.f32 %d, %a, %b;", a, b);
    const auto relu =
        run_rows<uint32_t>(std::string("cvt.rn.relu.") + format.name + "x2.f32 %d, %a, %b;", a, b);
    for (size_t i = 0; i < a.size(); ++i) {
      const auto expected = [&](float x) {
        return format.table().round(x, Direction::kNearestEven, std::signbit(x));
      };
      // The first source goes to the upper half.
      ASSERT_TRUE(same_half(format.table(), uint16_t(got[i] >> 16), expected(a[i]))) << a[i];
      ASSERT_TRUE(same_half(format.table(), uint16_t(got[i]), expected(b[i]))) << b[i];
      const uint32_t clamped = relu[i] >> 16;
      ASSERT_TRUE(!(a[i] < 0) || (clamped & 0x7fff) == 0) << a[i];
      ASSERT_TRUE(!(a[i] > 0) || clamped == got[i] >> 16) << a[i];
    }
  }
}

using Function = std::function<Exact(Exact, Exact, Exact)>;

std::vector<uint32_t> random_pairs(uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<uint32_t> pairs(kRows);
  for (uint32_t& p : pairs) p = static_cast<uint32_t>(random());
  // Similar exponents too, so that sums cancel and round.
  for (size_t i = 0; i < kRows; i += 2) pairs[i] = (pairs[i] & 0x83ff83ffu) | 0x3c003c00u;
  return pairs;
}

void check_pairs(const std::string& name, const std::string& operands, const Function& exact) {
  const auto a = random_pairs(1), b = random_pairs(2), c = random_pairs(4);
  for (const Format& format : kFormats) {
    const SmallFormat& table = format.table();
    const std::string opcode = name + "." + format.name;
    const auto got = run_rows<uint32_t>(opcode + "x2 %d, " + operands + ";", a, b, c);
    const auto single = run_rows<uint32_t>(
        "mov.b32 {%rs0, _}, %a; mov.b32 {%rs1, _}, %b; mov.b32 {%rs2, _}, %c;\n" + opcode +
            " %rs3, " + (operands.size() > 6 ? "%rs0, %rs1, %rs2" : "%rs0, %rs1") +
            "; mov.b32 %d, {%rs3, 0};",
        a, b, c);
    for (size_t i = 0; i < kRows; ++i) {
      for (const int shift : {0, 16}) {
        const auto x = uint16_t(a[i] >> shift), y = uint16_t(b[i] >> shift),
                   z = uint16_t(c[i] >> shift);
        const bool nan =
            table.is_nan(x) || table.is_nan(y) || (operands.size() > 6 && table.is_nan(z));
        const Exact r = exact(table.value(x), table.value(y), table.value(z));
        const uint16_t expected = nan ? SmallFormat::kNan : table.round(r, Direction::kNearestEven);
        const auto found = uint16_t(got[i] >> shift);
        // The sign of an exact zero is checked with f32.
        const bool zero = !nan && r == 0;
        ASSERT_TRUE(zero ? (found & 0x7fff) == 0 : same_half(table, found, expected))
            << opcode << ' ' << x << ' ' << y << ' ' << z << ": " << found << " vs " << expected;
        ASSERT_TRUE(shift != 0 || uint16_t(single[i]) == found);
      }
    }
  }
}

TEST(PtxHalf, RoundsExactResultsOnce) {
  check_pairs("add.rn", "%a, %b", [](Exact x, Exact y, Exact) { return x + y; });
  check_pairs("sub.rn", "%a, %b", [](Exact x, Exact y, Exact) { return x - y; });
  check_pairs("mul.rn", "%a, %b", [](Exact x, Exact y, Exact) { return x * y; });
}

/// 113 bits do not hold x * y + z of every bf16 triple. What is lost (two-sum tells its sign) still
/// decides ties, so it moves the sum by less than any boundary's distance.
Exact multiply_add(Exact x, Exact y, Exact z) {
  const Exact product = x * y, sum = product + z, part = sum - product;
  const Exact lost = (product - (sum - part)) + (z - part);
  const Exact nudge = (sum < 0 ? -sum : sum) * static_cast<Exact>(0x1p-110);
  return lost > 0 ? sum + nudge : lost < 0 ? sum - nudge : sum;
}

TEST(PtxHalf, FusesMultiplyAndAdd) { check_pairs("fma.rn", "%a, %b, %c", multiply_add); }

TEST(PtxHalf, FmaBreaksTiesByTheSmallestTerm) {
  // (1 + 2^-7) * (1 + 2^-1) = 1.5 + 3 * 2^-8 lies midway between two bf16; a tiny third term
  // decides. In double it would vanish.
  const auto code = [](double x) {
    return uint32_t{bfloat_format().round(x, Direction::kNearestEven)};
  };
  const std::vector<uint32_t> a(3, code(1.0078125)), b(3, code(1.5));
  const std::vector<uint32_t> c = {code(0x1p-100), 0, code(-0x1p-100)};
  const auto got = run_rows<uint32_t>("fma.rn.bf16x2 %d, %a, %b, %c;", a, b, c);
  const double product = 1.0078125 * 1.5;
  EXPECT_EQ(got[0] & 0xffff, bfloat_format().round(product, Direction::kUp));
  EXPECT_EQ(got[2] & 0xffff, bfloat_format().round(product, Direction::kDown));
  EXPECT_EQ(got[1] & 0xffff, code(product));
}

TEST(PtxHalf, MinimumMaximumAndSigns) {
  const auto a = random_pairs(5), b = random_pairs(6);
  for (const Format& format : kFormats) {
    const SmallFormat& table = format.table();
    const std::string type = std::string(".") + format.name + "x2";
    const auto low = run_rows<uint32_t>("min" + type + " %d, %a, %b;", a, b);
    const auto high = run_rows<uint32_t>("max.NaN" + type + " %d, %a, %b;", a, b);
    const auto negated = run_rows<uint32_t>("neg" + type + " %d, %a;", a);
    const auto absolute = run_rows<uint32_t>("abs" + type + " %d, %a;", a);
    for (size_t i = 0; i < kRows; ++i) {
      EXPECT_EQ(negated[i], a[i] ^ 0x80008000u);
      EXPECT_EQ(absolute[i], a[i] & ~0x80008000u);
      const auto x = uint16_t(a[i]), y = uint16_t(b[i]);
      const bool x_nan = table.is_nan(x), y_nan = table.is_nan(y);
      if (x_nan || y_nan) {
        EXPECT_EQ(uint16_t(high[i]), SmallFormat::kNan);
        EXPECT_TRUE(same_half(table, uint16_t(low[i]), x_nan ? y : x));
        continue;
      }
      if (table.value(x) == table.value(y)) continue;
      const bool x_less = table.value(x) < table.value(y);
      EXPECT_EQ(uint16_t(low[i]), x_less ? x : y);
      EXPECT_EQ(uint16_t(high[i]), x_less ? y : x);
    }
  }
}

TEST(PtxHalf, ComparesValuesNotCodes) {
  const auto a = random_pairs(7), b = random_pairs(8);
  for (const Format& format : kFormats) {
    const SmallFormat& table = format.table();
    const auto got =
        run_rows<uint32_t>(std::string("mov.b32 {%rs0, _}, %a; mov.b32 {%rs1, _}, %b;\n"
                                       "setp.lt.") +
                               format.name + " %pr1, %rs0, %rs1; selp.b32 %d, 1, 0, %pr1;",
                           a, b);
    for (size_t i = 0; i < kRows; ++i) {
      const auto x = uint16_t(a[i]), y = uint16_t(b[i]);
      EXPECT_EQ(got[i] != 0,
                !table.is_nan(x) && !table.is_nan(y) && table.value(x) < table.value(y));
    }
  }
}

TEST(PtxHalf, Exponentials) {
  const auto codes = all_codes();
  const auto got = run_rows<uint16_t>("ex2.approx.f16 %d, %a;", codes);
  for (size_t i = 0; i < codes.size(); ++i) {
    if (half_format().is_nan(codes[i])) continue;
    const long double exact = exp2l(static_cast<long double>(half_format().value(codes[i])));
    const auto value = static_cast<long double>(half_format().value(got[i]));
    if (std::isinf(value)) {
      EXPECT_GT(exact, 65500.0L);
      continue;
    }
    // PTX: relative error 2^-9.9; below 2^-14 the spacing of subnormals adds half a step.
    EXPECT_TRUE(std::fabs(value - exact) <= 0x1p-9L * exact + 0x1p-25L) << codes[i];
  }
}

}  // namespace
}  // namespace rillkv::ptx
