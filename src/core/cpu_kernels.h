// The CPU kernels in use.
#pragma once

#include "kernels/cpu/kernels.h"

namespace rillkv {

/// The best table that the machine has, or the one that RILLKV_ISA names. Throws UsageError for a
/// name that is unknown or that this machine lacks.
const kernels::cpu::KernelTable& cpu_kernels();

}  // namespace rillkv
