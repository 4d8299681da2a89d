// Scratch that a thread keeps from call to call.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>

#include "rillkv/error.h"

namespace rillkv {

/// 64-byte aligned memory that grows to the largest size asked for and stays. Declared thread_local
/// by the function that uses it.
class ThreadWorkspace {
 public:
  /// At least `bytes` bytes; what they held is lost when it grows. Null for 0 at first. Throws
  /// Error where memory is out.
  void* get(size_t bytes) {
    if (bytes > capacity_) {
      memory_.reset();  // before, not beside, the larger one
      capacity_ = (bytes + 4095) / 4096 * 4096;
      memory_.reset(std::aligned_alloc(4096, capacity_));
      if (memory_ == nullptr) {
        capacity_ = 0;
        throw Error(str_cat("out of memory: expected ", bytes, " bytes of workspace"));
      }
    }
    return memory_.get();
  }

 private:
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  std::unique_ptr<void, Free> memory_;
  size_t capacity_ = 0;
};

}  // namespace rillkv
