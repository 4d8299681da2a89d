// The same test body on the PTX executor and, where there is one, on a GPU.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cuda/launch.h"
#include "kernels/params.h"
#include "tests/kernels/isa_fixture.h"
#include "tests/support/ptx/device.h"

namespace rillkv::test {

/// The executor under this seed (0: warps in order; others: shuffled and interleaved), with race
/// and bounds checks; `profile` collects bank conflicts and sectors.
std::unique_ptr<ptx::ExecutorDevice> make_executor(uint64_t seed, bool profile = false);
/// Null without a GPU, or in a build without CUDA.
std::unique_ptr<ptx::Device> make_gpu();

/// Hands the launch plans' launches to a Device. `multiprocessors` decides how attention is split.
class DeviceQueue final : public kernels::cuda::Queue {
 public:
  DeviceQueue(ptx::Device& device, int multiprocessors)
      : device_(device),
        multiprocessors_(multiprocessors),
        shared_memory_limit_(device.shared_memory_limit()) {}
  void launch(const kernels::cuda::Launch& launch) override {
    entries_.push_back(launch.entry);
    device_.launch({launch.entry,
                    {launch.grid[0], launch.grid[1], launch.grid[2]},
                    {launch.threads, 1, 1},
                    launch.shared_bytes,
                    launch.params,
                    launch.params_bytes});
  }
  int multiprocessors() const override { return multiprocessors_; }
  int shared_memory_limit() const override { return shared_memory_limit_; }
  void set_shared_memory_limit(int bytes) { shared_memory_limit_ = bytes; }
  /// What was launched, in order.
  const std::vector<std::string>& entries() const { return entries_; }

 private:
  ptx::Device& device_;
  int multiprocessors_;
  int shared_memory_limit_;
  std::vector<std::string> entries_;
};

/// Parameter "executor" or "gpu"; the latter is skipped where there is none.
class EveryDevice : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (std::strcmp(GetParam(), "gpu") == 0) {
      device_ = make_gpu();
      if (device_ == nullptr) GTEST_SKIP() << "no GPU";
    } else {
      use_seed(0);
    }
  }
  /// Another order of warps from here on; nothing on a GPU.
  void use_seed(uint64_t seed) {
    if (std::strcmp(GetParam(), "gpu") != 0) device_ = make_executor(seed);
  }
  /// Runs a test's body under several orders of warps: races and missing barriers show under
  /// others, if not under the first. Once on a GPU.
  template <typename Body>
  void under_every_order(const Body& body) {
    const bool on_executor = std::strcmp(GetParam(), "gpu") != 0;
    for (uint64_t seed = 0; seed < (on_executor ? 4 : 1); ++seed) {
      SCOPED_TRACE("order of warps " + std::to_string(seed));
      use_seed(seed);
      body();
      if (HasFatalFailure()) return;
    }
  }
  ptx::Device& device() { return *device_; }

 private:
  std::unique_ptr<ptx::Device> device_;
};

/// Records how much of their tolerance a test's comparisons took at most.
class ToleranceTest : public EveryDevice {
 protected:
  void took(double error_over_tolerance) {
    worst_ratio_ = std::max(worst_ratio_, error_over_tolerance);
  }
  void TearDown() override {
    RecordProperty("worst_error_over_tolerance", std::to_string(worst_ratio_));
  }

 private:
  double worst_ratio_ = 0;
};

/// Those of the fast paths.
inline constexpr kernels::Dtype kFastDtypes[] = {kernels::Dtype::kBFloat16,
                                                 kernels::Dtype::kFloat16};

#define RILLKV_INSTANTIATE_FOR_EVERY_DEVICE(fixture)       \
  INSTANTIATE_TEST_SUITE_P(                                \
      Device, fixture, testing::Values("executor", "gpu"), \
      [](const testing::TestParamInfo<const char*>& info) { return std::string(info.param); })

/// An activation on the device, [tokens, heads, head_dim] without gaps.
class DeviceActivation {
 public:
  DeviceActivation(ptx::Device& device, const std::vector<uint8_t>& bytes, int heads, int head_dim)
      : data_(device, bytes), heads_(heads), head_dim_(head_dim) {}
  /// Every element of a host activation of `tokens` tokens.
  static DeviceActivation copy_of(ptx::Device& device, const kernels::Activation& x, Dtype dtype,
                                  int tokens, int heads, int head_dim) {
    const size_t size = dtype_bytes(dtype);
    std::vector<uint8_t> bytes;
    for (int t = 0; t < tokens; ++t) {
      for (int h = 0; h < heads; ++h) {
        const auto* row = static_cast<const uint8_t*>(x.data) +
                          static_cast<size_t>(t * x.token_stride + h * x.head_stride) * size;
        bytes.insert(bytes.end(), row, row + static_cast<size_t>(head_dim) * size);
      }
    }
    return DeviceActivation(device, bytes, heads, head_dim);
  }
  kernels::Activation activation() const {
    return {data_.data(), int64_t{heads_} * head_dim_, head_dim_};
  }
  kernels::MutableActivation mutable_activation() const {
    return {data_.data(), int64_t{heads_} * head_dim_, head_dim_};
  }
  std::vector<uint8_t> bytes() const { return data_.to_vector(); }

 private:
  ptx::DeviceArray<uint8_t> data_;
  int heads_, head_dim_;
};

}  // namespace rillkv::test
