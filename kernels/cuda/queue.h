// Where CUDA launches go: a CUDA stream in production, the PTX executor in tests. No CUDA headers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

struct CUstream_st;  // cudaStream_t is CUstream_st*

namespace rillkv::kernels::cuda {

using Stream = CUstream_st*;

/// One launch of an entry: an `extern "C" __global__` function taking a struct by value.
struct Launch {
  const char* entry = nullptr;
  uint32_t grid[3] = {1, 1, 1};
  uint32_t threads = 1;
  size_t shared_bytes = 0;  // dynamic
  const void* params = nullptr;
  size_t params_bytes = 0;
  std::string what;  // the shapes, for error messages
};

/// Where launches go, in order.
class Queue {
 public:
  virtual ~Queue() = default;
  virtual void launch(const Launch& launch) = 0;
  /// Streaming multiprocessors to fill.
  virtual int multiprocessors() const = 0;
  /// Bytes of shared memory that a block may have, by opting in.
  virtual int shared_memory_limit() const = 0;
};

/// True if the library was built with CUDA and a device answers.
bool cuda_available();
/// 0 without a device or without CUDA.
int device_count();
/// A queue over a stream of the device that is current when it is made; launches go to that device.
/// Every launch is checked at once: failures throw std::runtime_error naming the entry, its shapes
/// and CUDA's message. Throws "built without CUDA" in a build without it.
std::unique_ptr<Queue> make_stream_queue(Stream stream);

}  // namespace rillkv::kernels::cuda
