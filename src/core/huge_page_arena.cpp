#include "core/huge_page_arena.h"

#include <ATen/ATen.h>
#include <sys/mman.h>

#include <algorithm>
#include <new>

namespace rillkv {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kRegion = size_t{64} << 20;

size_t round_up(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

}  // namespace

struct HugePageArena::Region {
  explicit Region(size_t size) : bytes(size), mapped(size + kHugePage) {
    base = mmap(nullptr, mapped, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) throw std::bad_alloc();
    data = reinterpret_cast<uint8_t*>(round_up(reinterpret_cast<uintptr_t>(base), kHugePage));
#ifdef MADV_HUGEPAGE
    madvise(data, bytes, MADV_HUGEPAGE);  // a wish: where it is refused, small pages serve
#endif
  }
  Region(const Region&) = delete;
  Region& operator=(const Region&) = delete;
  ~Region() { munmap(base, mapped); }

  size_t bytes, mapped;
  void* base;
  uint8_t* data;  // aligned to a huge page
};

at::Tensor HugePageArena::take(at::IntArrayRef sizes, at::ScalarType dtype) {
  size_t bytes = at::elementSize(dtype);
  for (int64_t size : sizes) bytes *= static_cast<size_t>(size);
  bytes = round_up(bytes, 64);
  if (region_ == nullptr || used_ + bytes > region_->bytes) {
    region_ = std::make_shared<Region>(std::max(kRegion, round_up(bytes, kHugePage)));
    used_ = 0;
  }
  uint8_t* at = region_->data + used_;
  used_ += bytes;
  return at::from_blob(
      at, sizes, [keep = region_](void*) {}, at::TensorOptions().dtype(dtype));
}

}  // namespace rillkv
