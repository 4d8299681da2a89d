// Attention as the cache runs it, on any number of threads: with few kv heads and several threads
// the context is divided among them and partial results are merged.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/cpu/plan.h"
#include "rillkv/kv_cache.h"

namespace rillkv {
namespace {

constexpr int64_t kKvHeads = 3, kTokens = 8 + 12 * 128 + 70;

CacheGeometry geometry(int64_t group, int64_t head_dim) {
  CacheGeometry g;
  g.heads = group * kKvHeads;
  g.kv_heads = kKvHeads;
  g.head_dim = head_dim;
  for (int64_t p = 0; p < head_dim / 2; ++p) {
    g.inverse_frequencies.push_back(std::pow(10000.0, -2.0 * double(p) / double(head_dim)));
  }
  return g;
}

class Threads : public ::testing::Test {
 protected:
  ~Threads() override { at::set_num_threads(before_); }

 private:
  const int before_ = at::get_num_threads();
};

/// Prefill, then three decode steps, on `threads` threads.
at::Tensor run(const CacheGeometry& g, const char* preset, at::ScalarType dtype, int threads) {
  at::set_num_threads(threads);
  at::manual_seed(5);
  const auto random = [&](int64_t heads) {
    return at::randn({kTokens + 3, heads, g.head_dim}).to(dtype);
  };
  const at::Tensor q = random(g.heads), k = random(kKvHeads) * 2 + 1, v = random(kKvHeads);
  QuantizedKvCache cache(g, CompressionConfig::preset(preset), dtype);
  std::vector<at::Tensor> out;
  for (int64_t begin = 0; begin < kTokens + 3;) {
    const int64_t end = begin < kTokens ? std::min(begin + 256, kTokens) : begin + 1;
    out.push_back(
        cache.attend(0, q.slice(0, begin, end), k.slice(0, begin, end), v.slice(0, begin, end)));
    begin = end;
  }
  return at::cat(out).to(at::kDouble);
}

TEST_F(Threads, SplitAndMergedEqualsWhole) {
  for (const int64_t group : {1, 3}) {
    for (const int64_t head_dim : {64, 128}) {
      const CacheGeometry g = geometry(group, head_dim);
      // What makes this test worth something: three threads divide the context of a decode step.
      kernels::cpu::AttentionParams params;
      params.heads = static_cast<int32_t>(g.heads);
      params.kv_heads = kKvHeads;
      params.head_dim = static_cast<int32_t>(head_dim);
      params.query_count = 1;
      params.prefix.block_count = 12;
      EXPECT_GT(kernels::cpu::AttentionPlan(params, 7).parts, 1);
      for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
        for (const char* preset : {"balanced", "seed"}) {
          const at::Tensor one = run(g, preset, dtype, 1);
          for (const int threads : {2, 3, 7}) {
            const at::Tensor many = run(g, preset, dtype, threads);
            const double error = (many - one).abs().max().item<double>();
            // The same sums in another order, then one rounding to the dtype of outputs below 8
            // (values are normal: |x| < 8): half a unit in the last place at either side, 2^-23 * 8
            // or 2^-7 * 8, and an fp32 online softmax's few roundings, 1e-5. bf16 kernels round
            // weights relative to the maximum so far, 2^-8 of outputs of order 1, which a division
            // of the context changes.
            const double tolerance = dtype == at::kFloat ? 3e-5 : 0x1p-7 * 8 / 2;
            EXPECT_TRUE(error <= tolerance) << preset << " D " << head_dim << " group " << group
                                            << " threads " << threads << ": " << error;
          }
        }
      }
    }
  }
}

TEST_F(Threads, NoTokensChangeNothing) {
  for (const std::string& preset : CompressionConfig::preset_names()) {
    const CacheGeometry g = geometry(1, 64);
    QuantizedKvCache cache(g, CompressionConfig::preset(preset), at::kFloat);
    const auto random = [&](int64_t tokens) { return at::randn({tokens, kKvHeads, 64}); };
    for (const int64_t length : {0, 300}) {
      if (length > 0) cache.attend(0, random(length), random(length), random(length));
      const int64_t bytes = cache.report().kv_bytes;
      const at::Tensor out = cache.attend(0, random(0), random(0), random(0));
      EXPECT_EQ(out.sizes(), at::IntArrayRef({0, kKvHeads, 64})) << preset;
      EXPECT_EQ(cache.length(), length) << preset;
      EXPECT_EQ(cache.report().kv_bytes, bytes) << preset;
    }
  }
}

}  // namespace
}  // namespace rillkv
