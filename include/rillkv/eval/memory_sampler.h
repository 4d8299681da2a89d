// Peak and mean memory of one stretch of work.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>

namespace rillkv::eval {

/// What samples of the resident set size said, bytes.
struct MemoryUse {
  int64_t peak_bytes = 0;
  double mean_bytes = 0;
  int64_t samples = 0;  ///< 0: not measured.

  /// Joins another stretch: the higher peak, the mean over the samples of both.
  void add(const MemoryUse& other);
};

/// Samples this process's resident set size from a thread of its own, from construction to stop(),
/// so that two sides of a comparison have figures of their own: the kernel's high-water mark covers
/// the whole life of the process. Memory that the allocator kept from earlier work would count,
/// too: call rillkv::release_freed_memory() before.
class MemorySampler {
 public:
  explicit MemorySampler(std::chrono::microseconds interval = std::chrono::milliseconds(5));
  ~MemorySampler();
  MemorySampler(const MemorySampler&) = delete;
  MemorySampler& operator=(const MemorySampler&) = delete;

  /// Ends the sampling. The first and the last moment are always sampled. Call once.
  MemoryUse stop();

 private:
  void sample();

  MemoryUse use_;  // Of the thread until it has ended.
  double sum_ = 0;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace rillkv::eval
