#include "core/stream_graph.h"

#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <atomic>
#include <map>
#include <mutex>
#include <utility>

namespace rillkv {
namespace {

namespace allocator = c10::cuda::CUDACachingAllocator;

/// One a device: the default stream cannot be captured, and libraries keep what they need a stream.
c10::cuda::CUDAStream capture_stream(c10::DeviceIndex device) {
  static std::mutex mutex;
  static std::map<c10::DeviceIndex, c10::cuda::CUDAStream> streams;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = streams.find(device);
  if (found != streams.end()) return found->second;
  return streams.emplace(device, c10::cuda::getStreamFromPool(/*isHighPriority=*/false, device))
      .first->second;
}

/// Ids of LibTorch's own pools count up from 0.
c10::MempoolId_t next_pool() {
  static std::atomic<c10::CaptureId_t> last{0};
  return {(c10::CaptureId_t{0x52696c6c} << 32) + ++last, 0};
}

class StreamGraph final : public CudaGraph {
 public:
  StreamGraph(c10::DeviceIndex device, c10::MempoolId_t pool, cudaGraphExec_t graph)
      : device_(device), pool_(pool), graph_(graph) {}
  ~StreamGraph() override {
    // Replays under way use the pool's memory.
    static_cast<void>(cudaDeviceSynchronize());
    static_cast<void>(cudaGraphExecDestroy(graph_));
    allocator::releasePool(device_, pool_);
  }
  StreamGraph(const StreamGraph&) = delete;
  StreamGraph& operator=(const StreamGraph&) = delete;

  void replay() override {
    const c10::cuda::CUDAGuard guard(device_);
    C10_CUDA_CHECK(cudaGraphLaunch(graph_, c10::cuda::getCurrentCUDAStream(device_).stream()));
  }

 private:
  c10::DeviceIndex device_;
  c10::MempoolId_t pool_;
  cudaGraphExec_t graph_;
};

}  // namespace

void wait_for_stream(cudaStream_t later, cudaStream_t earlier) {
  cudaEvent_t event = nullptr;
  C10_CUDA_CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  const cudaError_t recorded = cudaEventRecord(event, earlier);
  const cudaError_t waits =
      recorded == cudaSuccess ? cudaStreamWaitEvent(later, event, 0) : recorded;
  static_cast<void>(cudaEventDestroy(event));  // it lives until it has happened
  C10_CUDA_CHECK(waits);
}

void run_where_graphs_are_captured(c10::DeviceIndex device, const std::function<void()>& work) {
  const c10::cuda::CUDAStream current = c10::cuda::getCurrentCUDAStream(device);
  const c10::cuda::CUDAStream side = capture_stream(device);
  wait_for_stream(side.stream(), current.stream());
  {
    const c10::cuda::CUDAStreamGuard guard(side);
    work();
  }
  wait_for_stream(current.stream(), side.stream());
}

std::unique_ptr<CudaGraph> capture_graph(c10::DeviceIndex device,
                                         const std::function<void()>& work) {
  const c10::cuda::CUDAStream side = capture_stream(device);
  const c10::cuda::CUDAStreamGuard guard(side);
  const cudaStream_t stream = side.stream();
  const c10::MempoolId_t pool = next_pool();
  allocator::beginAllocateToPool(device, pool, [stream](cudaStream_t of) { return of == stream; });
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  try {
    // Other threads may go on calling what a capture forbids.
    C10_CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    try {
      work();
    } catch (...) {
      static_cast<void>(cudaStreamEndCapture(stream, &graph));
      static_cast<void>(cudaGetLastError());  // of the capture that was broken off
      throw;
    }
    C10_CUDA_CHECK(cudaStreamEndCapture(stream, &graph));
    C10_CUDA_CHECK(cudaGraphInstantiate(&executable, graph, 0));
  } catch (...) {
    if (graph != nullptr) static_cast<void>(cudaGraphDestroy(graph));
    allocator::endAllocateToPool(device, pool);
    allocator::releasePool(device, pool);
    throw;
  }
  static_cast<void>(cudaGraphDestroy(graph));
  allocator::endAllocateToPool(device, pool);
  return std::make_unique<StreamGraph>(device, pool, executable);
}

}  // namespace rillkv
