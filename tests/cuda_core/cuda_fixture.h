// Core's CUDA code on the PTX executor and, where there is one, on a GPU.
#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <set>
#include <string>

#include "core/cache_access.h"
#include "core/cuda_backend.h"
#include "rillkv/kv_cache.h"
#include "rillkv/model_config.h"

namespace rillkv::testing {

/// Kernels run on the executor under this seed (0: warps in order), on CPU tensors. From the first
/// back end on, every CPU tensor of the process is a buffer of its own to the executor, with NaNs
/// in it and guards around it: a kernel that leaves one, or takes a pointer that is none, is
/// stopped.
std::shared_ptr<CudaBackend> make_executor_backend(uint64_t seed);

/// What an executor's back end was asked to do, in launches, copies and waits.
struct DeviceTraffic {
  int64_t launches = 0;  // of kernels of ours and of `linear`, outside of graphs
  int64_t uploads = 0, downloads = 0, waits = 0, captures = 0, replays = 0;
  int64_t joins = 0;         // of one stream with another
  std::set<void*> recorded;  // memory that was said to be used by another stream
};
DeviceTraffic& traffic(CudaBackend& executor);
/// Makes another stream LibTorch's current one, as far as the executor's back end says.
void set_stream(CudaBackend& executor, uint64_t stream);

/// tests/data/random_llama/NAME.json, of which random_llama(NAME, ..) are weights.
ModelConfig random_llama_config(const std::string& name);

/// Parameter "executor" or "gpu"; the latter is skipped where there is none.
class EveryBackend : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override;
  /// Another order of warps for the caches made from here on; nothing on a GPU.
  void use_seed(uint64_t seed) {
    if (on_executor()) backend_ = make_executor_backend(seed);
  }
  bool on_executor() const { return std::strcmp(GetParam(), "gpu") != 0; }
  at::Device device() const { return backend_->device(); }
  const std::shared_ptr<CudaBackend>& backend() const { return backend_; }
  QuantizedKvCache make_cache(const CacheGeometry& geometry, const CompressionConfig& config,
                              at::ScalarType dtype,
                              CacheProtocol protocol = CacheProtocol::kPrefill) const {
    return CacheAccess::over(backend_, geometry, config, dtype, protocol);
  }

 private:
  std::shared_ptr<CudaBackend> backend_;
};

#define RILLKV_INSTANTIATE_FOR_EVERY_BACKEND(fixture)        \
  INSTANTIATE_TEST_SUITE_P(                                  \
      Device, fixture, ::testing::Values("executor", "gpu"), \
      [](const ::testing::TestParamInfo<const char*>& info) { return std::string(info.param); })

}  // namespace rillkv::testing
