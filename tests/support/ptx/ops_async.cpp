// cp.async: copies from global to shared memory that land some time between their issue and the
// wait for their group. The model takes the latest moment: until the thread that issued a copy
// waits for it, the destination holds 0xFF and any access to it is a finding. The source may be
// read at either end of that span: at the issue under even seeds, at the wait under odd ones.
//
// operand[0] is the destination, operand[1] the source, operand[2] the bytes to read (the rest
// becomes zero); `bytes` is the size.
#include <algorithm>
#include <cstring>

#include "tests/support/ptx/access.h"
#include "tests/support/ptx/block.h"
#include "tests/support/ptx/builder.h"
#include "tests/support/ptx/lanes.h"

namespace rillkv::ptx {
namespace {

void issue(Warp& w, const Op& op) {
  Block& block = *w.block;
  uint32_t offsets[kLanes];
  Op destination = op;
  destination.narrow_address = op.narrow_address;
  locate_shared(w, destination, 0, op.bytes, offsets);
  const uint32_t* wanted = w.lanes<const uint32_t>(op.operand[2]);

  const uint32_t all = w.active;
  uint32_t reading = 0;
  for (uint32_t rest = all; rest != 0; rest &= rest - 1) {
    const int lane = __builtin_ctz(rest);
    if (wanted[lane] > op.bytes) {
      block.stop(w, Finding::Kind::kOutOfBounds,
                 "source size " + std::to_string(wanted[lane]) + " of a copy of " +
                     std::to_string(op.bytes) + " bytes");
    }
    if (wanted[lane] != 0) reading |= 1u << lane;
  }
  // The source: a global access of the whole size. Short ones are checked lane by lane.
  Op source = op;
  source.space = Space::kGlobal;
  source.immediate = static_cast<int64_t>(op.target);
  source.narrow_address = false;
  for (uint32_t rest = reading; rest != 0;) {
    const uint32_t bytes = wanted[__builtin_ctz(rest)];
    uint32_t same = 0;
    for (uint32_t left = rest; left != 0; left &= left - 1) {
      const int lane = __builtin_ctz(left);
      if (wanted[lane] == bytes) same |= 1u << lane;
    }
    w.active = same;
    if ((bytes & (bytes - 1)) == 0) {
      locate(w, source, 1, bytes, AccessKind::kRead);
    } else {  // byte by byte, highest first: `pointers` ends at the first byte
      for (uint32_t i = bytes; i-- > 0;) {
        source.immediate = op.target + static_cast<int64_t>(i);
        locate(w, source, 1, 1, AccessKind::kRead);
      }
      source.immediate = op.target;
    }
    rest &= ~same;
  }
  w.active = all;
  if (block.profile != nullptr) block.profile->shared_access(op.site, all, offsets, op.bytes);

  for (uint32_t rest = all; rest != 0; rest &= rest - 1) {
    const int lane = __builtin_ctz(rest);
    LaneCopies& copies = w.copies[static_cast<size_t>(lane)];
    PendingCopy copy{};
    copy.destination = offsets[lane];
    copy.bytes = op.bytes;
    copy.source_bytes = wanted[lane];
    copy.source = wanted[lane] != 0 ? w.pointers[lane] : nullptr;
    copy.group = copies.group;
    if (copy.source_bytes != 0) std::memcpy(copy.data, copy.source, copy.source_bytes);
    copies.pending.push_back(copy);
    if (block.checked) block.shared_shadow.begin_copy(w, lane, copy.destination, copy.bytes);
    std::memset(block.shared + copy.destination, 0xFF, copy.bytes);
  }
}

void commit(Warp& w, const Op&) {
  for_lanes(w.active, [&](int lane) { ++w.copies[static_cast<size_t>(lane)].group; });
}

/// Completes all groups but the latest `keep` committed ones; with keep < 0 everything issued.
void wait(Warp& w, const Op& op) {
  Block& block = *w.block;
  const int64_t keep = op.immediate;
  for (uint32_t rest = w.active; rest != 0; rest &= rest - 1) {
    const int lane = __builtin_ctz(rest);
    LaneCopies& copies = w.copies[static_cast<size_t>(lane)];
    size_t kept = 0;
    for (const PendingCopy& copy : copies.pending) {
      const bool landed =
          keep < 0 || (copy.group < copies.group && copy.group + keep < copies.group);
      if (!landed) {
        copies.pending[kept++] = copy;
        continue;
      }
      char data[16] = {};
      std::memcpy(data, (block.seed & 1) != 0 && copy.source_bytes > 0 ? copy.source : copy.data,
                  copy.source_bytes);
      std::memcpy(block.shared + copy.destination, data, copy.bytes);
      if (block.checked) block.shared_shadow.finish_copy(w, lane, copy.destination, copy.bytes);
    }
    copies.pending.resize(kept);
  }
}

}  // namespace

bool decode_async(Builder& b) {
  if (b.name() != "cp") return false;
  if (!b.take("async")) b.unsupported();
  if (b.take("commit_group")) {
    b.op.run = commit;
    return true;
  }
  if (b.take("wait_all")) {
    b.op.immediate = -1;
    b.op.site = 0;
    b.op.run = wait;
    return true;
  }
  if (b.take("wait_group")) {
    b.op.immediate = static_cast<int64_t>(b.immediate(0));
    b.op.site = 0;
    b.op.run = wait;
    return true;
  }
  const bool through_l1 = b.take("ca");
  if (!through_l1 && !b.take("cg")) b.unsupported();
  if (!b.take("shared") && !b.take("shared::cta")) b.unsupported();
  if (!b.take("global")) b.unsupported();
  b.take_any({"L2::64B", "L2::128B", "L2::256B"});
  const uint64_t bytes = b.immediate(2);
  if (bytes != 16 && !(through_l1 && (bytes == 4 || bytes == 8))) b.unsupported();
  // Two addresses in one operation: the source's offset moves to `target`.
  b.address(1, 1, Space::kGlobal);
  if (b.op.immediate != static_cast<int32_t>(b.op.immediate)) b.unsupported();
  b.op.target = static_cast<int32_t>(b.op.immediate);
  b.address(0, 0, Space::kShared);
  b.op.bytes = static_cast<uint8_t>(bytes);
  b.op.operand[2] = b.operand_count() > 3 ? b.in(3, {'u', 32}) : b.layout().constant(bytes, 32);
  b.op.site = 0;
  b.op.run = issue;
  return true;
}

}  // namespace rillkv::ptx
