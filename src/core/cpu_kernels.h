// The CPU kernels in use.
#pragma once

#include <string>

#include "kernels/cpu/kernels.h"
#include "kernels/cpu/profile.h"
#include "rillkv/cpu_info.h"

namespace rillkv {

/// The best table that the machine has, or the one that RILLKV_ISA names, with the arithmetic that
/// suits the chip or that RILLKV_ARITHMETIC names. Throws UsageError for a name that is unknown or
/// that this machine lacks. The first use says in the debug log what it is.
const kernels::cpu::KernelTable& cpu_kernels();

/// cpu_info() of any table; `profile` is what chose its arithmetic, or null.
CpuInfo describe_kernels(const kernels::cpu::KernelTable& table,
                         const kernels::cpu::ChipProfile* profile);
/// The same of a table in use, whose arithmetic the chip's profile chose if any did.
CpuInfo describe_kernels(const kernels::cpu::KernelTable& table);
/// The same as a line for people.
std::string summary(const CpuInfo& info);

}  // namespace rillkv
