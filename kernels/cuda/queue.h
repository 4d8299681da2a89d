// Where CUDA launches go: a CUDA stream in production, the PTX executor in tests. No CUDA headers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <type_traits>

struct CUstream_st;  // cudaStream_t is CUstream_st*

namespace rillkv::kernels::cuda {

using Stream = CUstream_st*;

/// Text for an error message, made only if there is one: a launch takes about a microsecond of a
/// host that decoding waits for. Refers to the callable, a named one, which must live through
/// Queue::launch.
class Description {
 public:
  Description() = default;
  template <typename Make,
            typename = std::enable_if_t<std::is_invocable_r_v<std::string, const Make&>>>
  Description(const Make& make)
      : make_(&make),
        call_([](const void* f) -> std::string { return (*static_cast<const Make*>(f))(); }) {}
  template <typename Make,
            typename = std::enable_if_t<std::is_invocable_r_v<std::string, const Make&>>>
  Description(const Make&& make) = delete;

  std::string text() const { return call_ == nullptr ? std::string() : call_(make_); }

 private:
  const void* make_ = nullptr;
  std::string (*call_)(const void*) = nullptr;
};

/// One launch of an entry: an `extern "C" __global__` function taking a struct by value.
struct Launch {
  const char* entry = nullptr;
  uint32_t grid[3] = {1, 1, 1};
  uint32_t threads = 1;
  size_t shared_bytes = 0;  // dynamic
  const void* params = nullptr;
  size_t params_bytes = 0;
  Description what;  // the shapes
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
/// A launch that fails throws std::runtime_error naming the entry, its shapes and CUDA's message;
/// an error that an earlier call of someone else's left behind is not the launch's, and stays. What
/// a device is and what entries were allowed there is asked for once a device. Throws "built
/// without CUDA" in a build without it.
std::unique_ptr<Queue> make_stream_queue(Stream stream);
/// The same over `device`, whatever is current; each launch goes to the stream `current` names.
std::unique_ptr<Queue> make_stream_queue(int device, Stream (*current)(int device));

}  // namespace rillkv::kernels::cuda
