// The registry of simulated device memory.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rillkv::ptx {

struct MemoryRange {
  const char* begin = nullptr;
  size_t bytes = 0;
  bool writable = false;
  bool contains(uint64_t address, uint64_t size) const {
    const uint64_t first = reinterpret_cast<uint64_t>(begin);
    return address >= first && size <= bytes && address - first <= bytes - size;
  }
};

/// The registered range that holds [address, address + bytes), or null. The pointer is valid until
/// the registry changes.
const MemoryRange* find_memory(uint64_t address, uint64_t bytes);
/// The range with the largest beginning not after `address`, for messages; or null.
const MemoryRange* nearest_memory(uint64_t address);

}  // namespace rillkv::ptx
