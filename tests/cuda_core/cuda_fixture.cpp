#include "tests/cuda_core/cuda_fixture.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/record_function.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <map>
#include <mutex>
#include <stdexcept>
#include <utility>
#include <vector>

#include "rillkv/files.h"
#include "tests/support/ptx/device.h"
#include "tests/support/test_paths.h"

namespace rillkv::testing {
namespace {

/// Every tensor is a registered buffer of the executor's. What is freed of a capture's memory stays
/// until its graph is gone, as in a private pool of LibTorch's.
class ExecutorAllocator final : public at::Allocator {
 public:
  using Pool = std::vector<void*>;

  at::DataPtr allocate(size_t bytes) override {
    if (bytes == 0) return {nullptr, nullptr, &release, at::kCPU};
    const std::lock_guard<std::mutex> lock(mutex());
    void* data = ptx::allocate_device_memory(bytes);
    if (pool() != nullptr) pooled()[data] = false;
    return {data, data, &release, at::kCPU};
  }
  at::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    std::memcpy(to, from, bytes);
  }

  /// Allocations from here on, until `end`, belong to `pool`.
  static void begin(Pool* to) {
    const std::lock_guard<std::mutex> lock(mutex());
    pool() = to;
  }
  static void end() {
    const std::lock_guard<std::mutex> lock(mutex());
    for (const auto& [data, freed] : pooled()) {
      if (std::find(pool()->begin(), pool()->end(), data) == pool()->end()) {
        pool()->push_back(data);
      }
    }
    pool() = nullptr;
  }
  /// The graph is gone: what was freed is free.
  static void free(const Pool& all) {
    const std::lock_guard<std::mutex> lock(mutex());
    for (void* data : all) {
      const auto found = pooled().find(data);
      if (found == pooled().end()) continue;
      if (found->second) ptx::free_device_memory(data);
      pooled().erase(found);
    }
  }

 private:
  static std::mutex& mutex() {
    static std::mutex instance;
    return instance;
  }
  static Pool*& pool() {
    static Pool* instance = nullptr;
    return instance;
  }
  /// Memory of pools, and whether its tensor has freed it.
  static std::map<void*, bool>& pooled() {
    static std::map<void*, bool> instance;
    return instance;
  }
  static void release(void* data) {
    if (data == nullptr) return;
    const std::lock_guard<std::mutex> lock(mutex());
    if (const auto found = pooled().find(data); found != pooled().end()) {
      found->second = true;
      return;
    }
    ptx::free_device_memory(data);
  }
};

/// Hands launches to the executor; an A100's shared memory, and few multiprocessors, so that small
/// calls are split in parts now and then.
class ExecutorQueue final : public kernels::cuda::Queue {
 public:
  /// Work of a capture: run when it is replayed.
  using Record = std::vector<std::function<void()>>;

  explicit ExecutorQueue(ptx::ExecutorDevice& device) : device_(device) {}
  void launch(const kernels::cuda::Launch& launch) override {
    const auto* bytes = static_cast<const uint8_t*>(launch.params);
    const std::vector<uint8_t> params(bytes, bytes + launch.params_bytes);
    run([this, params, entry = std::string(launch.entry), x = launch.grid[0], y = launch.grid[1],
         z = launch.grid[2], threads = launch.threads, shared = launch.shared_bytes] {
      device_.launch({entry, {x, y, z}, {threads, 1, 1}, shared, params.data(), params.size()});
    });
  }
  /// A launch of ours or of LibTorch's: now, or recorded.
  void run(std::function<void()> work) {
    if (record != nullptr) {
      record->push_back(std::move(work));
      return;
    }
    ++traffic.launches;
    work();
  }

  Record* record = nullptr;
  DeviceTraffic traffic;

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

class ExecutorGraph final : public CudaGraph {
 public:
  ExecutorGraph(ExecutorQueue::Record record, ExecutorAllocator::Pool pool, DeviceTraffic& traffic)
      : record_(std::move(record)), pool_(std::move(pool)), traffic_(traffic) {}
  ~ExecutorGraph() override {
    record_.clear();
    ExecutorAllocator::free(pool_);
  }
  ExecutorGraph(const ExecutorGraph&) = delete;
  ExecutorGraph& operator=(const ExecutorGraph&) = delete;
  void replay() override {
    ++traffic_.replays;
    for (const auto& work : record_) work();
  }

 private:
  ExecutorQueue::Record record_;
  ExecutorAllocator::Pool pool_;
  DeviceTraffic& traffic_;
};

class ExecutorBackend final : public CudaBackend {
 public:
  explicit ExecutorBackend(uint64_t seed) : executor_(load_kernels(), seed) {}
  at::Device device() const override { return at::kCPU; }
  kernels::cuda::Queue& queue() override { return queue_; }
  void upload(const void* from, const at::Tensor& to) override {
    if (queue_.record != nullptr) throw std::logic_error("a copy from the host in a capture");
    ++queue_.traffic.uploads;
    if (to.nbytes() > 0) std::memcpy(to.mutable_data_ptr(), from, to.nbytes());
  }
  void download(const std::vector<Download>& copies) override {
    if (queue_.record != nullptr) throw std::logic_error("a copy to the host in a capture");
    ++queue_.traffic.waits;
    for (const Download& copy : copies) {
      ++queue_.traffic.downloads;
      std::memcpy(copy.to, copy.from.const_data_ptr(), copy.from.nbytes());
    }
  }
  at::Tensor linear(const at::Tensor& x, const at::Tensor& weight,
                    const at::Tensor& bias) override {
    at::Tensor out = at::empty({x.size(0), weight.size(0)}, x.options());
    queue_.run([x, weight, bias, out] {
      const c10::InferenceMode inference;
      const at::DisableRecordFunctionGuard unseen;
      at::Tensor(out).copy_(at::linear(x, weight, bias));
    });
    return out;
  }
  std::unique_ptr<CudaGraph> capture(const std::function<void()>& work) override {
    ++queue_.traffic.captures;
    ExecutorQueue::Record record;
    ExecutorAllocator::Pool pool;
    ExecutorAllocator::begin(&pool);
    queue_.record = &record;
    work();
    queue_.record = nullptr;
    ExecutorAllocator::end();
    return std::make_unique<ExecutorGraph>(std::move(record), std::move(pool), queue_.traffic);
  }
  void prepare(const std::function<void()>& work) override { work(); }
  uint64_t stream() const override { return stream_; }
  void follow(uint64_t before, const std::vector<at::Tensor>& used) override {
    if (before == stream_) throw std::logic_error("a stream that follows itself");
    ++queue_.traffic.joins;
    for (const at::Tensor& x : used) {
      if (x.defined()) queue_.traffic.recorded.insert(x.storage().mutable_data());
    }
  }
  void set_stream(uint64_t stream) { stream_ = stream; }

  DeviceTraffic& traffic() { return queue_.traffic; }

 private:
  ptx::ExecutorDevice executor_;
  ExecutorQueue queue_{executor_};
  uint64_t stream_ = 0;
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

DeviceTraffic& traffic(CudaBackend& executor) {
  return dynamic_cast<ExecutorBackend&>(executor).traffic();
}

void set_stream(CudaBackend& executor, uint64_t stream) {
  dynamic_cast<ExecutorBackend&>(executor).set_stream(stream);
}

ModelConfig random_llama_config(const std::string& name) {
  return ModelConfig::from_json(
      read_file(test::test_data_dir() + "/random_llama/" + name + ".json"), name);
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
