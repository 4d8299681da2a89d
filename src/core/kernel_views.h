// Tensors as the kernels see them.
#pragma once

#include <ATen/core/Tensor.h>

#include "kernels/cpu/params.h"
#include "kernels/params.h"

namespace rillkv {

/// The kernels' dtype. Throws Error for anything but f32, bf16 and f16.
kernels::Dtype kernel_dtype(at::ScalarType dtype);

/// x: [tokens, heads, head_dim] with contiguous channels.
kernels::Activation activation(const at::Tensor& x);
kernels::MutableActivation mutable_activation(at::Tensor& x);

/// Packing arguments of `tokens` = x.size(0) tokens of one head.
kernels::cpu::PackParams pack_params(const at::Tensor& x, int64_t head, int64_t block_size);

}  // namespace rillkv
