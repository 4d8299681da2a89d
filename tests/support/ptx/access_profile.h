// What memory instructions cost: passes over the 32 banks of shared memory, and 32-byte sectors of
// global memory.
#pragma once

#include <cstdint>
#include <vector>

#include "tests/support/ptx/executor.h"
#include "tests/support/ptx/program.h"

namespace rillkv::ptx {

class AccessProfile {
 public:
  explicit AccessProfile(const Program& program);

  /// A warp's access of `bytes` a lane at shared offsets or global addresses `at`. The hardware
  /// serves 128 bytes a pass: 32 lanes of up to 4 bytes, 16 of 8 or 8 of 16.
  void shared_access(int site, uint32_t active, const uint32_t* at, uint32_t bytes);
  void global_access(int site, uint32_t active, const uint64_t* at, uint32_t bytes);

  std::vector<SiteProfile> results() const;

 private:
  struct Counters {
    uint64_t executions = 0;
    uint64_t cost = 0;
    uint64_t minimum = 0;
  };
  const Program& program_;
  std::vector<Counters> shared_;
  std::vector<Counters> global_;
};

}  // namespace rillkv::ptx
