#include "tests/support/ptx/shadow.h"

#include <cstdlib>
#include <cstring>
#include <new>
#include <string>

#include "tests/support/ptx/block.h"
#include "tests/support/ptx/warp.h"

namespace rillkv::ptx {
namespace {

enum CellFlags : uint8_t {
  kAtomicWrite = 1,     // the last write was atomic
  kManyWarpsRead = 2,   // several warps read in read_epoch
  kOtherBlockRead = 4,  // a block before the current one read, in this launch
  kSplit = 8,           // the word's bytes have cells of their own
};

/// One access of one lane, with the times it is judged by.
struct Access {
  Warp& warp;
  int lane;
  AccessKind kind;
  const Epochs& epochs;
  uint32_t begin;  // what happened before this epoch is over: the launch's, or for shared memory
                   // the block's first
  const char* space;
  int site;
};

const char* verb(AccessKind kind) {
  switch (kind) {
    case AccessKind::kRead:
      return "read";
    case AccessKind::kWrite:
      return "write";
    case AccessKind::kAtomic:
      return "atomic";
  }
  return "";
}

void report_race(const Access& a, const char* earlier, const std::string& earlier_thread,
                 uint16_t earlier_site, size_t offset) {
  Block& block = *a.warp.block;
  const int other = block.program.site_ops[earlier_site];
  block.report(a.warp, Finding::Kind::kRace, other,
               std::string(a.space) + " memory byte " + std::to_string(offset) + ": " +
                   verb(a.kind) + " by " + block.thread_name(a.warp, a.lane) + " races with " +
                   earlier + " by " + earlier_thread);
}

std::string thread_name(int warp, int lane) {
  return "thread " + std::to_string(warp * kLanes + lane);
}

/// True if what lane `other` of the same warp did at `time` comes before what this lane does now.
bool ordered_in_warp(const Access& a, int other, uint32_t time) {
  return other == a.lane || a.warp.known[a.lane][other] > time;
}

void check_against_write(const Cell& c, const Access& a, size_t offset) {
  if (c.write_epoch < a.begin) return;
  if (a.kind == AccessKind::kAtomic && (c.flags & kAtomicWrite) != 0) return;
  const char* what = (c.flags & kAtomicWrite) != 0 ? "atomic" : "write";
  if (c.write_epoch < a.epochs.block_begin) {
    report_race(a, what, "another block", c.write_op, offset);
  } else if (c.write_epoch == a.epochs.now &&
             (c.write_warp != a.warp.index || !ordered_in_warp(a, c.write_lane, c.write_time))) {
    report_race(a, what, thread_name(c.write_warp, c.write_lane), c.write_op, offset);
  }
}

void check_against_reads(const Cell& c, const Access& a, size_t offset) {
  if (c.read_epoch < a.begin) return;
  if ((c.flags & kOtherBlockRead) != 0 || c.read_epoch < a.epochs.block_begin) {
    report_race(a, "read", "another block", c.read_op, offset);
    return;
  }
  if (c.read_epoch != a.epochs.now) return;
  if ((c.flags & kManyWarpsRead) != 0 || c.read_warp != a.warp.index) {
    report_race(a, "read", "warp " + std::to_string(c.read_warp), c.read_op, offset);
    return;
  }
  for (uint32_t lanes = c.read_lanes; lanes != 0; lanes &= lanes - 1) {
    const int lane = __builtin_ctz(lanes);
    if (!ordered_in_warp(a, lane, c.read_time)) {
      report_race(a, "read", thread_name(c.read_warp, lane), c.read_op, offset);
      return;
    }
  }
}

void record_read(Cell* c, const Access& a) {
  const uint32_t now = a.epochs.now;
  if (c->read_epoch == now && c->read_warp == a.warp.index) [[likely]] {
    // Readers that came before this one by bar.warp.sync are forgotten: whoever is ordered after
    // this reader is ordered after them, and read_time is this reader's from now on.
    uint32_t concurrent = c->read_lanes;
    if (c->read_time != a.warp.sync_time) {
      for (uint32_t lanes = c->read_lanes; lanes != 0; lanes &= lanes - 1) {
        const int lane = __builtin_ctz(lanes);
        if (ordered_in_warp(a, lane, c->read_time)) concurrent &= ~(1u << lane);
      }
    }
    c->read_lanes = concurrent | 1u << a.lane;
  } else {
    uint8_t flags = c->flags & ~(kManyWarpsRead | kOtherBlockRead);
    if (c->read_epoch == now) flags |= kManyWarpsRead;
    if (c->read_epoch >= a.begin &&
        (c->read_epoch < a.epochs.block_begin || (c->flags & kOtherBlockRead) != 0)) {
      flags |= kOtherBlockRead;
    }
    c->flags = flags;
    c->read_epoch = now;
    c->read_warp = static_cast<uint16_t>(a.warp.index);
    c->read_lanes = 1u << a.lane;
  }
  c->read_time = a.warp.sync_time;
  c->read_op = static_cast<uint16_t>(a.site);
}

void record_write(Cell* c, const Access& a) {
  c->write_epoch = a.epochs.now;
  c->write_time = a.warp.sync_time;
  c->write_warp = static_cast<uint16_t>(a.warp.index);
  c->write_lane = static_cast<uint8_t>(a.lane);
  c->write_op = static_cast<uint16_t>(a.site);
  c->flags = static_cast<uint8_t>((c->flags & ~kAtomicWrite) |
                                  (a.kind == AccessKind::kAtomic ? kAtomicWrite : 0));
}

void visit(Cell* c, const Access& a, size_t offset) {
  check_against_write(*c, a, offset);
  if (a.kind == AccessKind::kRead) {
    record_read(c, a);
  } else {
    check_against_reads(*c, a, offset);
    record_write(c, a);
  }
}

Cell* zeroed_cells(size_t count) {
  void* cells = std::calloc(count > 0 ? count : 1, sizeof(Cell));
  if (cells == nullptr) throw std::bad_alloc();
  return static_cast<Cell*>(cells);
}

}  // namespace

void CellRange::FreeDeleter::operator()(Cell* cells) const { std::free(cells); }

void CellRange::reset(size_t bytes) {
  words_ = (bytes + 3) / 4;
  cells_.reset(zeroed_cells(words_));
  byte_cells_.reset();
}

Cell* CellRange::split(size_t word) {
  if (!byte_cells_) byte_cells_.reset(zeroed_cells(4 * words_));
  Cell* bytes = byte_cells_.get() + 4 * word;
  if ((cells_[word].flags & kSplit) == 0) {
    for (int i = 0; i < 4; ++i) bytes[i] = cells_[word];
    cells_[word].flags |= kSplit;
  }
  return bytes;
}

void CellRange::access(Warp& warp, int lane, size_t offset, uint32_t bytes, AccessKind kind,
                       bool shared) {
  const Epochs& epochs = warp.block->epochs;
  const Access a{warp,
                 lane,
                 kind,
                 epochs,
                 shared ? epochs.block_begin : epochs.launch_begin,
                 shared ? "shared" : "global",
                 warp.program->ops[static_cast<size_t>(warp.pc)].site};
  if (offset % 4 == 0 && bytes % 4 == 0) {
    for (size_t word = offset / 4; word < (offset + bytes) / 4; ++word) {
      if ((cells_[word].flags & kSplit) == 0) [[likely]] {
        visit(&cells_[word], a, 4 * word);
      } else {
        for (size_t i = 0; i < 4; ++i) visit(&byte_cells_[4 * word + i], a, 4 * word + i);
      }
    }
  } else {
    for (size_t at = offset; at < offset + bytes; ++at) visit(split(at / 4) + at % 4, a, at);
  }
}

void SharedShadow::reset(size_t bytes) {
  // Epochs never repeat, so old cells are as good as new ones.
  if (state_.size() != bytes) cells_.reset(bytes);
  state_.assign(bytes, kUnwritten);
}

void SharedShadow::access(Warp& warp, int lane, uint32_t offset, uint32_t bytes, AccessKind kind) {
  uint8_t* state = state_.data() + offset;
  for (uint32_t i = 0; i < bytes; ++i) {
    if (state[i] == kWritten) continue;
    if (state[i] == kPending) {
      warp.block->report(warp, Finding::Kind::kPendingCopy, -1,
                         std::string(verb(kind)) + " of shared memory byte " +
                             std::to_string(offset + i) + " by " +
                             warp.block->thread_name(warp, lane) +
                             " before the cp.async that fills it was waited for");
      break;
    }
    if (kind != AccessKind::kWrite) {
      warp.block->report(warp, Finding::Kind::kUninitialised, -1,
                         "shared memory byte " + std::to_string(offset + i) + " read by " +
                             warp.block->thread_name(warp, lane) + " was never written");
      break;
    }
  }
  if (kind != AccessKind::kRead) std::memset(state, kWritten, bytes);
  cells_.access(warp, lane, offset, bytes, kind, true);
}

void SharedShadow::begin_copy(Warp& warp, int lane, uint32_t offset, uint32_t bytes) {
  access(warp, lane, offset, bytes, AccessKind::kWrite);
  std::memset(state_.data() + offset, kPending, bytes);
}

void SharedShadow::finish_copy(Warp& warp, int lane, uint32_t offset, uint32_t bytes) {
  std::memset(state_.data() + offset, kWritten, bytes);
  // Nobody may have touched the bytes in between; the write counts from now.
  cells_.access(warp, lane, offset, bytes, AccessKind::kWrite, true);
}

void GlobalShadow::access(Warp& warp, int lane, const char* begin, size_t size, const char* address,
                          uint32_t bytes, AccessKind kind) {
  if (begin != last_begin_) {
    const auto [found, inserted] = ranges_.try_emplace(begin);
    if (inserted) found->second.reset(size);
    last_begin_ = begin;
    last_ = &found->second;
  }
  last_->access(warp, lane, static_cast<size_t>(address - begin), bytes, kind, false);
}

}  // namespace rillkv::ptx
