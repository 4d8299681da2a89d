#include "tests/support/ptx/block.h"

#include <algorithm>
#include <cstring>

namespace rillkv::ptx {

void Findings::add(Finding::Kind kind, int op, int other_op, const std::string& detail) {
  const auto key = std::make_tuple(kind, op, other_op);
  const auto found = index_.find(key);
  if (found != index_.end()) {
    ++list_[found->second].count;
    return;
  }
  index_[key] = list_.size();
  std::string message = program_.name + " at " + program_.describe(op);
  if (other_op >= 0) message += " and " + program_.describe(other_op);
  list_.push_back({kind, message + ": " + detail, 1});
}

Block::Block(const Program& decoded, Dim3 grid_dims, Dim3 block_dims, size_t dynamic_shared,
             const char* param_block, bool check, AccessProfile* access_profile,
             Findings* finding_list, uint64_t launch_seed)
    : program(decoded),
      grid(grid_dims),
      dims(block_dims),
      dynamic_shared_bytes(dynamic_shared),
      params(param_block),
      checked(check),
      seed(launch_seed),
      profile(access_profile),
      findings(finding_list),
      random_(launch_seed) {
  constexpr size_t kSharedAlignment = 1024;
  shared_bytes = program.static_shared_bytes + dynamic_shared;
  shared_storage.resize(shared_bytes + kSharedAlignment);
  const auto address = reinterpret_cast<uint64_t>(shared_storage.data());
  shared = shared_storage.data() + (kSharedAlignment - address % kSharedAlignment);

  const size_t threads = dims.count();
  warps.resize((threads + kLanes - 1) / kLanes);
  const size_t file_bytes = (program.file_bytes + 63) / 64 * 64;
  registers_.resize(file_bytes * warps.size() + 64);
  local_.resize(program.local_bytes * kLanes * warps.size());
  char* file = registers_.data() + (64 - reinterpret_cast<uint64_t>(registers_.data()) % 64);
  for (size_t i = 0; i < warps.size(); ++i) {
    warps[i].bases[0] = file + i * file_bytes;
    warps[i].bases[1] = const_cast<char*>(
        reinterpret_cast<const char*>(program.constants.data()));  // never written
    warps[i].local = local_.data() + i * kLanes * program.local_bytes;
  }
}

std::string Block::thread_name(const Warp& warp, int lane) const {
  return "thread " + std::to_string(warp.index * kLanes + lane) + " of block (" +
         std::to_string(index.x) + "," + std::to_string(index.y) + "," + std::to_string(index.z) +
         ")";
}

void Block::report(const Warp& warp, Finding::Kind kind, int other_op, const std::string& detail) {
  findings->add(kind, warp.pc, other_op, detail);
}

void Block::stop(const Warp& warp, Finding::Kind kind, const std::string& detail) {
  findings->add(kind, warp.pc, -1, detail);
  throw StopLaunch{};
}

void Block::fill_specials(Warp* warp) {
  using Kind = SpecialValue::Kind;
  const uint64_t shared_base = reinterpret_cast<uint64_t>(shared);
  for (const SpecialValue& special : program.specials) {
    const bool wide = special.kind == Kind::kParamAddress || special.kind == Kind::kLocalAddress ||
                      special.kind == Kind::kSharedAddress;
    for (uint32_t lane = 0; lane < kLanes; ++lane) {
      const uint32_t thread = static_cast<uint32_t>(warp->index) * kLanes + lane;
      uint64_t value = 0;
      switch (special.kind) {
        case Kind::kTidX:
          value = thread % dims.x;
          break;
        case Kind::kTidY:
          value = thread / dims.x % dims.y;
          break;
        case Kind::kTidZ:
          value = thread / dims.x / dims.y;
          break;
        case Kind::kNtidX:
          value = dims.x;
          break;
        case Kind::kNtidY:
          value = dims.y;
          break;
        case Kind::kNtidZ:
          value = dims.z;
          break;
        case Kind::kCtaidX:
          value = index.x;
          break;
        case Kind::kCtaidY:
          value = index.y;
          break;
        case Kind::kCtaidZ:
          value = index.z;
          break;
        case Kind::kNctaidX:
          value = grid.x;
          break;
        case Kind::kNctaidY:
          value = grid.y;
          break;
        case Kind::kNctaidZ:
          value = grid.z;
          break;
        case Kind::kLaneId:
          value = lane;
          break;
        case Kind::kWarpId:
          value = static_cast<uint64_t>(warp->index);
          break;
        case Kind::kNwarpId:
          value = warps.size();
          break;
        case Kind::kLaneMaskEq:
          value = 1u << lane;
          break;
        case Kind::kLaneMaskLt:
          value = (1u << lane) - 1;
          break;
        case Kind::kLaneMaskLe:
          value = (2u << lane) - 1;
          break;
        case Kind::kLaneMaskGt:
          value = static_cast<uint32_t>(-(2u << lane));
          break;
        case Kind::kLaneMaskGe:
          value = static_cast<uint32_t>(-(1u << lane));
          break;
        case Kind::kDynamicSharedBytes:
          value = dynamic_shared_bytes;
          break;
        case Kind::kTotalSharedBytes:
          value = shared_bytes;
          break;
        case Kind::kParamAddress:
          value = reinterpret_cast<uint64_t>(params) + special.offset;
          break;
        case Kind::kLocalAddress:
          value =
              reinterpret_cast<uint64_t>(warp->local) + lane * program.local_bytes + special.offset;
          break;
        case Kind::kSharedAddress:
          value = shared_base;
          break;
        case Kind::kUnknown:
          break;
      }
      if (wide) {
        warp->lanes<uint64_t>(special.ref)[lane] = value;
      } else {
        warp->lanes<uint32_t>(special.ref)[lane] = static_cast<uint32_t>(value);
      }
    }
  }
}

void Block::start_warps() {
  // What nobody wrote reads as NaN, so that a missing check shows in the results as well.
  std::memset(shared, 0xFF, shared_bytes);
  std::memset(registers_.data(), 0xFF, registers_.size());
  std::memset(local_.data(), 0xFF, local_.size());
  if (checked) shared_shadow.reset(shared_bytes);
  const uint64_t threads = dims.count();
  for (size_t i = 0; i < warps.size(); ++i) {
    const uint64_t left = threads - i * kLanes;
    warps[i].start(this, static_cast<int>(i), left >= kLanes ? kAllLanes : (1u << left) - 1);
    fill_specials(&warps[i]);
  }
}

void Block::run(Dim3 block_index, int64_t instruction_limit) {
  index = block_index;
  epochs.block_begin = ++epochs.now;
  start_warps();
  std::vector<Warp*> runnable;
  for (;;) {
    runnable.clear();
    bool waiting = false;
    for (Warp& warp : warps) {
      if (warp.at_barrier) {
        waiting = true;
      } else if (!warp.done()) {
        runnable.push_back(&warp);
      }
    }
    if (runnable.empty()) {
      if (!waiting) return;
      open_barrier();
      continue;
    }
    // Seed 0: in order, each as far as it gets. Otherwise turns of very different lengths.
    Warp* warp = runnable[seed == 0 ? 0 : random_() % runnable.size()];
    const int64_t turn =
        seed == 0 ? instruction_limit : 1 + static_cast<int64_t>(random_() >> (55 + random_() % 9));
    instructions += warp->run(turn);
    if (instructions >= instruction_limit) {
      warp->pc = std::min(warp->pc, static_cast<int>(program.ops.size()) - 1);
      stop(*warp, Finding::Kind::kRunaway,
           "more than " + std::to_string(instruction_limit) + " warp instructions");
    }
  }
}

void Block::open_barrier() {
  const Warp* first = nullptr;
  for (const Warp& warp : warps) {
    if (warp.at_barrier && first == nullptr) first = &warp;
  }
  for (const Warp& warp : warps) {
    if (warp.exited != 0) {
      stop(*first, Finding::Kind::kDivergentBarrier,
           "threads of warp " + std::to_string(first->index) + " wait, but " +
               thread_name(warp, __builtin_ctz(warp.exited)) + " has exited");
    }
    if (warp.pc != first->pc) {
      stop(*first, Finding::Kind::kDivergentBarrier,
           "warp " + std::to_string(first->index) + " waits here, warp " +
               std::to_string(warp.index) + " at " + program.describe(warp.pc));
    }
  }
  const Op& op = program.ops[static_cast<size_t>(first->pc)];
  if (op.reduction != Reduction::kNone) reduce_barrier(op);
  ++epochs.now;
  for (Warp& warp : warps) warp.release_barrier();
}

void Block::reduce_barrier(const Op& op) {
  uint32_t set = 0;
  uint32_t threads = 0;
  for (const Warp& warp : warps) {
    const uint32_t value = warp.predicate(op.operand[1]) ^ (op.target != 0 ? kAllLanes : 0u);
    set += static_cast<uint32_t>(__builtin_popcount(value & warp.existing));
    threads += static_cast<uint32_t>(__builtin_popcount(warp.existing));
  }
  for (Warp& warp : warps) {
    if (op.reduction == Reduction::kPopc) {
      std::fill_n(warp.lanes<uint32_t>(op.operand[0]), kLanes, set);
    } else {
      const bool result = op.reduction == Reduction::kAnd ? set == threads : set > 0;
      *warp.lanes<uint32_t>(op.operand[0]) = result ? kAllLanes : 0u;
    }
  }
}

}  // namespace rillkv::ptx
