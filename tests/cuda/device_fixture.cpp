#include "tests/cuda/device_fixture.h"

#include <filesystem>

#include "tests/support/test_paths.h"

#if defined(RILLKV_TEST_WITH_CUDA_RUNTIME)
#include <cuda_runtime_api.h>
#endif

namespace rillkv::test {

std::unique_ptr<ptx::ExecutorDevice> make_executor(uint64_t seed, bool profile) {
  std::vector<ptx::Module> modules;
  for (const auto& file : std::filesystem::directory_iterator(ptx_dir())) {
    if (file.path().extension() == ".ptx") modules.push_back(ptx::Module::load(file.path()));
  }
  return std::make_unique<ptx::ExecutorDevice>(std::move(modules), seed, profile);
}

#if defined(RILLKV_TEST_WITH_CUDA_RUNTIME)
namespace {

class Gpu final : public ptx::Device {
 public:
  void* allocate(size_t bytes) override {
    void* memory = nullptr;
    check(cudaMalloc(&memory, bytes + 1));
    check(cudaMemset(memory, 0xff, bytes + 1));
    return memory;
  }
  void release(void* begin) override { check(cudaFree(begin)); }
  void upload(void* device, const void* host, size_t bytes) override {
    check(cudaMemcpy(device, host, bytes, cudaMemcpyHostToDevice));
  }
  void download(void* host, const void* device, size_t bytes) override {
    check(cudaMemcpy(host, device, bytes, cudaMemcpyDeviceToHost));
  }
  void launch(const ptx::KernelLaunch& launch) override {
    kernels::cuda::Launch plan;
    plan.entry = launch.entry.c_str();
    plan.grid[0] = launch.grid.x;
    plan.grid[1] = launch.grid.y;
    plan.grid[2] = launch.grid.z;
    plan.threads = launch.block.x;
    plan.shared_bytes = launch.shared_bytes;
    plan.params = launch.params;
    plan.params_bytes = launch.params_bytes;
    queue_->launch(plan);
    check(cudaDeviceSynchronize());
  }
  int shared_memory_limit() const override { return queue_->shared_memory_limit(); }

 private:
  static void check(cudaError_t error) {
    if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(error));
  }
  std::unique_ptr<kernels::cuda::Queue> queue_ = kernels::cuda::make_stream_queue(nullptr);
};

}  // namespace

std::unique_ptr<ptx::Device> make_gpu() {
  return kernels::cuda::cuda_available() ? std::make_unique<Gpu>() : nullptr;
}
#else
std::unique_ptr<ptx::Device> make_gpu() { return nullptr; }
#endif

}  // namespace rillkv::test
