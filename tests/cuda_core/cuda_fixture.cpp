#include "tests/cuda_core/cuda_fixture.h"

#include <ATen/Parallel.h>
#include <c10/core/CPUAllocator.h>

#include <filesystem>
#include <mutex>

#include "tests/support/ptx/device.h"
#include "tests/support/test_paths.h"

namespace rillkv::testing {
namespace {

/// Every tensor is a registered buffer of the executor's.
class ExecutorAllocator final : public at::Allocator {
 public:
  at::DataPtr allocate(size_t bytes) override {
    if (bytes == 0) return {nullptr, nullptr, &release, at::kCPU};
    const std::lock_guard<std::mutex> lock(mutex());
    void* data = ptx::allocate_device_memory(bytes);
    return {data, data, &release, at::kCPU};
  }
  at::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    std::memcpy(to, from, bytes);
  }

 private:
  static std::mutex& mutex() {
    static std::mutex instance;
    return instance;
  }
  static void release(void* data) {
    if (data == nullptr) return;
    const std::lock_guard<std::mutex> lock(mutex());
    ptx::free_device_memory(data);
  }
};

/// Hands launches to the executor; an A100's shared memory, and few multiprocessors, so that small
/// calls are split in parts now and then.
class ExecutorQueue final : public kernels::cuda::Queue {
 public:
  explicit ExecutorQueue(ptx::ExecutorDevice& device) : device_(device) {}
  void launch(const kernels::cuda::Launch& launch) override {
    device_.launch({launch.entry,
                    {launch.grid[0], launch.grid[1], launch.grid[2]},
                    {launch.threads, 1, 1},
                    launch.shared_bytes,
                    launch.params,
                    launch.params_bytes});
  }
  int multiprocessors() const override { return 3; }
  int shared_memory_limit() const override { return device_.shared_memory_limit(); }

 private:
  ptx::ExecutorDevice& device_;
};

std::vector<ptx::Module> load_kernels() {
  std::vector<ptx::Module> modules;
  for (const auto& file : std::filesystem::directory_iterator(test::ptx_dir())) {
    if (file.path().extension() == ".ptx") modules.push_back(ptx::Module::load(file.path()));
  }
  return modules;
}

class ExecutorBackend final : public CudaBackend {
 public:
  explicit ExecutorBackend(uint64_t seed) : executor_(load_kernels(), seed) {}
  at::Device device() const override { return at::kCPU; }
  kernels::cuda::Queue& queue() override { return queue_; }

 private:
  ptx::ExecutorDevice executor_;
  ExecutorQueue queue_{executor_};
};

}  // namespace

std::shared_ptr<CudaBackend> make_executor_backend(uint64_t seed) {
  static const bool once = [] {
    static ExecutorAllocator allocator;
    c10::SetCPUAllocator(&allocator, /*priority=*/1);
    at::set_num_threads(1);  // small tensors: threads would only wait for each other
    return true;
  }();
  static_cast<void>(once);
  return std::make_shared<ExecutorBackend>(seed);
}

void EveryBackend::SetUp() {
  // Before any test asks LibTorch for random numbers, which makes it look for CUDA once and for
  // all. A device that cannot be used is an error, not a reason to skip.
  static const std::shared_ptr<CudaBackend> gpu =
      kernels::cuda::device_count() > 0 ? cuda_backend(at::kCUDA) : nullptr;
  if (on_executor()) {
    use_seed(0);
  } else if (gpu != nullptr) {
    backend_ = gpu;
  } else {
    GTEST_SKIP() << "no GPU";
  }
}

}  // namespace rillkv::testing
