// Linear layers of packed weights over threads.
#pragma once

#include <cstdint>

#include "kernels/cpu/kernels.h"

namespace rillkv {

/// Panels of a packed weight.
inline int64_t linear_panels(int64_t out_features) {
  return (out_features + kernels::cpu::kLinearPanel - 1) / kernels::cpu::kLinearPanel;
}

/// All rows and outputs, by the kernels of `isa`, which must have them. params.tiles is filled in
/// here.
void run_linear(const kernels::cpu::KernelTable& isa, kernels::cpu::LinearParams params);

}  // namespace rillkv
