#include "core/cpu_kernels.h"

#include <ATen/Parallel.h>

#include <stdexcept>

#include "kernels/cpu/tile_permission.h"
#include "rillkv/error.h"
#include "rillkv/log.h"

namespace rillkv {
namespace {

void log_choice(const kernels::cpu::KernelTable& table) {
  log(LogLevel::kDebug,
      str_cat(summary(describe_kernels(table)), ", ", at::get_num_threads(), " threads"));
  bool refused = false;
  kernels::cpu::may_use_tiles(&refused);
  if (refused) {
    log(LogLevel::kDebug, "the CPU has a tile unit (AMX), but the system does not let us use it");
  }
}

}  // namespace

const kernels::cpu::KernelTable& cpu_kernels() {
  static const kernels::cpu::KernelTable& table = []() -> const kernels::cpu::KernelTable& {
    try {
      const kernels::cpu::KernelTable& chosen = kernels::cpu::kernels();
      log_choice(chosen);
      return chosen;
    } catch (const std::invalid_argument& error) {  // kernels know no header of ours
      throw UsageError(error.what());
    }
  }();
  return table;
}

}  // namespace rillkv
