// The state of one warp, and how its lanes diverge and reconverge.
//
// All lanes that share a program counter form a group and run in lockstep. A divergent branch
// splits the group; the group with the smallest counter runs until it reaches the counter of
// another, and they merge. Since nvcc places a reconvergence point behind both of its arms, this
// reconverges structured code at the right place, and unstructured code soon after.
#pragma once

#include <cstdint>
#include <vector>

#include "tests/support/ptx/program.h"

namespace rillkv::ptx {

struct Block;

/// Lanes that wait, or wait to be run, at one place.
struct LaneGroup {
  enum class State : uint8_t { kReady, kCollective, kBarrier };
  uint32_t mask = 0;
  int pc = 0;
  State state = State::kReady;
};

/// A cp.async that has been issued and not waited for.
struct PendingCopy {
  uint32_t destination;  // shared memory offset
  const char* source;
  uint32_t source_bytes;
  uint32_t bytes;
  uint32_t group;
  int site;
  char data[16];  // read at issue
};

struct LaneCopies {
  std::vector<PendingCopy> pending;  // oldest first
  uint32_t group = 0;                // number of commits so far
};

struct Warp {
  Block* block = nullptr;
  const Program* program = nullptr;
  char* bases[2] = {nullptr, nullptr};  // register file, constants

  uint32_t active = 0;  // lanes executing the current instruction
  uint32_t mask = 0;    // lanes of the current group
  int pc = 0;
  int stop_pc = 0;        // the nearest other ready group
  int index = 0;          // in the block
  uint32_t existing = 0;  // lanes the block has
  uint32_t exited = 0;
  bool at_barrier = false;
  std::vector<LaneGroup> groups;  // all but the current one

  char* local = nullptr;  // [kLanes][Program::local_bytes]
  std::vector<LaneCopies> copies;

  /// Warp-level synchronisation: `sync_time` counts bar.warp.sync since the last block barrier;
  /// known[i][j] is the time of the last one after which lane i sees what lane j did before.
  uint32_t sync_time = 0;
  uint32_t known[kLanes][kLanes];

  // Between the two halves of a conversion or memory access.
  alignas(64) int64_t scratch_int[kLanes];
  alignas(64) double scratch_float[kLanes];
  char* pointers[kLanes];

  template <typename T>
  T* lanes(Ref ref) const {
    return reinterpret_cast<T*>(bases[ref < 0] + (ref < 0 ? ~ref : ref));
  }
  uint32_t predicate(Ref ref) const { return *lanes<const uint32_t>(ref); }

  bool done() const { return exited == existing; }
  void start(Block* owner, int warp_index, uint32_t lanes_present);
  /// Runs up to `budget` instructions, or until all lanes wait at a barrier or have exited.
  /// Returns the number of instructions run.
  int64_t run(int64_t budget);
  /// Makes all lanes known to each other; called when the block's barrier opens.
  void reset_sync();
  /// bar.warp.sync of `lanes_synced`.
  void sync(uint32_t lanes_synced);
  /// After the barrier: all waiting lanes go on.
  void release_barrier();

 private:
  void branch(uint32_t taken, int target);
  void branch_table(const Op& op);
  bool collective(const Op& op);
  void wait_at_barrier();
  bool reschedule();
};

}  // namespace rillkv::ptx
