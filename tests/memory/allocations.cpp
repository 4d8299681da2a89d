#include "tests/memory/allocations.h"

#include <malloc.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>

namespace rillkv::testing {
namespace {

// An open-addressed table of sizes that allocates nothing itself.
struct Slot {
  std::atomic<size_t> size{0}, count{0};
};
constexpr size_t kSlots = size_t{1} << 16;
std::array<Slot, kSlots> slots;
std::atomic<bool> recording{false};

[[maybe_unused]] void record(size_t size) {
  if (!recording.load(std::memory_order_relaxed) || size == 0) return;
  for (size_t i = size * 0x9e3779b97f4a7c15u >> 48;; ++i) {
    Slot& slot = slots[i % kSlots];
    size_t owner = slot.size.load();
    if (owner == 0 && slot.size.compare_exchange_strong(owner, size)) owner = size;
    if (owner != size) continue;
    ++slot.count;
    return;
  }
}

}  // namespace

AllocationLog::AllocationLog() {
  for (Slot& slot : slots) slot.size = slot.count = 0;
  recording = true;
}
AllocationLog::~AllocationLog() { recording = false; }

std::map<size_t, size_t> AllocationLog::stop() {
  recording = false;
  std::map<size_t, size_t> sizes;
  for (const Slot& slot : slots) {
    if (slot.size != 0) sizes[slot.size] = slot.count;
  }
  return sizes;
}

}  // namespace rillkv::testing

#if defined(__SANITIZE_ADDRESS__)
bool rillkv::testing::sees_allocations() { return false; }
#else
bool rillkv::testing::sees_allocations() { return true; }

// glibc's own names of what is replaced here.
extern "C" {
void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);

__attribute__((visibility("default"))) void* malloc(size_t size) {
  rillkv::testing::record(size);
  return __libc_malloc(size);
}
__attribute__((visibility("default"))) void* calloc(size_t count, size_t size) {
  rillkv::testing::record(count * size);
  return __libc_calloc(count, size);
}
__attribute__((visibility("default"))) void* realloc(void* old, size_t size) {
  rillkv::testing::record(size);
  return __libc_realloc(old, size);
}
__attribute__((visibility("default"))) void* memalign(size_t alignment, size_t size) {
  rillkv::testing::record(size);
  return __libc_memalign(alignment, size);
}
__attribute__((visibility("default"))) void* aligned_alloc(size_t alignment, size_t size) {
  return memalign(alignment, size);
}
__attribute__((visibility("default"))) int posix_memalign(void** out, size_t alignment,
                                                          size_t size) {
  void* memory = memalign(alignment, size);
  if (memory == nullptr) return ENOMEM;
  *out = memory;
  return 0;
}
}
#endif
