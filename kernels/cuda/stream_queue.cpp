// Launches on a CUDA stream. Plain C++: the entries are the host stubs that nvcc makes of the .cu
// files, launched by address.
#include <cuda_runtime_api.h>

#include <array>
#include <atomic>
#include <iterator>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>

#include "kernels/cuda/entries.h"
#include "kernels/cuda/queue.h"

namespace rillkv::kernels::cuda {
namespace {

template <typename What>
void check(cudaError_t error, const char* action, const What& what) {
  if (error != cudaSuccess) {
    throw std::runtime_error(std::string("CUDA: ") + action + " failed (" + what +
                             "): " + cudaGetErrorString(error));
  }
}

/// Makes a device current, and the former one again at the end of the scope.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    check(cudaGetDevice(&before_), "cudaGetDevice", "launch");
    if (before_ == device) return;
    check(cudaSetDevice(device), "cudaSetDevice", "launch");
    changed_ = true;
  }
  ~DeviceGuard() {
    if (changed_) static_cast<void>(cudaSetDevice(before_));
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int before_ = 0;
  bool changed_ = false;
};

/// What holds for a device whoever launches there; asked for once.
class DeviceState {
 public:
  explicit DeviceState(int device) {
    check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device),
          "cudaDeviceGetAttribute", "multiprocessors");
    check(cudaDeviceGetAttribute(&shared_memory, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
          "cudaDeviceGetAttribute", "shared memory");
  }

  int multiprocessors = 1;
  int shared_memory = 48 * 1024;
  /// Of kEntries: may have all of shared_memory here.
  std::array<std::atomic<bool>, std::size(kEntries)> allowed = {};
};

DeviceState& device_state(int device) {
  static std::mutex mutex;
  static std::map<int, std::unique_ptr<DeviceState>> states;
  const std::lock_guard<std::mutex> lock(mutex);
  std::unique_ptr<DeviceState>& state = states[device];
  if (state == nullptr) state = std::make_unique<DeviceState>(device);
  return *state;
}

/// The place of an entry in kEntries, or their number.
size_t find_entry(const char* name) {
  static const auto places = [] {
    std::unordered_map<std::string_view, size_t> all;
    for (const Entry& entry : kEntries) all.emplace(entry.name, all.size());
    return all;
  }();
  const auto found = places.find(name);
  return found == places.end() ? std::size(kEntries) : found->second;
}

class StreamQueue final : public Queue {
 public:
  /// `current` null: `stream`, always.
  StreamQueue(int device, Stream stream, Stream (*current)(int device))
      : device_(device), stream_(stream), current_(current), state_(device_state(device)) {}

  void launch(const Launch& launch) override {
    const size_t place = find_entry(launch.entry);
    if (place == std::size(kEntries)) {
      throw std::logic_error("no CUDA entry named " + describe(launch));
    }
    const DeviceGuard guard(device_);
    const void* function = kEntries[place].function;
    allow_shared_memory(place, launch);
    void* arguments[] = {const_cast<void*>(launch.params)};
    const cudaError_t error = cudaLaunchKernel(
        function, dim3(launch.grid[0], launch.grid[1], launch.grid[2]), dim3(launch.threads),
        arguments, launch.shared_bytes, current_ == nullptr ? stream_ : current_(device_));
    // Its value says all about this launch. The thread's last error may be another's, who may still
    // want to see it; ours, which is thrown here, must not surface once more elsewhere.
    if (error == cudaSuccess) return;
    static_cast<void>(cudaGetLastError());
    check(error, "launch", describe(launch));
  }

  int multiprocessors() const override { return state_.multiprocessors; }
  int shared_memory_limit() const override { return state_.shared_memory; }

 private:
  static std::string describe(const Launch& launch) {
    return std::string(launch.entry) + ": " + launch.what.text();
  }

  /// Opts in to more shared memory than the 48 KB every launch may have, when an entry first asks
  /// for so much on this device. Two threads may both do it: it is the same attribute.
  void allow_shared_memory(size_t place, const Launch& launch) {
    std::atomic<bool>& allowed = state_.allowed[place];
    if (launch.shared_bytes <= 48 * 1024 || allowed.load(std::memory_order_acquire)) return;
    const cudaError_t error =
        cudaFuncSetAttribute(kEntries[place].function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             state_.shared_memory);
    if (error != cudaSuccess) {
      static_cast<void>(cudaGetLastError());
      check(error, "cudaFuncSetAttribute(shared memory)", describe(launch));
    }
    allowed.store(true, std::memory_order_release);
  }

  int device_;
  Stream stream_;
  Stream (*current_)(int);
  DeviceState& state_;
};

}  // namespace

int device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    static_cast<void>(cudaGetLastError());  // no driver or no device is an answer, not an error
    return 0;
  }
  return count;
}

bool cuda_available() { return device_count() > 0; }

std::unique_ptr<Queue> make_stream_queue(Stream stream) {
  int device = 0;
  check(cudaGetDevice(&device), "cudaGetDevice", "no device");
  return std::make_unique<StreamQueue>(device, stream, nullptr);
}

std::unique_ptr<Queue> make_stream_queue(int device, Stream (*current)(int device)) {
  return std::make_unique<StreamQueue>(device, nullptr, current);
}

}  // namespace rillkv::kernels::cuda
