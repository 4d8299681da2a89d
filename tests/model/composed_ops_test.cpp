// What a model computes off the CPU with LibTorch's operations, against the CPU's kernels.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "model/llama_layer.h"

namespace rillkv {
namespace {

/// Both round once to the dtype, after f32 arithmetic that differs by a few 2^-24: one unit in the
/// last place of the dtype (2^-7, 2^-10 relative), or 16 times 2^-24 in f32.
void expect_close(const at::Tensor& found, const at::Tensor& expected) {
  const double unit = found.scalar_type() == at::kFloat      ? 16 * std::ldexp(1.0, -24)
                      : found.scalar_type() == at::kBFloat16 ? std::ldexp(1.0, -7)
                                                             : std::ldexp(1.0, -10);
  const at::Tensor x = found.to(at::kDouble), y = expected.to(at::kDouble);
  const double worst = ((x - y).abs() / (y.abs() + 1e-3)).max().item<double>();
  EXPECT_TRUE(worst <= unit) << worst << " > " << unit << " for " << found.scalar_type();
}

TEST(ComposedOps, NormAndGateEqualTheCpusKernels) {
  for (at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
    at::manual_seed(1);
    const at::Tensor x = at::randn({5, 67}).to(dtype), delta = at::randn({5, 67}).to(dtype);
    const at::Tensor weight = (at::rand({67}) + 0.5).to(dtype);
    at::Tensor here = x.clone(), there = x.clone();
    expect_close(composed_rms_norm(here, {}, weight, 1e-5), rms_norm(x, weight, 1e-5));
    const at::Tensor found = composed_rms_norm(here, delta, weight, 1e-5);
    expect_close(found, add_rms_norm(there, delta, weight, 1e-5));
    EXPECT_TRUE(at::equal(here, there));  // the sum, which is the next residual
    const at::Tensor both = at::randn({5, 2 * 67}).to(dtype) * 4;
    expect_close(composed_gate(both), gate(both));
  }
}

}  // namespace
}  // namespace rillkv
