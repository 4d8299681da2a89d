// What bench_attention runs on a GPU, on the executor: its cases arrive there complete and are
// computed right, so that the first to have a GPU can trust the figures.
#include "benchmarks/attention_cuda.h"
#include "benchmarks/attention_model.h"
#include "benchmarks/attention_path.h"
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

// By slices where RILLKV_PREFILL says so and the case has some, and said as it was.
TEST(BenchAttentionCuda, PrefillTakesThePathAskedForAndSaysWhich) {
  const auto backend = make_executor_backend(1);
  const bench::Gpu gpu = bench::h100();
  const auto attended = [&](int queries, int depth, PrefillPath asked) {
    bench::Case host(
        {{2, 1, 64}, queries, depth, bench::mixes()[0], kernels::Dtype::kBFloat16, true});
    bench::CudaCase on_device(host, *backend);
    const bench::AttentionPath path = bench::attend_case(
        on_device, gpu, static_cast<double>(host.packed_bytes()), {.path = asked});
    const double error = on_device.relative_error();
    EXPECT_TRUE(error <= 2e-2) << error;  // as above
    EXPECT_TRUE(path.expected_s > 0 && path.expected_s < 1);
    EXPECT_EQ(path.name == "fused", path.bound_s > 0);
    EXPECT_EQ(path.name == "fused", !path.entry.empty());
    return path;
  };
  // Eight blocks, the smallest slice, and a tail.
  const bench::AttentionPath fused = attended(40, 1100, PrefillPath::kFused);
  EXPECT_EQ(fused.name, "fused");
  EXPECT_EQ(fused.entry, "rillkv_prefill_d64_bf16");
  const bench::AttentionPath slices = attended(40, 1100, PrefillPath::kSlices);
  const bench::AttentionPath flash = attended(40, 1100, PrefillPath::kSlicesFlash);
  EXPECT_EQ(slices.name, "slices");
  EXPECT_EQ(flash.name, "slices-flash");
  EXPECT_GT(flash.expected_s, slices.expected_s);                    // the slower library
  EXPECT_EQ(attended(40, 1100, PrefillPath::kAuto).name, "fused");   // the executor is no Hopper
  EXPECT_EQ(attended(40, 900, PrefillPath::kSlices).name, "fused");  // too few blocks
  EXPECT_EQ(attended(1, 1100, PrefillPath::kSlices).name, "fused");  // decode
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
