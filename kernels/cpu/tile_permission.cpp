#include "kernels/cpu/tile_permission.h"

#include <sys/syscall.h>
#include <unistd.h>

namespace rillkv::kernels::cpu {
namespace {

#if defined(__x86_64__) && defined(__linux__)
bool has_unit() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("amx-tile") != 0 && __builtin_cpu_supports("amx-bf16") != 0 &&
         __builtin_cpu_supports("amx-int8") != 0;
}

bool ask() {
  constexpr long kRequest = 0x1023;  // ARCH_REQ_XCOMP_PERM of asm/prctl.h
  constexpr long kTileData = 18;     // XFEATURE_XTILEDATA: the number of the state in XCR0
  return syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
}
#else
bool has_unit() { return false; }
bool ask() { return false; }
#endif

}  // namespace

bool may_use_tiles(bool* refused) {
  static const bool there = has_unit(), allowed = there && ask();
  if (refused != nullptr) *refused = there && !allowed;
  return allowed;
}

}  // namespace rillkv::kernels::cpu
