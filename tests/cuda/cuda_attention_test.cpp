// CUDA attention kernels against naive attention in double: sinks, sealed blocks, tail and chunk,
// both policies, prefill, decode and the generic path, splits and batches.
#include "tests/cuda/device_scenario.h"

namespace rillkv::test {
namespace {

/// What a kernel with tiles of this dtype may be off by. The generic kernel computes in fp32. fp16
/// tiles round to 11 significant bits where bf16 tiles round to 8, so their roundings are an eighth;
/// a quarter is allowed.
double device_tolerance(Scenario& scenario, bool generic) {
  const Dtype dtype = scenario.shape().dtype;
  if (dtype == Dtype::kFloat32 || generic) return scenario.float32_tolerance();
  const double bf16 = scenario.bfloat16_tolerance();
  return dtype == Dtype::kBFloat16 ? bf16 : bf16 / 4 + scenario.float32_tolerance();
}

class CudaAttentionTest : public EveryDevice {
 protected:
  /// Runs one shape and expects this entry to have been used.
  void check(const Shape& shape, const std::string& entry, int multiprocessors = 1) {
    Scenario scenario(shape);
    DeviceQueue queue(device(), multiprocessors);
    attend_on_device(device(), queue, {&scenario});
    ASSERT_FALSE(queue.entries().empty());
    EXPECT_EQ(queue.entries()[0], entry) << shape;
    expect_close(scenario, entry == "rillkv_attention_generic");
  }
  void expect_close(Scenario& scenario, bool generic) {
    const double error = scenario.error(), tolerance = device_tolerance(scenario, generic);
    EXPECT_TRUE(error <= tolerance)
        << "error " << error << " > " << tolerance << ": " << scenario.shape();
    worst_ratio_ = std::max(worst_ratio_, error / tolerance);
  }
  void TearDown() override {
    RecordProperty("worst_error_over_tolerance", std::to_string(worst_ratio_));
  }

 private:
  double worst_ratio_ = 0;
};

TEST_P(CudaAttentionTest, DecodeEveryPart) {
  check({.dtype = Dtype::kBFloat16, .rotate_output = true, .queries = 3, .seed = 1},
        "rillkv_decode_d64_bf16");
}

TEST_P(CudaAttentionTest, PrefillEveryPart) {
  check({.dtype = Dtype::kBFloat16, .rotate_output = true, .tail = 37, .queries = 45, .seed = 2},
        "rillkv_prefill_d64_bf16");
}

TEST_P(CudaAttentionTest, PrefillHeadDim128) {
  check({.heads = 2,
         .kv_heads = 2,
         .head_dim = 128,
         .dtype = Dtype::kBFloat16,
         .value_groups = 2,
         .rotate_output = true,
         .blocks = 1,
         .queries = 40,
         .seed = 3},
        "rillkv_prefill_d128_bf16");
}

RILLKV_INSTANTIATE_FOR_EVERY_DEVICE(CudaAttentionTest);

}  // namespace
}  // namespace rillkv::test
