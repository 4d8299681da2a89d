#include "tests/support/ptx/memory.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <stdexcept>
#include <string>

#include "tests/support/ptx/executor.h"

namespace rillkv::ptx {
namespace {

constexpr size_t kAlignment = 256;  // cudaMalloc's
constexpr size_t kGuardBytes = 1024;
constexpr int kGuardFill = 0xA5;
constexpr int kDataFill = 0xFF;

std::map<uint64_t, MemoryRange>& registry() {
  // Never destroyed: cached modules free their variables at the very end of the program.
  static auto* ranges = new std::map<uint64_t, MemoryRange>;
  return *ranges;
}

size_t padded(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

void register_memory(const void* begin, size_t bytes, bool writable) {
  registry()[reinterpret_cast<uint64_t>(begin)] = {static_cast<const char*>(begin), bytes,
                                                   writable};
}

void unregister_memory(const void* begin) { registry().erase(reinterpret_cast<uint64_t>(begin)); }

const MemoryRange* nearest_memory(uint64_t address) {
  auto after = registry().upper_bound(address);
  return after == registry().begin() ? nullptr : &std::prev(after)->second;
}

const MemoryRange* find_memory(uint64_t address, uint64_t bytes) {
  const MemoryRange* range = nearest_memory(address);
  return range != nullptr && range->contains(address, bytes) ? range : nullptr;
}

// Layout: guard | data, padded to the alignment | guard.
void* allocate_device_memory(size_t bytes) {
  const size_t total = kGuardBytes + padded(bytes) + kGuardBytes;
  char* storage = static_cast<char*>(std::aligned_alloc(kAlignment, total));
  if (storage == nullptr) throw std::bad_alloc();
  std::memset(storage, kGuardFill, total);
  char* data = storage + kGuardBytes;
  std::memset(data, kDataFill, bytes);
  register_memory(data, bytes);
  return data;
}

void free_device_memory(void* begin) {
  char* data = static_cast<char*>(begin);
  const auto found = registry().find(reinterpret_cast<uint64_t>(data));
  if (found == registry().end()) throw std::logic_error("free of memory that is not registered");
  const size_t bytes = found->second.bytes;
  registry().erase(found);
  bool intact = true;
  for (size_t i = 0; i < kGuardBytes; ++i) {
    intact = intact && data[-1 - static_cast<ptrdiff_t>(i)] == static_cast<char>(kGuardFill);
  }
  for (size_t i = bytes; i < padded(bytes) + kGuardBytes; ++i) {
    intact = intact && data[i] == static_cast<char>(kGuardFill);
  }
  std::free(data - kGuardBytes);
  // Kernels cannot get here (they are stopped first), so this is a test's own mistake. It may be
  // noticed in a destructor, where throwing is no option.
  if (!intact) {
    std::fprintf(stderr, "ptx: host code wrote outside a buffer of %zu bytes\n", bytes);
    std::abort();
  }
}

}  // namespace rillkv::ptx
