// Prefill by slices through LibTorch's attention, on the executor with the CPU's and on a GPU with
// cuDNN's and its flash attention: right, bounded, chosen by RILLKV_PREFILL and nothing else.
#include "core/slice_attention.h"

#include <cmath>
#include <cstdlib>

#include "benchmarks/attention_cuda.h"
#include "rillkv/error.h"
#include "tests/cuda_core/cuda_fixture.h"
#include "tests/support/error_of.h"

namespace rillkv::testing {
namespace {

/// Sets RILLKV_PREFILL, or unsets it, until the end of a scope.
class PrefillVariable {
 public:
  explicit PrefillVariable(const char* value) { ::setenv("RILLKV_PREFILL", value, 1); }
  ~PrefillVariable() { ::unsetenv("RILLKV_PREFILL"); }
  PrefillVariable(const PrefillVariable&) = delete;
  PrefillVariable& operator=(const PrefillVariable&) = delete;
};

/// In double, as a library would return it.
SliceResult exact_library(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                          double scale) {
  const at::Tensor scores =
      scale * at::matmul(q.to(at::kDouble), k.to(at::kDouble).transpose(1, 2));
  const at::Tensor sums = scores.logsumexp(2);
  const at::Tensor weights = (scores - sums.unsqueeze(2)).exp();
  // Rows of all heads together, as some libraries lay their result out.
  const at::Tensor out = at::matmul(weights, v.to(at::kDouble)).to(at::kHalf);
  return {out.transpose(0, 1).contiguous().transpose(0, 1), sums.to(at::kFloat)};
}

class SliceAttention : public EveryBackend {
 protected:
  bool slices(const bench::CudaCase& on_device, const SliceOptions& options) {
    return attend_by_slices(*backend(), on_device.params(), options);
  }
};

TEST_P(SliceAttention, IsRightWithEveryLibrary) {
  const SliceLibrary libraries[] = {exact_library, slice_library(device(), PrefillPath::kSlices),
                                    slice_library(device(), PrefillPath::kSlicesFlash)};
  for (uint64_t seed = 0; seed < (on_executor() ? 3 : 1); ++seed) {
    SCOPED_TRACE(str_cat("order of warps ", seed));
    use_seed(seed);
    for (const int mix : {0, 6}) {  // balanced, seed
      for (const kernels::Dtype dtype : {kernels::Dtype::kBFloat16, kernels::Dtype::kFloat16}) {
        for (const bench::Shape& shape : {bench::Shape{6, 2, 64}, {2, 1, 128}}) {
          for (const size_t which : {0, 1, 2}) {
            if (on_executor() && which == 2) continue;  // the CPU has one of its own
            // Eight sinks, seven blocks in slices of 2, 2, 2 and 1, and a tail.
            bench::Case host({shape, 40, 920, bench::mixes()[mix], dtype, true});
            bench::CudaCase on_device(host, *backend());
            const size_t block_bytes = static_cast<size_t>(shape.kv_heads) * 2 * 128 * 2 *
                                       static_cast<size_t>(shape.head_dim);
            int calls = 0;
            const SliceOptions options = {
                .path = PrefillPath::kSlices,
                .library =
                    [&](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, double s) {
                      ++calls;
                      return libraries[which](q, k, v, s);
                    },
                .most_bytes = 2 * block_bytes,
                .least_blocks = 1};
            ASSERT_TRUE(slices(on_device, options));
            EXPECT_EQ(calls, 4);
            const double error = on_device.relative_error();
            // As CudaCase's own test: bf16 rounds the output to 2^-9 relative, and tiles are fp16.
            EXPECT_TRUE(error <= 2e-2) << error << " of mix " << mix << ", " << shape.head_dim
                                       << " channels, library " << which;
          }
        }
      }
    }
  }
}

TEST_P(SliceAttention, LeavesTheRestToTheFusedKernel) {
  bench::Case host({{2, 1, 64}, 40, 300, bench::mixes()[0], kernels::Dtype::kBFloat16, true});
  bench::CudaCase on_device(host, *backend());
  const auto taken = [&](PrefillPath path, int least_blocks) {
    return slices(on_device,
                  {.path = path, .library = &exact_library, .least_blocks = least_blocks});
  };
  EXPECT_FALSE(taken(PrefillPath::kFused, 1));
  EXPECT_FALSE(taken(PrefillPath::kSlices, 4));  // of two blocks
  EXPECT_FALSE(taken(PrefillPath::kAuto, 1));    // too few tokens, and the executor is no Hopper
  EXPECT_TRUE(taken(PrefillPath::kSlices, 1));
  EXPECT_TRUE(taken(PrefillPath::kSlicesFlash, 2));
}

TEST_P(SliceAttention, ALibraryThatReturnsSomethingElseIsRefused) {
  bench::Case host({{2, 1, 64}, 40, 300, bench::mixes()[0], kernels::Dtype::kBFloat16, true});
  bench::CudaCase on_device(host, *backend());
  const SliceLibrary wide = [](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                               double scale) {
    SliceResult result = exact_library(q, k, v, scale);
    result.out = result.out.to(at::kFloat);
    return result;
  };
  const std::string error = error_of([&] {
    slices(on_device, {.path = PrefillPath::kSlices, .library = wide, .least_blocks = 1});
  });
  EXPECT_NE(error.find("expected float16 rows"), std::string::npos) << error;
}

TEST(SlicePath, TheVariableNamesThePath) {
  ::unsetenv("RILLKV_PREFILL");
  EXPECT_EQ(prefill_path(), PrefillPath::kFused);
  const auto path_of = [](const char* value) {
    const PrefillVariable variable(value);
    return prefill_path();
  };
  EXPECT_EQ(path_of(""), PrefillPath::kFused);
  EXPECT_EQ(path_of("fused"), PrefillPath::kFused);
  EXPECT_EQ(path_of("slices"), PrefillPath::kSlices);
  EXPECT_EQ(path_of("slices-flash"), PrefillPath::kSlicesFlash);
  EXPECT_EQ(path_of("auto"), PrefillPath::kAuto);
  for (const char* wrong : {"foo", "Slices", "slices ", "slices,flash", "1"}) {
    const PrefillVariable variable(wrong);
    EXPECT_THROW(prefill_path(), UsageError) << wrong;
    EXPECT_EQ(error_of([] { prefill_path(); }),
              str_cat("RILLKV_PREFILL: expected one of fused, slices, slices-flash, auto, got \"",
                      wrong, "\""));
  }
}

TEST(SlicePath, AutoIsForHopperAndLongContexts) {
  kernels::cuda::SlicePlan plan;
  plan.rows = 1024;
  plan.blocks = 64;
  EXPECT_TRUE(slices_pay(90, plan));
  EXPECT_FALSE(slices_pay(80, plan));
  EXPECT_FALSE(slices_pay(100, plan));
  EXPECT_FALSE(slices_pay(0, plan));
  plan.blocks = 63;
  EXPECT_FALSE(slices_pay(90, plan));
  plan.blocks = 64;
  plan.rows = 256;
  EXPECT_FALSE(slices_pay(90, plan));
}

// The whole cache: 1160 tokens, then a chunk over nine blocks, eight of them a slice.
TEST_P(SliceAttention, ACacheTakesThePathThatTheVariableNames) {
  CacheGeometry g;
  g.heads = 2;
  g.kv_heads = 1;
  g.head_dim = 64;
  for (int p = 0; p < 32; ++p) g.inverse_frequencies.push_back(std::pow(10000.0, -p / 32.0));
  const CompressionConfig config = CompressionConfig::preset("balanced");
  at::manual_seed(7);
  const auto random = [&](int64_t heads) {
    return at::randn({1200, heads, g.head_dim}).to(at::kBFloat16).to(device());
  };
  const at::Tensor q = random(2), k = random(1), v = random(1);
  const auto last_chunk = [&](const char* path) {
    const PrefillVariable variable(path);
    QuantizedKvCache cache = make_cache(g, config, at::kBFloat16);
    const auto attend = [&](int64_t begin, int64_t end) {
      return cache.attend(0, q.slice(0, begin, end), k.slice(0, begin, end),
                          v.slice(0, begin, end));
    };
    attend(0, 1160);
    return attend(1160, 1200).to(at::kDouble);
  };
  const at::Tensor fused = last_chunk("fused");
  EXPECT_TRUE(at::equal(fused, last_chunk("auto")));
  for (const char* path : {"slices", "slices-flash"}) {
    const at::Tensor slices = last_chunk(path);
    // Another order of sums: not the same bits, or nothing was chosen.
    EXPECT_FALSE(at::equal(fused, slices)) << path;
    // Outputs differ by their roundings to bf16, a unit in the last place: 2^-8 of the largest.
    const double error = (fused - slices).abs().max().item<double>();
    const double largest = fused.abs().max().item<double>();
    EXPECT_TRUE(error <= largest / 256) << path << ": " << error << " of " << largest;
  }
  const PrefillVariable variable("slice");
  EXPECT_THROW(make_cache(g, config, at::kBFloat16), UsageError);
}

RILLKV_INSTANTIATE_FOR_EVERY_BACKEND(SliceAttention);

}  // namespace
}  // namespace rillkv::testing
