// What core asks of CUDA. There are three: a CUDA device under LibTorch's current stream
// (cuda_backend.cpp), none (no_cuda_backend.cpp), and in tests the PTX executor, whose device
// memory is the CPU's.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>

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

/// Loads libtorch_cuda from the folder of libtorch_cpu, once. Throws Error if it cannot be.
void load_torch_cuda();

}  // namespace rillkv
