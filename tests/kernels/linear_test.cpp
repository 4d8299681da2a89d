// The bf16 linear layers of every instruction set that has them, against double.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "tests/kernels/isa_fixture.h"

namespace rillkv {
namespace {

using kernels::cpu::kLinearPanel;
using kernels::cpu::LinearParams;
using test::GuardedBuffer;

class LinearKernels : public test::EveryIsa {
 protected:
  void SetUp() override {
    EveryIsa::SetUp();
    if (IsSkipped()) return;
    ASSERT_EQ(isa().linear == nullptr, isa().pack_linear == nullptr);
    if (isa().linear == nullptr) {
      // Its LinearImpl multiplies with Torch; there is nothing of ours to test.
      GTEST_SKIP() << isa().name << " has no linear kernel";
    }
  }
};

RILLKV_INSTANTIATE_FOR_EVERY_ARITHMETIC(LinearKernels);

struct Case {
  int64_t rows, in, out;
  bool bias, out_float32;
};

void PrintTo(const Case& c, std::ostream* stream) {
  *stream << c.rows << " rows, " << c.in << " -> " << c.out << (c.bias ? ", bias" : "")
          << (c.out_float32 ? ", float32" : ", bf16");
}

/// bf16 numbers and the same in double.
struct Numbers {
  Numbers(int64_t count, uint32_t seed) : bits(static_cast<size_t>(count)), values(bits.size()) {
    std::mt19937 random(seed);
    std::normal_distribution<double> normal;
    for (size_t i = 0; i < bits.size(); ++i) {
      test::store_element(normal(random), kernels::Dtype::kBFloat16, &bits[i]);
      values[i] = reference::bfloat16_value(bits[i]);
    }
  }
  std::vector<uint16_t> bits;
  std::vector<double> values;
};

struct Oracle {
  double exact = 0, magnitude = 0;  // sum of the products, and of their sizes
  float plain = 0;                  // what a loop in float32 makes of it
};

Oracle oracle(const Numbers& x, const Numbers& w, const Numbers& b, const Case& c, int64_t row,
              int64_t column) {
  Oracle o;
  for (int64_t k = 0; k < c.in; ++k) {
    const double product = x.values[row * c.in + k] * w.values[column * c.in + k];  // exact
    o.exact += product;
    o.magnitude += std::abs(product);
    o.plain += static_cast<float>(product);  // 16 significant bits: exact too
  }
  if (c.bias) {
    o.exact += b.values[column];
    o.magnitude += std::abs(b.values[column]);
    o.plain += static_cast<float>(b.values[column]);
  }
  return o;
}

void check(const kernels::cpu::KernelTable& isa, const Case& c) {
  SCOPED_TRACE(::testing::PrintToString(c));
  const Numbers x(c.rows * c.in, 1), w(c.out * c.in, 2), b(c.out, 3);
  const int64_t panels = (c.out + kLinearPanel - 1) / kLinearPanel;
  GuardedBuffer packed(static_cast<size_t>(panels * c.in * kLinearPanel * 2));
  // In two pieces, as threads do it.
  const int64_t middle = panels / 2;
  isa.pack_linear(w.bits.data(), c.out, c.in, 0, middle, packed.data());
  isa.pack_linear(w.bits.data(), c.out, c.in, middle, panels, packed.data());
  ASSERT_TRUE(packed.intact());

  const size_t bytes = c.out_float32 ? 4 : 2;
  GuardedBuffer out(static_cast<size_t>(c.rows * c.out) * bytes, 0xff);  // NaN
  LinearParams params;
  params.x = x.bits.data();
  params.packed = packed.data();
  params.bias = c.bias ? b.bits.data() : nullptr;
  params.out = out.data();
  params.out_float32 = c.out_float32;
  params.rows = c.rows;
  params.in_features = c.in;
  params.out_features = c.out;
  isa.linear(params, 0, middle, 0, c.rows);
  isa.linear(params, middle, panels, 0, c.rows);
  ASSERT_TRUE(out.intact());

  const auto dtype = c.out_float32 ? kernels::Dtype::kFloat32 : kernels::Dtype::kBFloat16;
  double squares = 0, plain_squares = 0;
  for (int64_t row = 0; row < c.rows; ++row) {
    for (int64_t column = 0; column < c.out; ++column) {
      const Oracle o = oracle(x, w, b, c, row, column);
      const double got =
          test::load_element(dtype, out.data() + static_cast<size_t>(row * c.out + column) * bytes);
      // Products of bf16 are exact in float32. In whatever order, each of at most in + 1 additions
      // rounds a partial sum by 2^-24 of its size, which is at most that of all products together;
      // 16-bit output rounds once more, by half a unit of 8 significant bits: 2^-8 of its size.
      double allowed = static_cast<double>(c.in + 1) * 0x1p-24 * o.magnitude;
      if (!c.out_float32) allowed += 0x1p-8 * (std::abs(o.exact) + allowed);
      const double error = std::abs(got - o.exact);
      ASSERT_TRUE(error <= allowed) << "row " << row << ", output " << column << ": " << got
                                    << " for " << o.exact << ", allowed " << allowed;
      squares += error * error;
      plain_squares += std::pow(static_cast<double>(o.plain) - o.exact, 2);
    }
  }
  // That bound is the worst case. On the average a kernel must not lose more than twice what a
  // plain loop in float32 loses; over fewer outputs the average says little.
  if (c.out_float32 && c.rows * c.out >= 100) {
    EXPECT_LE(std::sqrt(squares), 2 * std::sqrt(plain_squares));
  }
}

TEST_P(LinearKernels, EqualDouble) {
  for (const int64_t rows : {1, 7, 16, 17, 33}) {
    // Outputs around whole panels of 32; inputs from one pair to the "deep" tiles (2048 and more),
    // whose steps of 512 inputs leave a remainder.
    for (const auto& [in, out] : std::vector<std::pair<int64_t, int64_t>>{
             {2, 1}, {64, 31}, {64, 32}, {576, 33}, {66, 63}, {130, 95}, {2050, 40}, {4096, 16}}) {
      for (const bool bias : {false, true}) {
        for (const bool out_float32 : {false, true})
          check(isa(), {rows, in, out, bias, out_float32});
      }
    }
  }
}

TEST_P(LinearKernels, ManyDeepPanels) {
  // More panels than a deep tile sums at a time.
  check(isa(), {25, 2048, 17 * kLinearPanel + 5, true, true});
}

// A row is computed from its own inputs: NaN stays in its row, whatever tile the row shares.
TEST_P(LinearKernels, NanStaysInItsRow) {
  constexpr int64_t kRows = 17, kIn = 64, kOut = 40;
  Numbers x(kRows * kIn, 4);
  const Numbers w(kOut * kIn, 5);
  x.bits[6 * kIn + 13] = 0x7fc0;
  GuardedBuffer packed(2 * kIn * kLinearPanel * 2), out(kRows * kOut * 4);
  isa().pack_linear(w.bits.data(), kOut, kIn, 0, 2, packed.data());
  LinearParams params;
  params.x = x.bits.data();
  params.packed = packed.data();
  params.out = out.data();
  params.out_float32 = true;
  params.rows = kRows;
  params.in_features = kIn;
  params.out_features = kOut;
  isa().linear(params, 0, 2, 0, kRows);
  for (int64_t i = 0; i < kRows * kOut; ++i) {
    EXPECT_EQ(std::isnan(out.as<float>()[i]), i / kOut == 6) << "row " << i / kOut;
  }
}

}  // namespace
}  // namespace rillkv
