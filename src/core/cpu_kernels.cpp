#include "core/cpu_kernels.h"

#include <stdexcept>

#include "rillkv/error.h"

namespace rillkv {

const kernels::cpu::KernelTable& cpu_kernels() {
  static const kernels::cpu::KernelTable& table = []() -> const kernels::cpu::KernelTable& {
    try {
      return kernels::cpu::kernels();
    } catch (const std::invalid_argument& error) {  // kernels know no header of ours
      throw UsageError(error.what());
    }
  }();
  return table;
}

}  // namespace rillkv
