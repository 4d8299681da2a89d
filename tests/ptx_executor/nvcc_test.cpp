// Kernels from nvcc (kernels.cu), end to end. Skipped in a build without nvcc.
#include <cmath>

#include "tests/ptx_executor/exact_oracle.h"
#include "tests/ptx_executor/ptx_case.h"

#ifdef RILLKV_PTX_DIR

namespace rillkv::ptx {
namespace {

Module kernels() { return Module::load(std::string(RILLKV_PTX_DIR) + "/kernels.ptx"); }

// The same structs as in kernels.cu.
struct ProductParams {
  const uint16_t* left;
  const uint16_t* right;
  float* out;
  int rows, columns, depth;
  int missing_wait;
  int missing_barrier;
};

constexpr int kRows = 128, kColumns = 64, kDepth = 96;

struct Product {
  Report report;
  int wrong = 0;
};

Product run_product(uint64_t seed, bool missing_wait, bool missing_barrier, bool profile = false) {
  std::mt19937 random(1);
  std::vector<int> left(kRows * kDepth), right(kDepth * kColumns);
  for (int& x : left) x = static_cast<int>(random() % 9) - 4;
  for (int& x : right) x = static_cast<int>(random() % 9) - 4;
  const auto halves = [](const std::vector<int>& values) {
    std::vector<uint16_t> codes;
    for (const int x : values) codes.push_back(half_format().round(x, Direction::kNearestEven));
    return codes;
  };
  DeviceBuffer<uint16_t> a(halves(left)), b(halves(right));
  DeviceBuffer<float> out(kRows * kColumns);
  const ProductParams params{a.data(), b.data(), out.data(),   kRows,
                             kColumns, kDepth,   missing_wait, missing_barrier};
  Product result;
  result.report = Launcher(kernels(), "matrix_product")
                      .grid({kColumns / 64, kRows / 64})
                      .block({128})
                      .shared(2 * (64 * 40 + 32 * 72) * sizeof(uint16_t))
                      .seed(seed)
                      .profile(profile)
                      .collect(params);
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < kColumns; ++j) {
      int sum = 0;  // small integers: exact in f32
      for (int k = 0; k < kDepth; ++k)
        sum += left[size_t(i * kDepth + k)] * right[size_t(k * kColumns + j)];
      if (!(out[size_t(i * kColumns + j)] == static_cast<float>(sum))) ++result.wrong;
    }
  }
  return result;
}

TEST(PtxNvcc, PipelinedMatrixProduct) {
  for (uint64_t seed = 0; seed < 5; ++seed) {
    const Product product = run_product(seed, false, false);
    EXPECT_TRUE(product.report.findings.empty()) << product.report.to_string();
    EXPECT_EQ(product.wrong, 0);
  }
}

TEST(PtxNvcc, PipelineBugsAreFound) {
  for (uint64_t seed = 0; seed < 5; ++seed) {
    const Product no_wait = run_product(seed, true, false);
    EXPECT_TRUE(no_wait.report.has(Finding::Kind::kPendingCopy)) << no_wait.report.to_string();
    EXPECT_GT(no_wait.wrong, 0);
    const Product no_barrier = run_product(seed, false, true);
    EXPECT_FALSE(no_barrier.report.findings.empty()) << seed;
  }
}

TEST(PtxNvcc, ReportsNameTheSourceLine) {
  const Product product = run_product(0, true, false);
  EXPECT_NE(product.report.to_string().find("kernels.cu:"), std::string::npos)
      << product.report.to_string();
}

TEST(PtxNvcc, PaddedTilesHaveNoBankConflictsInTheMatrixLoads) {
  const Product product = run_product(0, false, false, true);
  int loads = 0;
  for (const SiteProfile& site : product.report.sites) {
    if (site.source.find("ldmatrix") == std::string::npos) continue;
    EXPECT_EQ(site.wavefronts, site.min_wavefronts) << site.source;
    ++loads;
  }
  EXPECT_GT(loads, 0);
}

struct MixedParams {
  const float* x;
  float* y;
  int8_t weights[8];
  int count;
};

float round_with(const SmallFormat& format, float x, Direction direction) {
  return static_cast<float>(format.value(format.round(x, direction, std::signbit(x))));
}

TEST(PtxNvcc, MixedFeatures) {
  constexpr int kThreads = 128, kBlocks = 1;
  std::mt19937 random(2);
  std::vector<float> x(kThreads);
  for (float& v : x) v = static_cast<float>(static_cast<int>(random() % 2000) - 1000) / 64;
  const float factors[] = {1.0f, 0.95f, 0.9f, 0.85f, 0.8f, 0.75f, 0.7f};
  DeviceBuffer<float> in(x), out(kThreads), total(std::vector<float>{0});
  const MixedParams params{in.data(), out.data(), {3, -1, 4, -1, 5, -9, 2, -6}, kThreads};
  Launcher(kernels(), "mixed").grid({kBlocks}).block({kThreads}).seed(4).run(params, total.data());
  double sum = 0;
  for (int i = 0; i < kThreads; ++i) {
    double y = 0;
    double size = 0;
    for (int j = 0; j < kThreads % 11; ++j) {
      const double term = double{x[size_t((i + ((i * j) & 7)) % kThreads)]} *
                          params.weights[(i + j) & 7] * factors[j % 7];
      y += term;
      size += std::fabs(term);
    }
    // 7 rounded products and sums; then at most one rounding to bf16 or f16, or a root.
    double tolerance = 16 * size * 0x1p-24;
    double expected = y;
    switch (i % 5) {
      case 0:
        expected = std::sqrt(std::fabs(y));
        tolerance = std::sqrt(tolerance);
        break;
      case 1:
        expected = y / 3;
        break;
      case 2:
        expected = round_with(half_format(), static_cast<float>(y), Direction::kDown);
        tolerance += std::fabs(y) * 0x1p-10;
        break;
      case 3:
        expected = round_with(bfloat_format(), static_cast<float>(y), Direction::kNearestEven);
        tolerance += std::fabs(y) * 0x1p-7;
        break;
      default:
        expected = i % 7 > 3 ? y * (i % 7) : std::sin(y);
        tolerance *= 7;
        break;
    }
    ASSERT_TRUE(std::fabs(out[size_t(i)] - expected) <= tolerance)
        << i << ": " << out[size_t(i)] << " vs " << expected;
    sum += out[size_t(i)];
  }
  EXPECT_TRUE(std::fabs(total[0] - sum) <= 1e-3) << total[0] << " vs " << sum;
}

}  // namespace
}  // namespace rillkv::ptx

#endif
