// RMSNorm with its residual connection and the SiLU gate, every instruction set against double
// precision.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/cpu/kernels.h"

namespace rillkv::kernels::cpu {
namespace {

struct Case {
  const char* isa;
  Dtype dtype;
};

// Relative spacing of the format: one rounding errs by at most half of it.
double spacing(Dtype dtype) {
  return dtype == Dtype::kFloat32 ? 0x1p-23 : dtype == Dtype::kBFloat16 ? 0x1p-7 : 0x1p-10;
}

// A vector of numbers in a storage format, with what they are exactly.
struct Numbers {
  std::vector<unsigned char> bytes;
  std::vector<double> exact;
};

float bfloat16_value(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float x;
  std::memcpy(&x, &wide, sizeof x);
  return x;
}

double load(const std::vector<unsigned char>& bytes, size_t i, Dtype dtype) {
  if (dtype == Dtype::kFloat32) {
    float x;
    std::memcpy(&x, bytes.data() + 4 * i, 4);
    return x;
  }
  uint16_t half;
  std::memcpy(&half, bytes.data() + 2 * i, 2);
  if (dtype == Dtype::kBFloat16) return bfloat16_value(half);
  // fp16 by its definition: sign, 5 bits of exponent, 10 of fraction.
  const int exponent = half >> 10 & 31, fraction = half & 1023;
  if (exponent == 31 && fraction != 0) return std::nan("");
  const double magnitude =
      exponent == 0 ? fraction * 0x1p-24 : std::ldexp(1024 + fraction, exponent - 25);
  return half & 0x8000 ? -magnitude : magnitude;
}

Numbers random_numbers(size_t count, Dtype dtype, double scale, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0, static_cast<float>(scale));
  Numbers numbers;
  numbers.bytes.resize(count * (dtype == Dtype::kFloat32 ? 4 : 2));
  for (size_t i = 0; i < count; ++i) {
    const float x = normal(random);
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    if (dtype == Dtype::kFloat32) {
      std::memcpy(numbers.bytes.data() + 4 * i, &bits, 4);
    } else if (dtype == Dtype::kBFloat16) {
      const uint16_t top = static_cast<uint16_t>(bits >> 16);
      std::memcpy(numbers.bytes.data() + 2 * i, &top, 2);
    } else {  // a normal fp16 number: exponents of such x fit
      const int exponent = std::max<int>(static_cast<int>(bits >> 23 & 255) - 112, 1);
      const uint16_t half = static_cast<uint16_t>(
          (bits >> 16 & 0x8000) | std::min(exponent, 30) << 10 | (bits >> 13 & 1023));
      std::memcpy(numbers.bytes.data() + 2 * i, &half, 2);
    }
    numbers.exact.push_back(load(numbers.bytes, i, dtype));
  }
  return numbers;
}

class Elementwise : public ::testing::TestWithParam<Case> {
 protected:
  const KernelTable& table() { return *find_kernels(GetParam().isa); }
  void SetUp() override {
    if (find_kernels(GetParam().isa) == nullptr) {
      GTEST_SKIP() << "this machine lacks " << GetParam().isa;
    }
  }
};

constexpr int kRows = 3;
constexpr int64_t kSizes[] = {1, 7, 15, 16, 17, 33, 576, 1000};

TEST_P(Elementwise, RmsNormEqualsDoublePrecision) {
  const Dtype dtype = GetParam().dtype;
  for (int64_t n : kSizes) {
    for (bool with_delta : {false, true}) {
      Numbers x = random_numbers(kRows * n, dtype, 3, n);
      const Numbers delta = random_numbers(kRows * n, dtype, 1, n + 1);
      const Numbers weight = random_numbers(n, dtype, 1, n + 2);
      std::vector<unsigned char> out(x.bytes.size());
      const std::vector<double> before = x.exact;
      NormParams p;
      p.x = x.bytes.data();
      p.delta = with_delta ? delta.bytes.data() : nullptr;
      p.weight = weight.bytes.data();
      p.out = out.data();
      p.columns = n;
      p.epsilon = 1e-5f;
      p.dtype = dtype;
      table().rms_norm(p, 0, kRows);
      for (int row = 0; row < kRows; ++row) {
        double squares = 0;
        for (int64_t i = 0; i < n; ++i) {
          const size_t at = row * n + i;
          // The sum is stored, rounded once; the norm reads the stored sum.
          const double sum = load(x.bytes, at, dtype);
          const double expected = before[at] + (with_delta ? delta.exact[at] : 0);
          ASSERT_TRUE(std::abs(sum - expected) <= spacing(dtype) * std::abs(expected) / 2 + 0x1p-25)
              << GetParam().isa << " n " << n << " at " << at;
          squares += sum * sum;
        }
        const double scale = 1 / std::sqrt(squares / n + 1e-5f);
        for (int64_t i = 0; i < n; ++i) {
          const size_t at = row * n + i;
          const double expected = load(x.bytes, at, dtype) * scale * weight.exact[i];
          // fp32 arithmetic: n / 16 + 4 roundings in a sum of squares (halved by the root),
          // division, root, two products; then one rounding to the format.
          const double fp32 = ((n / 16.0 + 4) / 2 + 5) * 0x1p-24;
          const double tolerance =
              std::abs(expected) * (fp32 + spacing(dtype) / 2 + 0x1p-20) + 0x1p-24;
          ASSERT_TRUE(std::abs(load(out, at, dtype) - expected) <= tolerance)
              << GetParam().isa << " n " << n << " at " << at << ": " << load(out, at, dtype)
              << ", " << expected;
        }
      }
    }
  }
}

TEST_P(Elementwise, GateEqualsDoublePrecision) {
  const Dtype dtype = GetParam().dtype;
  for (int64_t n : kSizes) {
    Numbers input = random_numbers(kRows * 2 * n, dtype, 6, n + 3);
    std::vector<unsigned char> out(input.bytes.size() / 2);
    GateParams p;
    p.gate_up = input.bytes.data();
    p.out = out.data();
    p.columns = n;
    p.dtype = dtype;
    table().gate(p, 0, kRows);
    for (int row = 0; row < kRows; ++row) {
      for (int64_t i = 0; i < n; ++i) {
        const double g = input.exact[row * 2 * n + i], u = input.exact[row * 2 * n + n + i];
        const double expected = g / (1 + std::exp(-g)) * u;
        // exp errs by |x| * 2^-25 (the rounded argument) and about 10 roundings; then four more
        // operations.
        const double fp32 = (std::abs(g) / 2 + 14) * 0x1p-24;
        const double tolerance = std::abs(expected) * (fp32 + spacing(dtype) / 2) + 0x1p-24;
        ASSERT_TRUE(std::abs(load(out, row * n + i, dtype) - expected) <= tolerance)
            << GetParam().isa << " n " << n << " row " << row << " at " << i << ": g " << g << " u "
            << u;
      }
    }
  }
}

TEST_P(Elementwise, RopeEqualsDoublePrecision) {
  const Dtype dtype = GetParam().dtype;
  constexpr int64_t kTokens = 5, kHeads = 3;
  const size_t bytes = dtype == Dtype::kFloat32 ? 4 : 2;
  for (int64_t dim : {2, 6, 64, 80, 128}) {
    const int64_t count = kTokens * kHeads * dim;
    const Numbers x = random_numbers(count, dtype, 3, dim);
    const Numbers cos = random_numbers(kTokens * dim / 2, Dtype::kFloat32, 1, dim + 1);
    const Numbers sin = random_numbers(kTokens * dim / 2, Dtype::kFloat32, 1, dim + 2);
    std::vector<unsigned char> out(count * bytes, 0xff);
    RopeParams p;
    p.x = {x.bytes.data(), kHeads * dim, dim};
    p.out = {out.data(), dim, kTokens * dim};  // head-major, as the dense cache keeps keys
    p.cos = reinterpret_cast<const float*>(cos.bytes.data());
    p.sin = reinterpret_cast<const float*>(sin.bytes.data());
    p.heads = kHeads;
    p.head_dim = static_cast<int32_t>(dim);
    p.dtype = dtype;
    table().rope(p, 0, 2);
    table().rope(p, 2, kTokens);
    for (int64_t t = 0; t < kTokens; ++t) {
      for (int64_t h = 0; h < kHeads; ++h) {
        for (int64_t i = 0; i < dim; ++i) {
          const int64_t half = dim / 2, pair = i % half;
          const double* row = x.exact.data() + (t * kHeads + h) * dim;
          const double c = cos.exact[t * half + pair], s = sin.exact[t * half + pair];
          const double one = row[i] * c, other = row[(i + half) % dim] * s;
          const double expected = i < half ? one - other : one + other;
          // Two products and a sum in fp32, then one rounding to the format.
          const double tolerance = (std::abs(one) + std::abs(other)) * 3 * 0x1p-24 +
                                   std::abs(expected) * spacing(dtype) / 2 + 0x1p-24;
          const double actual = load(out, (h * kTokens + t) * dim + i, dtype);
          ASSERT_TRUE(std::abs(actual - expected) <= tolerance)
              << GetParam().isa << " dim " << dim << " token " << t << " head " << h << " at " << i
              << ": " << actual << ", " << expected;
        }
      }
    }
  }
}

// The same bits as the portable kernels, whatever the rows end in; infinity included.
TEST_P(Elementwise, EqualsThePortableKernelsBitForBit) {
  const Dtype dtype = GetParam().dtype;
  const KernelTable& portable = *find_kernels("scalar");
  const size_t bytes = dtype == Dtype::kFloat32 ? 4 : 2;
  for (int64_t n : {1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 48, 64, 576, 1000}) {
    SCOPED_TRACE(n);
    const Numbers x = random_numbers(kRows * 2 * n, dtype, 9, n + 4);
    const Numbers weight = random_numbers(n, dtype, 1, n + 5);
    std::vector<unsigned char> input = x.bytes;
    // The last number of row 0 is NaN, of row 1 infinity, in whichever of the formats.
    const uint32_t infinity = dtype == Dtype::kFloat16 ? 0x7c00 : 0x7f80;
    for (int row = 0; row < 2; ++row) {
      const uint32_t top = row == 0 ? infinity | 0x50 : infinity;
      const uint32_t bits = dtype == Dtype::kFloat32 ? top << 16 : top;
      std::memcpy(input.data() + ((row + 1) * 2 * n - 1) * bytes, &bits, bytes);
    }
    const auto gate = [&](const KernelTable& kernels) {
      std::vector<unsigned char> out((kRows * n + 1) * bytes, 0xa5);
      GateParams p;
      p.gate_up = input.data();
      p.out = out.data();
      p.columns = n;
      p.dtype = dtype;
      kernels.gate(p, 0, kRows);
      return out;
    };
    const auto norm = [&](const KernelTable& kernels, bool with_delta) {
      std::vector<unsigned char> rows(x.bytes.begin(), x.bytes.begin() + kRows * n * bytes);
      std::vector<unsigned char> out((kRows * n + 1) * bytes, 0xa5);
      NormParams p;
      p.x = rows.data();
      p.delta = with_delta ? x.bytes.data() + kRows * n * bytes : nullptr;
      p.weight = weight.bytes.data();
      p.out = out.data();
      p.columns = n;
      p.epsilon = 1e-5f;
      p.dtype = dtype;
      kernels.rms_norm(p, 0, kRows);
      out.insert(out.end(), rows.begin(), rows.end());
      return out;
    };
    const auto expect_same = [&](const std::vector<unsigned char>& actual,
                                 const std::vector<unsigned char>& expected, const char* what) {
      for (size_t i = 0; i < expected.size() / bytes; ++i) {
        const bool same = std::memcmp(&actual[i * bytes], &expected[i * bytes], bytes) == 0;
        // Which NaN it is depends on the instruction set.
        const bool both_nan =
            std::isnan(load(actual, i, dtype)) && std::isnan(load(expected, i, dtype));
        ASSERT_TRUE(same || both_nan)
            << GetParam().isa << " " << what << " n " << n << " number " << i;
      }
    };
    expect_same(gate(table()), gate(portable), "gate");
    expect_same(norm(table(), true), norm(portable, true), "norm of a sum");
    expect_same(norm(table(), false), norm(portable, false), "norm");
  }
}

class ElementwiseExtremes : public ::testing::TestWithParam<const char*> {};

TEST_P(ElementwiseExtremes, GateOfHugeInputsIsFiniteAndNaNStays) {
  const KernelTable* table = find_kernels(GetParam());
  if (table == nullptr) GTEST_SKIP() << "this machine lacks " << GetParam();
  const float input[2][2] = {{-1e30f, 2}, {1e30f, 1}};
  float out[2];
  GateParams p;
  p.gate_up = input;
  p.out = out;
  p.columns = 1;
  table->gate(p, 0, 2);
  // silu(-1e30) is 0; exp is clamped at 87, which leaves 1e30 * e^-87 * 2 at most.
  EXPECT_TRUE(std::abs(out[0]) <= 1e30f * 2 * 1.7e-38f);
  EXPECT_FLOAT_EQ(out[1], 1e30f);
  const float nan[2] = {std::nanf(""), 1};
  p.gate_up = nan;
  table->gate(p, 0, 1);
  EXPECT_TRUE(std::isnan(out[0]));
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const char* isa : {"scalar", "avx2", "avx512"}) {
    for (Dtype dtype : {Dtype::kFloat32, Dtype::kBFloat16, Dtype::kFloat16})
      all.push_back({isa, dtype});
  }
  return all;
}

std::string name_of(const ::testing::TestParamInfo<Case>& info) {
  static constexpr const char* kNames[] = {"_f32", "_bf16", "_f16"};
  return std::string(info.param.isa) + kNames[static_cast<int>(info.param.dtype)];
}

INSTANTIATE_TEST_SUITE_P(All, ElementwiseExtremes, ::testing::Values("scalar", "avx2", "avx512"));
INSTANTIATE_TEST_SUITE_P(All, Elementwise, ::testing::ValuesIn(cases()), name_of);

}  // namespace
}  // namespace rillkv::kernels::cpu
