// A running thread block: its warps, shared memory and checks; and the launch it belongs to.
#pragma once

#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "tests/support/ptx/access_profile.h"
#include "tests/support/ptx/executor.h"
#include "tests/support/ptx/program.h"
#include "tests/support/ptx/shadow.h"
#include "tests/support/ptx/warp.h"

namespace rillkv::ptx {

/// Thrown inside a launch by a finding that makes it impossible to go on.
struct StopLaunch {};

/// Findings of a launch, merged by kind and pair of instructions.
class Findings {
 public:
  explicit Findings(const Program& program) : program_(program) {}
  /// `op` did it; `other_op` (or -1) is the other half of a race. `detail` says what and where.
  void add(Finding::Kind kind, int op, int other_op, const std::string& detail);
  std::vector<Finding> take() { return std::move(list_); }
  bool empty() const { return list_.empty(); }

 private:
  const Program& program_;
  std::map<std::tuple<Finding::Kind, int, int>, size_t> index_;
  std::vector<Finding> list_;
};

struct Block {
  Block(const Program& program, Dim3 grid, Dim3 block, size_t dynamic_shared, const char* params,
        bool check, AccessProfile* profile, Findings* findings, uint64_t seed);

  /// Runs the block to its end. Throws StopLaunch.
  void run(Dim3 block_index, int64_t instruction_limit);

  /// Records a finding at the warp's current instruction and stops the launch.
  [[noreturn]] void stop(const Warp& warp, Finding::Kind kind, const std::string& detail);
  void report(const Warp& warp, Finding::Kind kind, int other_op, const std::string& detail);
  /// "block (0,1,0) thread 37".
  std::string thread_name(const Warp& warp, int lane) const;

  const Program& program;
  Dim3 grid;
  Dim3 dims;
  Dim3 index;
  size_t dynamic_shared_bytes;
  const char* params;
  bool checked;
  uint64_t seed;
  AccessProfile* profile;  // null: none wanted
  Findings* findings;

  std::vector<char> shared_storage;
  char* shared = nullptr;  // 1024-byte aligned
  size_t shared_bytes = 0;
  SharedShadow shared_shadow;
  GlobalShadow global_shadow;
  Epochs epochs;
  std::vector<Warp> warps;
  int64_t instructions = 0;
  uint64_t* executions = nullptr;  // by op, or null

 private:
  void start_warps();
  void fill_specials(Warp* warp);
  /// All warps that are not done wait at a barrier: check that it is one, and open it.
  void open_barrier();
  void reduce_barrier(const Op& op);

  std::mt19937_64 random_;
  std::vector<char> registers_;
  std::vector<char> local_;
};

}  // namespace rillkv::ptx
