// One attention shape on a device against its oracle, by the entry that a test expects.
#pragma once

#include <string>

#include "kernels/cuda/shared_layout.h"
#include "tests/cuda/device_scenario.h"

namespace rillkv::test {

class CudaAttentionTest : public ToleranceTest {
 protected:
  /// Runs one shape and expects this entry to have been used.
  void check(const Shape& shape, const std::string& entry, int multiprocessors = 1) {
    Scenario scenario(shape);
    DeviceQueue queue(device(), multiprocessors);
    attend_on_device(device(), queue, {&scenario});
    ASSERT_FALSE(queue.entries().empty());
    // The scenario's blocks differ in size, which leaves room for the largest in shared memory:
    // more than some GPUs have.
    const bool decode = entry.find("decode") != std::string::npos;
    const int D = shape.head_dim, blocks = kernels::cuda::key_block_bytes_at_most(D) +
                                           kernels::cuda::value_block_bytes_at_most(D);
    const int most = decode ? kernels::cuda::DecodeShared(D, shape.trellis).bytes(D, blocks)
                     : shape.trellis ? kernels::cuda::PrefillTrellisShared(D).bytes(
                                           D,
                                           kernels::cuda::trellis_value_code_bytes(
                                               D, shape.value_width, shape.value_wide_pairs),
                                           0)
                                     : kernels::cuda::PrefillShared(D).bytes(D, 0);
    const bool fits = most <= queue.shared_memory_limit();
    if (fits) {
      EXPECT_EQ(queue.entries()[0], entry) << shape;
    }
    expect_close(scenario, queue.entries()[0] == "rillkv_attention_generic");
  }
  void expect_close(Scenario& scenario, bool generic) {
    const double error = scenario.error(), tolerance = device_tolerance(scenario, generic);
    EXPECT_TRUE(error <= tolerance)
        << "error " << error << " > " << tolerance << ": " << scenario.shape();
    took(error / tolerance);
  }
};

/// "rillkv_prefill_d64_bf16", kernel being "prefill".
inline std::string fast_entry(const char* kernel, int head_dim, Dtype dtype) {
  return std::string("rillkv_") + kernel + "_d" + std::to_string(head_dim) +
         (dtype == Dtype::kBFloat16 ? "_bf16" : "_fp16");
}

}  // namespace rillkv::test
