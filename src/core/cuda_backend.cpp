#include "core/cuda_backend.h"

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <dlfcn.h>
#include <link.h>

#include <cstring>
#include <mutex>
#include <stdexcept>
#include <string>

#include "core/stream_graph.h"
#include "rillkv/device.h"
#include "rillkv/error.h"

namespace rillkv {
namespace {

/// The folder of the libtorch_cpu of this process; empty if it was linked statically.
std::string torch_folder() {
  std::string folder;
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* out) {
        const std::string path = info->dlpi_name;
        const size_t slash = path.rfind('/');
        if (slash == std::string::npos || path.compare(slash + 1, 12, "libtorch_cpu") != 0) {
          return 0;
        }
        *static_cast<std::string*>(out) = path.substr(0, slash + 1);
        return 1;
      },
      &folder);
  return folder;
}

/// Runs `action`, whose CUDA failures become the library's errors: kernels know no header of ours.
template <typename Action>
auto with_errors(const Action& action) {
  try {
    return action();
  } catch (const std::runtime_error& error) {
    throw Error(error.what());
  }
}

/// Over LibTorch's current stream at each launch.
class StreamQueue final : public kernels::cuda::Queue {
 public:
  explicit StreamQueue(c10::DeviceIndex index)
      : queue_(with_errors([&] {
          return kernels::cuda::make_stream_queue(index, [](int device) {
            return c10::cuda::getCurrentCUDAStream(static_cast<c10::DeviceIndex>(device)).stream();
          });
        })) {}
  void launch(const kernels::cuda::Launch& launch) override {
    with_errors([&] { queue_->launch(launch); });
  }
  int multiprocessors() const override { return queue_->multiprocessors(); }
  int shared_memory_limit() const override { return queue_->shared_memory_limit(); }

 private:
  std::unique_ptr<kernels::cuda::Queue> queue_;
};

class StreamBackend final : public CudaBackend {
 public:
  explicit StreamBackend(c10::DeviceIndex index) : index_(index), queue_(index) {}

  at::Device device() const override { return at::Device(at::kCUDA, index_); }
  kernels::cuda::Queue& queue() override { return queue_; }

  void upload(const void* from, const at::Tensor& to) override {
    const auto bytes = static_cast<int64_t>(to.nbytes());
    if (bytes == 0) return;
    // LibTorch keeps pinned memory that a copy reads until the copy is done.
    const at::Tensor staged =
        at::empty({bytes}, at::TensorOptions().dtype(at::kByte).pinned_memory(true));
    std::memcpy(staged.mutable_data_ptr(), from, static_cast<size_t>(bytes));
    at::Tensor target = to.view({-1}).view(at::kByte);
    target.copy_(staged, /*non_blocking=*/true);
  }

  void download(const std::vector<Download>& copies) override {
    const cudaStream_t stream = c10::cuda::getCurrentCUDAStream(index_).stream();
    int64_t bytes = 0;
    for (const Download& copy : copies) bytes += aligned(copy.from.nbytes());
    // LibTorch keeps pinned memory for the next time; threads that share a model share none.
    const at::Tensor memory =
        at::empty({bytes}, at::TensorOptions().dtype(at::kByte).pinned_memory(true));
    auto* staged = static_cast<uint8_t*>(memory.mutable_data_ptr());
    int64_t offset = 0;
    for (const Download& copy : copies) {
      C10_CUDA_CHECK(cudaMemcpyAsync(staged + offset, copy.from.const_data_ptr(),
                                     copy.from.nbytes(), cudaMemcpyDeviceToHost, stream));
      offset += aligned(copy.from.nbytes());
    }
    C10_CUDA_CHECK(cudaStreamSynchronize(stream));
    offset = 0;
    for (const Download& copy : copies) {
      std::memcpy(copy.to, staged + offset, copy.from.nbytes());
      offset += aligned(copy.from.nbytes());
    }
  }

  at::Tensor linear(const at::Tensor& x, const at::Tensor& weight,
                    const at::Tensor& bias) override {
    return at::linear(x, weight, bias);
  }

  std::unique_ptr<CudaGraph> capture(const std::function<void()>& work) override {
    return capture_graph(index_, work);
  }
  void prepare(const std::function<void()>& work) override {
    run_where_graphs_are_captured(index_, work);
  }

  uint64_t stream() const override {
    return static_cast<uint64_t>(c10::cuda::getCurrentCUDAStream(index_).id());
  }
  void follow(uint64_t before, const std::vector<at::Tensor>& used) override {
    const c10::cuda::CUDAStream now = c10::cuda::getCurrentCUDAStream(index_);
    const c10::cuda::CUDAStream then(
        c10::Stream(c10::Stream::UNSAFE, device(), static_cast<c10::StreamId>(before)));
    wait_for_stream(now.stream(), then.stream());
    for (const at::Tensor& x : used) {
      if (x.defined() && x.numel() > 0) {
        c10::cuda::CUDACachingAllocator::recordStream(x.storage().data_ptr(), now);
      }
    }
  }

 private:
  static int64_t aligned(size_t bytes) { return static_cast<int64_t>((bytes + 63) / 64 * 64); }

  c10::DeviceIndex index_;
  StreamQueue queue_;
};

}  // namespace

void load_torch_cuda() {
  static std::once_flag once;
  std::call_once(once, [] {
    // RTLD_GLOBAL: what it registers with LibTorch must be visible to libraries loaded later.
    const std::string path = torch_folder() + "libtorch_cuda.so";
    if (dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL) == nullptr) {
      throw Error(str_cat("libtorch_cuda cannot be loaded: ", dlerror()));
    }
    RILLKV_CHECK(at::hasCUDA(),
                 "libtorch_cuda cannot be loaded: LibTorch was asked for CUDA before; open the "
                 "device first (rillkv::open_device)");
  });
}

std::shared_ptr<CudaBackend> cuda_backend(at::Device device) {
  RILLKV_CHECK(device.is_cuda(), "expected a CUDA device, got ", device);
  // The run-time library first: without a device, loading half a gigabyte would be for nothing.
  const int count = kernels::cuda::device_count();
  RILLKV_CHECK(count > 0, "CUDA was asked for, but there is no CUDA device (or no driver for it)");
  RILLKV_CHECK(device.index() < count, "expected a CUDA device of 0..", count - 1, ", got ",
               static_cast<int>(device.index()));
  load_torch_cuda();
  const c10::DeviceIndex index = device.has_index() ? device.index() : c10::cuda::current_device();
  int major = 0;
  C10_CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index));
  RILLKV_CHECK(major >= 8, "expected a CUDA device of compute capability 8.0 or later, got ", major,
               ".x");
  return std::make_shared<StreamBackend>(index);
}

double device_seconds(at::Device device, const std::function<void()>& work) {
  const c10::cuda::CUDAGuard guard(device);
  const auto stream = c10::cuda::getCurrentCUDAStream(device.index()).stream();
  struct Event {
    Event() { C10_CUDA_CHECK(cudaEventCreate(&event)); }
    ~Event() { static_cast<void>(cudaEventDestroy(event)); }
    cudaEvent_t event = nullptr;
  } begin, end;
  C10_CUDA_CHECK(cudaEventRecord(begin.event, stream));
  work();
  C10_CUDA_CHECK(cudaEventRecord(end.event, stream));
  C10_CUDA_CHECK(cudaEventSynchronize(end.event));
  float milliseconds = 0;
  C10_CUDA_CHECK(cudaEventElapsedTime(&milliseconds, begin.event, end.event));
  return 1e-3 * static_cast<double>(milliseconds);
}

DeviceFigures device_figures(at::Device device) {
  const auto attribute = [&](cudaDeviceAttr which) {
    int value = 0;
    C10_CUDA_CHECK(cudaDeviceGetAttribute(&value, which, device.index()));
    return value;
  };
  cudaDeviceProp properties;
  C10_CUDA_CHECK(cudaGetDeviceProperties(&properties, device.index()));
  DeviceFigures figures;
  figures.name = properties.name;
  figures.multiprocessors = attribute(cudaDevAttrMultiProcessorCount);
  figures.compute_capability = 10 * attribute(cudaDevAttrComputeCapabilityMajor) +
                               attribute(cudaDevAttrComputeCapabilityMinor);
  figures.clock_hz = 1e3 * attribute(cudaDevAttrClockRate);
  // Two transfers a clock.
  figures.memory_bytes_s =
      2e3 * attribute(cudaDevAttrMemoryClockRate) * attribute(cudaDevAttrGlobalMemoryBusWidth) / 8;
  figures.shared_memory_limit = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
  return figures;
}

int64_t device_peak_bytes(c10::Device device) {
  if (!device.is_cuda()) return 0;
  RILLKV_CHECK(device.has_index(), "device_peak_bytes: expected a device from open_device, got ",
               device);
  const auto stats = c10::cuda::CUDACachingAllocator::getDeviceStats(device.index());
  return stats.allocated_bytes[0].peak;
}

}  // namespace rillkv
