// Linear layers of packed weights over threads.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "kernels/cpu/kernels.h"

namespace rillkv {

/// Panels of a packed weight.
inline int64_t linear_panels(int64_t out_features) {
  return (out_features + kernels::cpu::kLinearPanel - 1) / kernels::cpu::kLinearPanel;
}

/// x W^T + bias by the kernels of `isa`, which must have them. x: [rows, in_features] bf16,
/// contiguous; `packed`: W as pack_linear leaves it; bias: [out_features] bf16 or undefined ->
/// [rows, out_features] bf16, or float32.
at::Tensor run_linear(const kernels::cpu::KernelTable& isa, const at::Tensor& x,
                      const at::Tensor& packed, const at::Tensor& bias, int64_t out_features,
                      bool out_float32 = false);

}  // namespace rillkv
