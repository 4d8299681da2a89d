// Launches on a CUDA stream. Plain C++: the entries are the host stubs that nvcc makes of the .cu
// files, launched by address.
#include <cuda_runtime_api.h>

#include <cstring>
#include <map>
#include <stdexcept>

#include "kernels/cuda/entries.h"
#include "kernels/cuda/launch.h"

namespace rillkv::kernels::cuda {
namespace {

void check(cudaError_t error, const char* action, const std::string& what) {
  if (error != cudaSuccess) {
    throw std::runtime_error(std::string("CUDA: ") + action + " failed (" + what +
                             "): " + cudaGetErrorString(error));
  }
}

/// Makes a device current, and the former one again at the end of the scope.
class DeviceGuard {
 public:
  DeviceGuard(int device, const std::string& what) {
    check(cudaGetDevice(&before_), "cudaGetDevice", what);
    if (before_ == device) return;
    check(cudaSetDevice(device), "cudaSetDevice", what);
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

class StreamQueue final : public Queue {
 public:
  explicit StreamQueue(Stream stream) : stream_(stream) {
    check(cudaGetDevice(&device_), "cudaGetDevice", "no device");
    check(cudaDeviceGetAttribute(&multiprocessors_, cudaDevAttrMultiProcessorCount, device_),
          "cudaDeviceGetAttribute", "multiprocessors");
    check(cudaDeviceGetAttribute(&shared_memory_, cudaDevAttrMaxSharedMemoryPerBlockOptin, device_),
          "cudaDeviceGetAttribute", "shared memory");
  }

  void launch(const Launch& launch) override {
    const std::string what = std::string(launch.entry) + ": " + launch.what;
    const void* function = find_entry(launch.entry);
    if (function == nullptr) throw std::logic_error("no CUDA entry named " + what);
    const DeviceGuard guard(device_, what);
    allow_shared_memory(function, launch.shared_bytes, what);
    void* arguments[] = {const_cast<void*>(launch.params)};
    const cudaError_t error =
        cudaLaunchKernel(function, dim3(launch.grid[0], launch.grid[1], launch.grid[2]),
                         dim3(launch.threads), arguments, launch.shared_bytes, stream_);
    const cudaError_t pending = cudaGetLastError();
    check(error != cudaSuccess ? error : pending, "launch", what);
  }

  int multiprocessors() const override { return multiprocessors_; }
  int shared_memory_limit() const override { return shared_memory_; }

 private:
  static const void* find_entry(const char* name) {
    for (const Entry& entry : kEntries) {
      if (std::strcmp(entry.name, name) == 0) return entry.function;
    }
    return nullptr;
  }

  /// Opts in to more shared memory than the 48 KB every launch may have, when an entry first asks
  /// this queue for so much. The attribute is the function's on this device and only ever grows.
  void allow_shared_memory(const void* function, size_t bytes, const std::string& what) {
    if (bytes <= 48 * 1024) return;
    size_t& allowed = allowed_[function];
    if (bytes <= allowed) return;
    check(
        cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_memory_),
        "cudaFuncSetAttribute(shared memory)", what);
    allowed = static_cast<size_t>(shared_memory_);
  }

  Stream stream_;
  std::map<const void*, size_t> allowed_;
  int device_ = 0;
  int multiprocessors_ = 1;
  int shared_memory_ = 48 * 1024;
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
  return std::make_unique<StreamQueue>(stream);
}

}  // namespace rillkv::kernels::cuda
