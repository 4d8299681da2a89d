// Capturing CUDA graphs from LibTorch's work and ours.
#pragma once

#include <c10/core/Device.h>

#include <functional>
#include <memory>

#include "core/cuda_backend.h"

struct CUstream_st;  // cudaStream_t is CUstream_st*

namespace rillkv {

/// Work that comes on stream `later` waits for what is on `earlier`.
void wait_for_stream(CUstream_st* later, CUstream_st* earlier);

/// Runs `work` with the stream current on which `capture_graph` captures, ordered after LibTorch's
/// current stream and before what comes on it later.
void run_where_graphs_are_captured(c10::DeviceIndex device, const std::function<void()>& work);

/// Captures what `work` puts on the current stream; see CudaBackend::capture. Memory that LibTorch
/// allocates meanwhile is the graph's own (a private pool), so that replays find it as it was.
std::unique_ptr<CudaGraph> capture_graph(c10::DeviceIndex device,
                                         const std::function<void()>& work);

}  // namespace rillkv
