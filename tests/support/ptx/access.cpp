#include "tests/support/ptx/access.h"

#include <cstdio>
#include <string>

#include "tests/support/ptx/block.h"
#include "tests/support/ptx/memory.h"

namespace rillkv::ptx {
namespace {

uint64_t address_of(const Warp& warp, const Op& op, int slot, int lane) {
  const uint64_t offset = static_cast<uint64_t>(op.immediate);
  if (op.narrow_address) {
    return static_cast<uint32_t>(warp.lanes<const uint32_t>(op.operand[slot])[lane] + offset);
  }
  return warp.lanes<const uint64_t>(op.operand[slot])[lane] + offset;
}

[[noreturn]] void out_of_bounds(const Warp& warp, int lane, uint64_t address, uint32_t bytes,
                                const char* why) {
  char text[32];
  std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(address));
  std::string detail = std::to_string(bytes) + " bytes at " + text + " by " +
                       warp.block->thread_name(warp, lane) + ": " + why;
  const MemoryRange* near = nearest_memory(address);
  if (near != nullptr && address - reinterpret_cast<uint64_t>(near->begin) < (1u << 20)) {
    detail += "; the nearest buffer has " + std::to_string(near->bytes) +
              " bytes, this is offset " +
              std::to_string(address - reinterpret_cast<uint64_t>(near->begin));
  }
  warp.block->stop(warp, Finding::Kind::kOutOfBounds, detail);
}

void check_alignment(const Warp& warp, int lane, uint64_t address, uint32_t bytes) {
  if ((address & (bytes - 1)) == 0) return;
  warp.block->stop(warp, Finding::Kind::kMisaligned,
                   std::to_string(bytes) + " bytes at an address that is " +
                       std::to_string(address & (bytes - 1)) + " modulo " + std::to_string(bytes) +
                       " by " + warp.block->thread_name(warp, lane));
}

bool is_shared_generic(const Block& block, uint64_t address) {
  const uint64_t base = reinterpret_cast<uint64_t>(block.shared);
  return address >= base && address - base < block.shared_bytes;
}

bool is_local(const Warp& warp, int lane, uint64_t address, uint32_t bytes) {
  const uint64_t base = reinterpret_cast<uint64_t>(warp.local) +
                        static_cast<uint64_t>(lane) * warp.program->local_bytes;
  return address >= base && address - base + bytes <= warp.program->local_bytes;
}

bool is_param(const Warp& warp, uint64_t address, uint32_t bytes) {
  const uint64_t base = reinterpret_cast<uint64_t>(warp.block->params);
  return address >= base && address - base + bytes <= warp.program->param_bytes;
}

/// Local memory and parameters have no races, and nothing is profiled.
void locate_private(Warp& warp, const Op& op, int slot, uint32_t bytes, AccessKind kind) {
  for (uint32_t rest = warp.active; rest != 0; rest &= rest - 1) {
    const int lane = __builtin_ctz(rest);
    const uint64_t address = address_of(warp, op, slot, lane);
    if (op.space == Space::kLocal ? !is_local(warp, lane, address, bytes)
                                  : !is_param(warp, address, bytes) || kind != AccessKind::kRead) {
      out_of_bounds(warp, lane, address, bytes, "outside its local or parameter memory");
    }
    check_alignment(warp, lane, address, bytes);
    warp.pointers[lane] = reinterpret_cast<char*>(address);
  }
}

}  // namespace

void locate_shared(Warp& warp, const Op& op, int slot, uint32_t bytes, uint32_t* offsets) {
  const Block& block = *warp.block;
  for (uint32_t rest = warp.active; rest != 0; rest &= rest - 1) {
    const int lane = __builtin_ctz(rest);
    const uint64_t address = address_of(warp, op, slot, lane);
    if (address + bytes > block.shared_bytes || address > block.shared_bytes) {
      out_of_bounds(
          warp, lane, address, bytes,
          ("outside the block's " + std::to_string(block.shared_bytes) + " bytes of shared memory")
              .c_str());
    }
    check_alignment(warp, lane, address, bytes);
    offsets[lane] = static_cast<uint32_t>(address);
  }
}

void locate(Warp& warp, const Op& op, int slot, uint32_t bytes, AccessKind kind) {
  Block& block = *warp.block;
  if (op.space == Space::kLocal || op.space == Space::kParam) {
    locate_private(warp, op, slot, bytes, kind);
    return;
  }
  uint32_t shared_at[kLanes];
  uint64_t global_at[kLanes];
  uint32_t shared_lanes = 0;
  uint32_t global_lanes = 0;
  if (op.space == Space::kShared) {
    locate_shared(warp, op, slot, bytes, shared_at);
    shared_lanes = warp.active;
  } else {
    const MemoryRange* range = nullptr;
    for (uint32_t rest = warp.active; rest != 0; rest &= rest - 1) {
      const int lane = __builtin_ctz(rest);
      const uint64_t address = address_of(warp, op, slot, lane);
      warp.pointers[lane] = reinterpret_cast<char*>(address);
      if (op.space == Space::kGeneric && is_shared_generic(block, address)) {
        shared_at[lane] = static_cast<uint32_t>(address - reinterpret_cast<uint64_t>(block.shared));
        shared_lanes |= 1u << lane;
        if (shared_at[lane] + bytes > block.shared_bytes) {
          out_of_bounds(warp, lane, address, bytes, "past the end of shared memory");
        }
        check_alignment(warp, lane, shared_at[lane], bytes);
        continue;
      }
      if (op.space == Space::kGeneric &&
          (is_local(warp, lane, address, bytes) || is_param(warp, address, bytes))) {
        continue;
      }
      if (range == nullptr || !range->contains(address, bytes)) range = find_memory(address, bytes);
      if (range == nullptr) {
        out_of_bounds(warp, lane, address, bytes, "outside every registered buffer");
      }
      if (kind != AccessKind::kRead && !range->writable) {
        out_of_bounds(warp, lane, address, bytes, "write to constant memory");
      }
      check_alignment(warp, lane, address, bytes);
      global_at[lane] = address;
      global_lanes |= 1u << lane;
      if (block.checked) {
        block.global_shadow.access(warp, lane, range->begin, range->bytes, warp.pointers[lane],
                                   bytes, kind);
      }
    }
  }
  for (uint32_t rest = shared_lanes; rest != 0; rest &= rest - 1) {
    const int lane = __builtin_ctz(rest);
    warp.pointers[lane] = block.shared + shared_at[lane];
    if (block.checked) block.shared_shadow.access(warp, lane, shared_at[lane], bytes, kind);
  }
  if (block.profile != nullptr) {
    if (shared_lanes != 0) block.profile->shared_access(op.site, shared_lanes, shared_at, bytes);
    if (global_lanes != 0) block.profile->global_access(op.site, global_lanes, global_at, bytes);
  }
}

}  // namespace rillkv::ptx
