// Checks of the tensors that public functions are given.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

namespace rillkv {

/// Dtype, sizes and device of a tensor, for messages.
std::string describe(const at::Tensor& x);

/// Throws Error naming `function` and `name` unless x is [tokens, heads, head_dim] f32, bf16 or f16
/// on the CPU with contiguous channels.
void check_activation(const at::Tensor& x, int64_t heads, int64_t head_dim, const char* function,
                      const char* name);

/// The same for [rows, columns] of `dtype` on the CPU.
void check_matrix(const at::Tensor& x, int64_t rows, int64_t columns, at::ScalarType dtype,
                  const char* function, const char* name);

/// Throws Error unless every element of x (f32, on the CPU) is in 0..most.
void check_range(const at::Tensor& x, float most, const char* function, const char* name);

}  // namespace rillkv
