// f32 and f64 arithmetic against exact 113-bit results, in every rounding direction.
#include <bit>
#include <cmath>
#include <functional>
#include <limits>

#include "tests/ptx_executor/exact_oracle.h"
#include "tests/ptx_executor/ptx_case.h"

namespace rillkv::ptx {
namespace {

constexpr size_t kRows = 3000;

/// Floats of exponents -30 .. 30 with full significands (so that 113 bits hold any product and sum
/// of three exactly), simple fractions, and the special values.
std::vector<float> interesting_floats(uint64_t seed, bool special = true) {
  std::mt19937_64 random(seed);
  const float edges[] = {0.0f, -0.0f, 1.0f, -1.0f, 0.5f, 3.0f, INFINITY, -INFINITY, NAN};
  const size_t count = special ? std::size(edges) : 6;
  std::vector<float> values(kRows);
  for (float& v : values) {
    const uint64_t bits = random();
    if (bits % 8 == 0) {
      v = edges[(bits >> 8) % count];
    } else if (bits % 8 == 1) {
      v = static_cast<float>(static_cast<int>(bits >> 8 & 15) - 8) / 4;
    } else {
      v = std::ldexp(1.0f + static_cast<float>(bits >> 16 & 0x7fffff) / 8388608.0f,
                     static_cast<int>(bits >> 48 & 63) - 31) *
          ((bits >> 3 & 1) != 0 ? -1.0f : 1.0f);
    }
  }
  return values;
}

struct Mode {
  const char* name;
  Direction direction;
};
const Mode kModes[] = {{"rn", Direction::kNearestEven},
                       {"rz", Direction::kTowardsZero},
                       {"rm", Direction::kDown},
                       {"rp", Direction::kUp}};

using Function = std::function<Exact(Exact, Exact, Exact)>;

void check_rounded(const std::string& name, const std::string& operands, const Function& exact) {
  const auto a = interesting_floats(1), b = interesting_floats(2), c = interesting_floats(3);
  for (const Mode& mode : kModes) {
    const auto got =
        run_rows<float>(name + "." + mode.name + ".f32 %d, " + operands + ";", a, b, c);
    for (size_t i = 0; i < kRows; ++i) {
      const Exact expected = exact(a[i], b[i], c[i]);
      ASSERT_TRUE(is_rounded_float(got[i], expected, mode.direction))
          << name << '.' << mode.name << " of " << a[i] << ", " << b[i] << ", " << c[i] << ": "
          << got[i] << ", expected about " << static_cast<double>(expected);
    }
  }
}

TEST(PtxFloat, RoundsExactResultsOnce) {
  check_rounded("add", "%a, %b", [](Exact x, Exact y, Exact) { return x + y; });
  check_rounded("sub", "%a, %b", [](Exact x, Exact y, Exact) { return x - y; });
  check_rounded("mul", "%a, %b", [](Exact x, Exact y, Exact) { return x * y; });
  check_rounded("fma", "%a, %b, %c", [](Exact x, Exact y, Exact z) { return x * y + z; });
  // A quotient of two floats that 113 bits do not hold is no boundary case of a float either.
  check_rounded("div", "%a, %b", [](Exact x, Exact y, Exact) { return x / y; });
  check_rounded("rcp", "%a", [](Exact x, Exact, Exact) { return 1 / x; });
}

TEST(PtxFloat, RoundsSquareRoots) {
  const auto a = interesting_floats(4);
  for (const Mode& mode : kModes) {
    const auto got = run_rows<float>(std::string("sqrt.") + mode.name + ".f32 %d, %a;", a);
    for (size_t i = 0; i < kRows; ++i) {
      if (!(a[i] >= 0)) {
        EXPECT_TRUE(std::isnan(got[i])) << a[i];
        continue;
      }
      if (a[i] == 0 || std::isinf(a[i])) {
        EXPECT_EQ(got[i], a[i]);
        continue;
      }
      // r is right if a lies between the squares of r and its neighbour on the right side.
      const Exact x = a[i], r = got[i];
      const Exact up = std::nextafter(got[i], INFINITY), down = std::nextafter(got[i], 0.0f);
      switch (mode.direction) {
        case Direction::kUp:
          EXPECT_TRUE(down * down < x && x <= r * r) << a[i];
          break;
        case Direction::kDown:
        case Direction::kTowardsZero:
          EXPECT_TRUE(r * r <= x && x < up * up) << a[i];
          break;
        case Direction::kNearestEven: {
          const Exact high = (r + up) / 2, low = (r + down) / 2;
          EXPECT_TRUE(low * low <= x && x <= high * high) << a[i];
        }
      }
    }
  }
}

TEST(PtxFloat, SignsOfZeros) {
  const std::vector<float> a = {0.0f, -0.0f, -0.0f, 1.5f, -1.5f},
                           b = {0.0f, 0.0f, -0.0f, -1.5f, 1.5f};
  const auto down = run_rows<float>("add.rm.f32 %d, %a, %b;", a, b);
  const auto nearest = run_rows<float>("add.f32 %d, %a, %b;", a, b);
  const auto difference = run_rows<float>("sub.rm.f32 %d, %a, %b;", a, b);
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(std::signbit(nearest[i]), i == 2) << i;
    EXPECT_EQ(std::signbit(down[i]), i != 0) << i;
    EXPECT_TRUE(i >= 3 || std::signbit(difference[i])) << i;
  }
  const auto smallest = run_rows<float>("min.f32 %d, %a, %b;", a, b);
  const auto largest = run_rows<float>("max.f32 %d, %a, %b;", a, b);
  EXPECT_TRUE(std::signbit(smallest[1]));
  EXPECT_FALSE(std::signbit(largest[1]));
}

TEST(PtxFloat, NansAreCanonical) {
  const std::vector<float> a = {std::bit_cast<float>(0x7fc12345u), INFINITY, 0.0f};
  const std::vector<float> b = {1.0f, -INFINITY, INFINITY};
  for (const char* lines : {"add.f32 %d, %a, %b; mov.b32 %r5, %d;", "fma.rn.f32 %d, %a, %b, %a;"}) {
    for (const float x : run_rows<float>(lines, a, b)) {
      EXPECT_TRUE(x == x || std::bit_cast<uint32_t>(x) == 0x7fffffffu);
    }
  }
  EXPECT_TRUE(std::isnan(run_rows<float>("mul.f32 %d, %a, %b;", a, b)[2]));
}

TEST(PtxFloat, MinimumAndMaximumDropNans) {
  const auto a = interesting_floats(5), b = interesting_floats(6);
  const auto low = run_rows<float>("min.f32 %d, %a, %b;", a, b);
  const auto high = run_rows<float>("max.f32 %d, %a, %b;", a, b);
  const auto strict = run_rows<float>("max.NaN.f32 %d, %a, %b;", a, b);
  for (size_t i = 0; i < kRows; ++i) {
    if (std::isnan(a[i]) && std::isnan(b[i])) {
      EXPECT_TRUE(std::isnan(low[i]) && std::isnan(high[i]));
    } else {
      EXPECT_EQ(low[i], std::fmin(a[i], b[i]));
      EXPECT_EQ(high[i], std::fmax(a[i], b[i]));
    }
    EXPECT_EQ(std::isnan(strict[i]), std::isnan(a[i]) || std::isnan(b[i]));
  }
}

TEST(PtxFloat, FlushesAndSaturates) {
  const float tiny = std::numeric_limits<float>::denorm_min() * 100;
  const std::vector<float> a = {tiny, -tiny, 1e-30f, 0.25f, 3.0f, NAN, -2.0f};
  const std::vector<float> b = {1e30f, 1e30f, 1e-10f, 2.0f, 2.0f, 1.0f, 1.0f};
  const auto flushed = run_rows<float>("mul.ftz.f32 %d, %a, %b;", a, b);
  const auto kept = run_rows<float>("mul.f32 %d, %a, %b;", a, b);
  const auto clamped = run_rows<float>("mul.sat.f32 %d, %a, %b;", a, b);
  EXPECT_EQ(flushed[0], 0.0f);
  EXPECT_TRUE(flushed[1] == 0.0f && std::signbit(flushed[1]));
  EXPECT_EQ(flushed[2], 0.0f);  // the result is subnormal
  EXPECT_GT(kept[0], 0.0f);
  EXPECT_GT(kept[2], 0.0f);
  EXPECT_EQ(clamped[3], 0.5f);
  EXPECT_EQ(clamped[4], 1.0f);
  EXPECT_EQ(clamped[5], 0.0f);
  EXPECT_EQ(clamped[6], 0.0f);
  const auto compared = run_rows<float>(
      "setp.gt.ftz.f32 %pr1, %a, 0f00000000; selp.f32 %d, 0f3F800000, 0f00000000, %pr1;", a);
  EXPECT_EQ(compared[0], 0.0f);
  EXPECT_EQ(compared[2], 1.0f);
}

TEST(PtxFloat, ChangesSigns) {
  const auto a = interesting_floats(7), b = interesting_floats(8);
  const auto negated = run_rows<float>("neg.f32 %d, %a;", a);
  const auto absolute = run_rows<float>("abs.f32 %d, %a;", a);
  const auto copied = run_rows<float>("copysign.f32 %d, %a, %b;", a, b);
  for (size_t i = 0; i < kRows; ++i) {
    if (std::isnan(a[i]) || std::isnan(b[i])) continue;
    EXPECT_EQ(negated[i], 0 - a[i]);
    EXPECT_EQ(absolute[i], a[i] < 0 ? -a[i] : a[i]);
    EXPECT_EQ(std::fabs(copied[i]), std::fabs(b[i]));
    EXPECT_EQ(std::signbit(copied[i]), std::signbit(a[i]));
  }
}

TEST(PtxFloat, ComparesNansAsUnordered) {
  const auto a = interesting_floats(9), b = interesting_floats(10);
  const std::pair<const char*, std::function<bool(float, float)>> cases[] = {
      {"eq", [](float x, float y) { return x == y; }},
      {"ne", [](float x, float y) { return std::islessgreater(x, y); }},
      {"lt", [](float x, float y) { return std::isless(x, y); }},
      {"le", [](float x, float y) { return std::islessequal(x, y); }},
      {"gt", [](float x, float y) { return std::isgreater(x, y); }},
      {"ge", [](float x, float y) { return std::isgreaterequal(x, y); }},
      {"equ", [](float x, float y) { return std::isunordered(x, y) || x == y; }},
      {"neu", [](float x, float y) { return std::isunordered(x, y) || x != y; }},
      {"ltu", [](float x, float y) { return std::isunordered(x, y) || x < y; }},
      {"leu", [](float x, float y) { return std::isunordered(x, y) || x <= y; }},
      {"gtu", [](float x, float y) { return std::isunordered(x, y) || x > y; }},
      {"geu", [](float x, float y) { return std::isunordered(x, y) || x >= y; }},
      {"num", [](float x, float y) { return !std::isunordered(x, y); }},
      {"nan", [](float x, float y) { return std::isunordered(x, y); }}};
  for (const auto& [name, expected] : cases) {
    const auto got = run_rows<uint32_t>(
        std::string("setp.") + name + ".f32 %pr1, %a, %b; selp.b32 %d, 1, 0, %pr1;", a, b);
    const auto set = run_rows<uint32_t>(std::string("set.") + name + ".u32.f32 %d, %a, %b;", a, b);
    for (size_t i = 0; i < kRows; ++i) {
      EXPECT_EQ(got[i] != 0, expected(a[i], b[i])) << name << ' ' << a[i] << ' ' << b[i];
      EXPECT_EQ(set[i], got[i] != 0 ? ~0u : 0u);
    }
  }
}

// The bounds are those of the PTX manual; long double functions are the expectation.
TEST(PtxFloat, ApproximatesWithinPtxBounds) {
  const auto a = interesting_floats(11, false), b = interesting_floats(12, false);
  struct Case {
    const char* lines;
    long double (*exact)(long double, long double);
    bool (*applies)(float, float);
    long double relative, absolute;
  };
  const auto any = [](float, float) { return true; };
  const Case cases[] = {
      {"ex2.approx.ftz.f32 %d, %a;", [](long double x, long double) { return exp2l(x); },
       [](float x, float) { return std::fabs(x) < 100; }, 0x1p-22L, 0},
      {"lg2.approx.f32 %d, %a;", [](long double x, long double) { return log2l(x); },
       [](float x, float) { return x > 0; }, 0x1p-22L, 0x1p-22L},
      {"rcp.approx.ftz.f32 %d, %a;", [](long double x, long double) { return 1 / x; },
       [](float x, float) { return x != 0; }, 0x1p-23L, 0},
      {"rsqrt.approx.f32 %d, %a;", [](long double x, long double) { return 1 / sqrtl(x); },
       [](float x, float) { return x > 0; }, 0x1p-22L, 0},
      {"sqrt.approx.f32 %d, %a;", [](long double x, long double) { return sqrtl(x); },
       [](float x, float) { return x >= 0; }, 0x1p-23L, 0},
      {"div.approx.f32 %d, %a, %b;", [](long double x, long double y) { return x / y; },
       [](float, float y) { return y != 0; }, 0x1p-22L, 0},
      {"div.full.f32 %d, %a, %b;", [](long double x, long double y) { return x / y; },
       [](float, float y) { return y != 0; }, 0x1p-22L, 0},
      {"sin.approx.f32 %d, %a;", [](long double x, long double) { return sinl(x); },
       [](float x, float) { return std::fabs(x) < 3; }, 0, 0x1p-20L},
      {"cos.approx.f32 %d, %a;", [](long double x, long double) { return cosl(x); },
       [](float x, float) { return std::fabs(x) < 3; }, 0, 0x1p-20L},
      {"tanh.approx.f32 %d, %a;", [](long double x, long double) { return tanhl(x); }, any,
       0x1p-10L, 0},
  };
  for (const Case& test : cases) {
    const auto got = run_rows<float>(test.lines, a, b);
    size_t checked = 0;
    for (size_t i = 0; i < kRows; ++i) {
      if (!test.applies(a[i], b[i])) continue;
      ++checked;
      const long double expected = test.exact(a[i], b[i]);
      const long double error = std::fabs(static_cast<long double>(got[i]) - expected);
      ASSERT_TRUE(error <= test.relative * std::fabs(expected) + test.absolute)
          << test.lines << ' ' << a[i] << ' ' << b[i] << ": " << got[i];
    }
    EXPECT_GT(checked, kRows / 4);
  }
}

TEST(PtxFloat, DoublesAreTheHosts) {
  std::vector<double> a(kRows), b(kRows), c(kRows);
  std::mt19937_64 random(13);
  std::normal_distribution<double> normal;
  for (size_t i = 0; i < kRows; ++i)
    a[i] = normal(random), b[i] = normal(random), c[i] = normal(random);
  const auto sum = run_rows<double>("add.f64 %d, %a, %b; sub.rn.f64 %d, %d, %c;", a, b, c);
  const auto product = run_rows<double>("fma.rn.f64 %d, %a, %b, %c;", a, b, c);
  const auto quotient = run_rows<double>("div.rn.f64 %d, %a, %b;", a, b);
  const auto root = run_rows<double>("abs.f64 %d, %a; sqrt.rn.f64 %d, %d;", a);
  const auto most = run_rows<double>("max.f64 %d, %a, %b; neg.f64 %d, %d;", a, b);
  for (size_t i = 0; i < kRows; ++i) {
    EXPECT_EQ(sum[i], a[i] + b[i] - c[i]);
    // Exact in 113 bits up to the rounding that the last addition makes.
    const double expected = static_cast<double>(static_cast<Exact>(a[i]) * b[i] + c[i]);
    EXPECT_EQ(product[i], expected);
    EXPECT_EQ(quotient[i], a[i] / b[i]);
    EXPECT_EQ(root[i], std::sqrt(std::fabs(a[i])));
    EXPECT_EQ(most[i], a[i] > b[i] ? -a[i] : -b[i]);
  }
}

}  // namespace
}  // namespace rillkv::ptx
