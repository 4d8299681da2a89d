// A decoded entry: a flat list of operations on whole warps. Every operand is an array of 32
// values, one a lane, in the warp's register file or in the program's constants.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tests/support/ptx/syntax.h"

namespace rillkv::ptx {

struct Warp;
struct Op;
struct ModuleData;

inline constexpr int kLanes = 32;
inline constexpr uint32_t kAllLanes = 0xffffffffu;
/// Bytes of the largest array of lanes (64-bit registers). Predicates are one 32-bit lane mask.
inline constexpr int kMaxArrayBytes = 8 * kLanes;

/// Executes an operation for the lanes in Warp::active.
using Handler = void (*)(Warp& warp, const Op& op);

/// Byte offset of an operand's array: >= 0 in the register file, otherwise constants + ~ref.
using Ref = int32_t;

enum class Control : uint8_t {
  kNone,         // run the handler, go on
  kCollective,   // the handler needs all lanes of a mask, or all 32 (`mask` < 0)
  kBranch,       // to `target`
  kBranchTable,  // operand[0] indexes tables[target]
  kExit,
  kBarrier,  // of the block; `reduction` tells what happens to operand[1]
};

enum class Reduction : uint8_t { kNone, kAnd, kOr, kPopc };

inline constexpr int kMaxOperands = 16;
inline constexpr Ref kNoRef = INT32_MIN;

struct Op {
  Handler run = nullptr;
  Handler second = nullptr;  // conversions: the storing half
  Control control = Control::kNone;
  Reduction reduction = Reduction::kNone;
  bool guard_negated = false;
  uint8_t count = 0;  // elements of a vector access, matrices of ldmatrix
  uint8_t bytes = 0;  // of one memory element
  Space space = Space::kGeneric;
  bool narrow_address = false;  // the address is a 32-bit register
  Ref guard = -1;               // predicate in the register file
  Ref mask = kNoRef;            // lane mask operand of a collective; kNoRef: all 32 lanes
  int32_t target = 0;           // op index of a branch, table index, other small constants
  int32_t site = -1;            // index into Program::sites, of memory accesses
  int64_t immediate = 0;        // address offset
  Ref operand[kMaxOperands] = {};
};

/// An array the machine fills in when a warp starts: %tid.x and its like, and addresses that
/// differ between launches, blocks or lanes.
struct SpecialValue {
  enum class Kind {
    kTidX,
    kTidY,
    kTidZ,
    kNtidX,
    kNtidY,
    kNtidZ,
    kCtaidX,
    kCtaidY,
    kCtaidZ,
    kNctaidX,
    kNctaidY,
    kNctaidZ,
    kLaneId,
    kWarpId,
    kNwarpId,
    kLaneMaskEq,
    kLaneMaskLt,
    kLaneMaskLe,
    kLaneMaskGt,
    kLaneMaskGe,
    kDynamicSharedBytes,
    kTotalSharedBytes,
    kUnknown,
    kParamAddress,   // 64 bits, + offset
    kLocalAddress,   // 64 bits, the lane's own, + offset
    kSharedAddress,  // 64 bits, generic address of shared offset 0
  };
  Kind kind;
  uint64_t offset = 0;
  Ref ref = 0;
};

/// A memory instruction, for reports.
struct Site {
  int op = 0;
  bool shared = false;
};

struct Program {
  std::string name;
  std::vector<Op> ops;
  std::vector<SourceLine> sources;  // parallel to ops
  std::vector<std::string> opcodes;
  std::vector<std::vector<int>> tables;
  std::vector<SpecialValue> specials;
  std::vector<uint64_t> constants;  // arrays of kMaxArrayBytes
  std::vector<Parameter> params;
  uint64_t param_bytes = 0;
  size_t file_bytes = 0;  // register file of one warp
  size_t static_shared_bytes = 0;
  size_t local_bytes = 0;  // of one thread
  std::vector<int> site_ops;
  std::string source_name;              // of the PTX file
  std::map<int, std::string> files;     // of .loc lines
  std::shared_ptr<void> module_memory;  // keeps module-scope variables alive

  /// "prefill.cu:120 (ptx 4711) ld.shared.v4.f32".
  std::string describe(int op) const;
};

/// Throws ModuleError naming the first unsupported instruction.
std::shared_ptr<const Program> decode(const ModuleData& module, const Function& entry);

}  // namespace rillkv::ptx
