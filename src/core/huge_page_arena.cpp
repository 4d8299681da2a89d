#include "core/huge_page_arena.h"

#include <ATen/ATen.h>
#include <sys/mman.h>

#include <algorithm>

#include "rillkv/error.h"

namespace rillkv {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kRegion = size_t{64} << 20;

size_t round_up(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

/// u8 [bytes], aligned to a huge page.
at::Tensor map_region(size_t bytes) {
  const size_t mapped = bytes + kHugePage;
  void* base = mmap(nullptr, mapped, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  RILLKV_CHECK(base != MAP_FAILED, "out of memory: expected ", mapped,
               " bytes for weights or sealed blocks");
  const auto address = reinterpret_cast<uintptr_t>(base);
  void* data = static_cast<uint8_t*>(base) + (round_up(address, kHugePage) - address);
#ifdef MADV_HUGEPAGE
  madvise(data, bytes, MADV_HUGEPAGE);  // a wish: where it is refused, small pages serve
#endif
  return at::from_blob(
      data, {static_cast<int64_t>(bytes)}, [=](void*) { munmap(base, mapped); }, at::kByte);
}

}  // namespace

at::Tensor HugePageArena::take(at::IntArrayRef sizes, at::ScalarType dtype) {
  size_t bytes = at::elementSize(dtype);
  for (int64_t size : sizes) bytes *= static_cast<size_t>(size);
  const size_t aligned = round_up(bytes, 64);
  if (!region_.defined() || used_ + aligned > region_.nbytes()) {
    region_ = map_region(std::max(kRegion, round_up(aligned, kHugePage)));
    used_ = 0;
  }
  // A view: with a storage of its own, every piece would leave small allocations of long life
  // between a forward's large temporaries, whose holes then fit nothing: 350 MB after 7611 tokens,
  // 30 layers.
  const at::Tensor piece =
      region_.narrow(0, static_cast<int64_t>(used_), static_cast<int64_t>(bytes));
  used_ += aligned;
  return piece.view(dtype).view(sizes);
}

}  // namespace rillkv
