#include "tests/support/ptx/warp.h"

#include <algorithm>
#include <climits>
#include <cstdio>
#include <cstring>
#include <string>

#include "tests/support/ptx/block.h"

namespace rillkv::ptx {
namespace {

std::string hex(uint32_t mask) {
  char text[16];
  std::snprintf(text, sizeof text, "0x%08x", mask);
  return text;
}

}  // namespace

void Warp::start(Block* owner, int warp_index, uint32_t lanes_present) {
  block = owner;
  program = &owner->program;
  index = warp_index;
  existing = lanes_present;
  exited = 0;
  mask = lanes_present;
  pc = 0;
  stop_pc = INT_MAX;
  at_barrier = false;
  groups.clear();
  copies.assign(kLanes, {});
  reset_sync();
}

void Warp::reset_sync() {
  sync_time = 0;
  std::memset(known, 0, sizeof known);
}

void Warp::sync(uint32_t lanes_synced) {
  ++sync_time;
  if (lanes_synced == kAllLanes) {
    std::fill(&known[0][0], &known[0][0] + kLanes * kLanes, sync_time);
    return;
  }
  // What any of the lanes knows, all of them know now.
  uint32_t common[kLanes] = {};
  for (int i = 0; i < kLanes; ++i) {
    if ((lanes_synced >> i & 1) == 0) continue;
    for (int j = 0; j < kLanes; ++j) common[j] = std::max(common[j], known[i][j]);
  }
  for (int i = 0; i < kLanes; ++i) {
    if ((lanes_synced >> i & 1) != 0) common[i] = sync_time;
  }
  for (int i = 0; i < kLanes; ++i) {
    if ((lanes_synced >> i & 1) != 0) std::memcpy(known[i], common, sizeof common);
  }
}

int64_t Warp::run(int64_t budget) {
  const Op* const ops = program->ops.data();
  int64_t executed = 0;
  if (mask == 0 && !reschedule()) return 0;
  while (executed < budget) {
    if (pc >= stop_pc && !reschedule()) return executed;
    const Op& op = ops[pc];
    active = mask;
    if (op.guard >= 0) active &= op.guard_negated ? ~predicate(op.guard) : predicate(op.guard);
    ++executed;
    if (block->executions != nullptr) ++block->executions[pc];
    switch (op.control) {
      case Control::kNone:
        if (active != 0) op.run(*this, op);
        ++pc;
        continue;
      case Control::kCollective:
        if (!collective(op)) return executed;
        continue;
      case Control::kBranch:
        branch(active, op.target);
        break;
      case Control::kBranchTable:
        branch_table(op);
        break;
      case Control::kExit:
        exited |= active;
        mask &= ~active;
        ++pc;
        // Collectives do not wait for lanes that have exited: let them look again.
        for (LaneGroup& group : groups) {
          if (group.state == LaneGroup::State::kCollective) group.state = LaneGroup::State::kReady;
        }
        break;
      case Control::kBarrier:
        wait_at_barrier();
        break;
    }
    if ((mask == 0 || !groups.empty()) && !reschedule()) return executed;
  }
  return executed;
}

void Warp::branch(uint32_t taken, int target) {
  if (taken == mask) {
    pc = target;
    return;
  }
  if (taken != 0) {
    groups.push_back({taken, target, LaneGroup::State::kReady});
    mask &= ~taken;
  }
  ++pc;
}

void Warp::branch_table(const Op& op) {
  const std::vector<int>& table = program->tables[static_cast<size_t>(op.target)];
  const uint32_t* choice = lanes<const uint32_t>(op.operand[0]);
  for (uint32_t rest = active; rest != 0;) {
    const uint32_t index_wanted = choice[__builtin_ctz(rest)];
    if (index_wanted >= table.size()) {
      block->stop(*this, Finding::Kind::kTrap,
                  "branch index " + std::to_string(index_wanted) + " of a table of " +
                      std::to_string(table.size()));
    }
    uint32_t same = 0;
    for (uint32_t lanes_left = rest; lanes_left != 0; lanes_left &= lanes_left - 1) {
      const int lane = __builtin_ctz(lanes_left);
      if (choice[lane] == index_wanted) same |= 1u << lane;
    }
    groups.push_back({same, table[index_wanted], LaneGroup::State::kReady});
    rest &= ~same;
  }
  mask &= ~active;
  ++pc;
}

// Makes the ready group with the smallest counter current. False: nothing is left to run.
bool Warp::reschedule() {
  if (mask != 0) groups.push_back({mask, pc, LaneGroup::State::kReady});
  mask = 0;
  stop_pc = INT_MAX;
  pc = INT_MAX;
  for (const LaneGroup& group : groups) {
    if (group.state == LaneGroup::State::kReady) pc = std::min(pc, group.pc);
  }
  if (pc == INT_MAX) {
    if (groups.empty()) return false;
    const LaneGroup first = groups.front();
    pc = first.pc;
    for (const LaneGroup& group : groups) {
      if (group.state == LaneGroup::State::kCollective) {
        pc = group.pc;
        block->stop(*this, Finding::Kind::kDivergentCollective,
                    "lanes " + hex(group.mask) + " of warp " + std::to_string(index) +
                        " wait for lanes that never arrive");
      }
      if (group.pc != first.pc) {
        block->stop(*this, Finding::Kind::kDivergentBarrier,
                    "lanes " + hex(first.mask) + " and " + hex(group.mask) + " of warp " +
                        std::to_string(index) + " wait at different barriers, the others at " +
                        program->describe(group.pc));
      }
    }
    at_barrier = true;
    return false;
  }
  size_t kept = 0;
  for (const LaneGroup& group : groups) {
    if (group.state == LaneGroup::State::kReady && group.pc == pc) {
      mask |= group.mask;
    } else {
      if (group.state == LaneGroup::State::kReady) stop_pc = std::min(stop_pc, group.pc);
      groups[kept++] = group;
    }
  }
  groups.resize(kept);
  return true;
}

// Runs a collective for every set of lanes that is complete; the others wait. False: nothing is
// left to run.
bool Warp::collective(const Op& op) {
  size_t kept = 0;
  for (const LaneGroup& group : groups) {
    if (group.state == LaneGroup::State::kCollective && group.pc == pc) {
      mask |= group.mask;
    } else {
      groups[kept++] = group;
    }
  }
  groups.resize(kept);
  const uint32_t guard =
      op.guard < 0 ? kAllLanes : predicate(op.guard) ^ (op.guard_negated ? kAllLanes : 0u);
  const uint32_t arrived = mask & guard;
  const uint32_t live = existing & ~exited;
  uint32_t waiting = 0;
  if (op.mask == kNoRef) {
    if (arrived != 0 && live != kAllLanes) {
      block->stop(*this, Finding::Kind::kDivergentCollective,
                  "the instruction needs all 32 lanes, but warp " + std::to_string(index) +
                      " has only " + hex(live));
    }
    if (arrived == kAllLanes) {
      active = arrived;
      op.run(*this, op);
    } else {
      waiting = arrived;
    }
  } else {
    const uint32_t* wanted = lanes<const uint32_t>(op.mask);
    for (uint32_t rest = arrived; rest != 0;) {
      const int lane = __builtin_ctz(rest);
      const uint32_t set = wanted[lane];
      uint32_t same = 0;
      for (uint32_t lanes_left = rest; lanes_left != 0; lanes_left &= lanes_left - 1) {
        const int other = __builtin_ctz(lanes_left);
        if (wanted[other] == set) same |= 1u << other;
      }
      if ((same & ~set) != 0) {
        block->stop(*this, Finding::Kind::kBadLane,
                    "lane " + std::to_string(__builtin_ctz(same & ~set)) +
                        " is not in its own mask " + hex(set));
      }
      if ((set & live) == (same & set)) {
        active = same & set;
        op.run(*this, op);
      } else {
        waiting |= same;
      }
      rest &= ~same;
    }
  }
  if (waiting == 0) {
    ++pc;
    return true;
  }
  groups.push_back({waiting, pc, LaneGroup::State::kCollective});
  mask &= ~waiting;
  ++pc;
  return reschedule();
}

void Warp::wait_at_barrier() {
  bool joined = false;
  for (LaneGroup& group : groups) {
    if (group.state == LaneGroup::State::kBarrier && group.pc == pc) {
      group.mask |= active;
      joined = true;
    }
  }
  if (!joined && active != 0) groups.push_back({active, pc, LaneGroup::State::kBarrier});
  mask &= ~active;
  ++pc;
}

void Warp::release_barrier() {
  for (LaneGroup& group : groups) {
    ++group.pc;
    group.state = LaneGroup::State::kReady;
  }
  at_barrier = false;
  reset_sync();
}

}  // namespace rillkv::ptx
