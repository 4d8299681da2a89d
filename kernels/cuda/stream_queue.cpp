// Launches on a CUDA stream. Plain C++: the entries are the host stubs that nvcc makes of the .cu
// files, launched by address.
#include <cuda_runtime_api.h>

#include <cstring>
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
    int current = device_;
    check(cudaGetDevice(&current), "cudaGetDevice", what);
    if (current != device_) check(cudaSetDevice(device_), "cudaSetDevice", what);
    if (launch.shared_bytes > 48 * 1024) {  // the most that needs no opting in
      check(cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(launch.shared_bytes)),
            "cudaFuncSetAttribute(shared memory)", what);
    }
    void* arguments[] = {const_cast<void*>(launch.params)};
    const cudaError_t error =
        cudaLaunchKernel(function, dim3(launch.grid[0], launch.grid[1], launch.grid[2]),
                         dim3(launch.threads), arguments, launch.shared_bytes, stream_);
    const cudaError_t pending = cudaGetLastError();
    if (current != device_) check(cudaSetDevice(current), "cudaSetDevice", what);
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

  Stream stream_;
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
