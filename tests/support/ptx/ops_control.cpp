// Branches, exits, the block's barrier, fences and traps.
#include "tests/support/ptx/block.h"
#include "tests/support/ptx/builder.h"

namespace rillkv::ptx {
namespace {

bool decode_branch_table(Builder& b) {
  if (!b.take("idx")) b.unsupported();
  b.take("uni");
  const auto& targets = b.layout().function().targets;
  const auto list = targets.find(b.operand(1).name);
  if (list == targets.end()) b.unsupported();
  std::vector<int> table;
  for (const std::string& label : list->second) table.push_back(b.layout().label(label));
  b.op.operand[0] = b.in(0, {'u', 32});
  b.op.target = static_cast<int32_t>(b.layout().program().tables.size());
  b.layout().program().tables.push_back(std::move(table));
  b.op.control = Control::kBranchTable;
  return true;
}

/// bar.sync id, or bar.red: barriers of all threads of the block. Thread counts are not supported.
bool decode_barrier(Builder& b) {
  b.take("cta");
  b.take("aligned");
  b.op.control = Control::kBarrier;
  if (b.take("red")) {
    const std::string how = b.take_any({"popc", "and", "or"});
    const Type result = b.take_type();
    if (b.operand_count() != 3) b.unsupported();
    b.immediate(1);
    Operand source = b.operand(2);
    b.op.target = source.negated ? 1 : 0;
    source.negated = false;
    b.op.operand[0] = b.out(0, result);
    b.op.operand[1] = b.in(source, {'p', 1});
    b.op.reduction = how == "popc"  ? Reduction::kPopc
                     : how == "and" ? Reduction::kAnd
                                    : Reduction::kOr;
    return !how.empty();
  }
  if (!b.take("sync") || b.operand_count() != 1) b.unsupported();
  b.immediate(0);
  return true;
}

}  // namespace

bool decode_control(Builder& b) {
  const std::string& name = b.name();
  if (name == "bra") {
    b.take("uni");
    b.op.control = Control::kBranch;
    b.op.target = b.layout().label(b.operand(0).name);
    return true;
  }
  if (name == "brx") return decode_branch_table(b);
  if (name == "ret" || name == "exit") {
    b.take("uni");
    b.op.control = Control::kExit;
    return true;
  }
  if (name == "bar" || name == "barrier") return decode_barrier(b);
  if (name == "trap") {
    b.op.run = [](Warp& w, const Op&) {
      w.block->stop(w, Finding::Kind::kTrap,
                    "trap or failed assert in " + w.block->thread_name(w, __builtin_ctz(w.active)));
    };
    return true;
  }
  if (name == "membar" || name == "fence" || name == "prefetch" || name == "prefetchu" ||
      name == "nanosleep") {
    // Accesses take effect in program order, so there is nothing to order; the race check does not
    // count fences, because a fence alone synchronises nobody.
    for (const char* word : {"gl", "cta", "sys", "gpu", "sc", "acq_rel", "proxy", "async", "global",
                             "L1", "L2", "u32", "L2::evict_last", "L2::evict_normal"}) {
      b.take(word);
    }
    b.op.run = [](Warp&, const Op&) {};
    return true;
  }
  return false;
}

}  // namespace rillkv::ptx
