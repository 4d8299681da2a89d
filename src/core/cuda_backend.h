// What the library asks of CUDA. There are three: a CUDA device under LibTorch's current stream
// (cuda_backend.cpp), none (no_cuda_backend.cpp), and in tests the PTX executor, whose device
// memory is the CPU's.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cuda/queue.h"

namespace rillkv {

/// Work that was put on a device once, to be run again as it was: a captured CUDA graph. Keeps the
/// memory that was allocated meanwhile.
class CudaGraph {
 public:
  virtual ~CudaGraph() = default;
  /// On LibTorch's current stream.
  virtual void replay() = 0;
};

/// A copy to the host: `bytes` of a contiguous tensor.
struct Download {
  at::Tensor from;
  void* to = nullptr;
};

/// A place where CUDA kernels run: everything is done in the order of LibTorch's current stream.
/// Used by one thread at a time.
class CudaBackend {
 public:
  virtual ~CudaBackend() = default;
  /// Where tensors must live for the kernels to read them.
  virtual at::Device device() const = 0;
  /// Launches go here, in order with LibTorch's own work on the device.
  virtual kernels::cuda::Queue& queue() = 0;

  /// Copies to the device without waiting for it: through pinned memory, so `from` has been read
  /// when this returns. to: contiguous.
  virtual void upload(const void* from, const at::Tensor& to) = 0;
  /// Copies to the host and waits, once for all of them, for what is on the stream.
  virtual void download(const std::vector<Download>& copies) = 0;

  /// x weight^T + bias by LibTorch (one launch there); x: [rows, in], weight: [out, in], bias:
  /// [out] or undefined. To be used where the work may be captured.
  virtual at::Tensor linear(const at::Tensor& x, const at::Tensor& weight,
                            const at::Tensor& bias) = 0;
  /// Records what `work` puts on the device (launches and `linear`) without running it. Before,
  /// the same work must have run in `prepare`, where capturing would happen: libraries allocate on
  /// first use.
  virtual std::unique_ptr<CudaGraph> capture(const std::function<void()>& work) = 0;
  virtual void prepare(const std::function<void()>& work) = 0;

  /// A number for LibTorch's current stream.
  virtual uint64_t stream() const = 0;
  /// Makes the current stream wait for what is on stream `before`, and lets LibTorch's allocator
  /// know that it uses these tensors, too (record_stream).
  virtual void follow(uint64_t before, const std::vector<at::Tensor>& used) = 0;
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
