// What core asks of CUDA. There are three: a CUDA device under LibTorch's current stream
// (cuda_backend.cpp), none (no_cuda_backend.cpp), and in tests the PTX executor, whose device
// memory is the CPU's.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <string>

#include "kernels/cuda/launch.h"

namespace rillkv {

/// A place where CUDA kernels run. Used by one thread at a time.
class CudaBackend {
 public:
  virtual ~CudaBackend() = default;
  /// Where tensors must live for the kernels to read them.
  virtual at::Device device() const = 0;
  /// Launches go here, in order with LibTorch's own work on the device.
  virtual kernels::cuda::Queue& queue() = 0;
};

/// The back end of a CUDA device (no index: the current one). Throws as open_device does.
std::shared_ptr<CudaBackend> cuda_backend(at::Device device);

/// Seconds that the device takes for what `work` puts on LibTorch's current stream, by CUDA events.
/// Throws where there is no CUDA.
double device_seconds(at::Device device, const std::function<void()>& work);

/// A CUDA device's figures, for benchmarks.
struct DeviceFigures {
  std::string name;
  int multiprocessors = 0, compute_capability = 0;  // 80, 90, ...
  double clock_hz = 0, memory_bytes_s = 0;
  int shared_memory_limit = 0;  // bytes a block may have
};
DeviceFigures device_figures(at::Device device);

/// Loads libtorch_cuda from the folder of libtorch_cpu, once. Throws Error if it cannot be.
void load_torch_cuda();

}  // namespace rillkv
