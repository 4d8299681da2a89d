// What bench_attention runs on a GPU, on the executor: its cases arrive there complete and are
// computed right, so that the first to have a GPU can trust the figures.
#include "benchmarks/attention_cuda.h"
#include "benchmarks/attention_model.h"

#include "tests/cuda_core/cuda_fixture.h"

namespace rillkv::testing {
namespace {

TEST(BenchAttentionCuda, UploadedCasesAreComputedRight) {
  const auto backend = make_executor_backend(1);
  for (const int mix : {0, 6}) {  // balanced, seed
    for (const int queries : {40, 1}) {
      for (const bench::Shape& shape : {bench::Shape{3, 1, 64}, {2, 1, 128}}) {
        bench::Case host(
            {shape, queries, 300, bench::mixes()[mix], kernels::Dtype::kBFloat16, true});
        bench::CudaCase on_device(host, *backend);
        on_device.run();
        const double error = on_device.relative_error();
        // bf16 rounds rotated keys, queries, weights and the output to 2^-9 relative each.
        EXPECT_TRUE(error <= 2e-2) << error << " of mix " << mix << ", " << queries << " queries";
      }
    }
  }
}

// The model stands for the launches: it names the entry and the CTAs that attend would use.
TEST(BenchAttentionCuda, PredictionsAreFiniteAndFollowTheLaunch) {
  for (const bench::Gpu& gpu : {bench::a100(), bench::h100()}) {
    const auto prefill = bench::predict(gpu, bench::model_params(32, 8, 128, 256, 32768), 1e9);
    EXPECT_EQ(prefill.entry, "rillkv_prefill_d128_bf16");
    EXPECT_EQ(prefill.ctas, 8 * (256 * 4 / 128) * prefill.splits);
    const auto decode = bench::predict(gpu, bench::model_params(32, 8, 128, 1, 32768), 1e9);
    EXPECT_EQ(decode.entry, "rillkv_decode_d128_bf16");
    EXPECT_EQ(decode.ctas, 8 * decode.splits);
    for (const auto& r : {prefill, decode}) {
      EXPECT_TRUE(r.memory_s > 0 && r.mma_s > 0 && r.issue_s > 0);
      EXPECT_TRUE(r.bound_s() <= r.expected_s() && r.expected_s() < 1);
    }
  }
}

}  // namespace
}  // namespace rillkv::testing
