// What a model computes on a CUDA device besides matrix products and attention: a launch each.
#pragma once

#include <ATen/core/Tensor.h>

#include "core/cuda_backend.h"

namespace rillkv {

/// (x + delta) * rsqrt(mean((x + delta)^2) + eps) * weight, in f32 and rounded once; x + delta
/// replaces x. x, delta (undefined: none): [rows, columns] without gaps.
at::Tensor cuda_rms_norm(CudaBackend& backend, at::Tensor& x, const at::Tensor& delta,
                         const at::Tensor& weight, double eps);

/// gate_up: [rows, 2 * columns] without gaps -> silu(gate) * up, [rows, columns], in f32 and
/// rounded once.
at::Tensor cuda_gate(CudaBackend& backend, const at::Tensor& gate_up);

/// Rows of a table [vocabulary, columns]; ids: [rows] i32 on the device, in its range.
at::Tensor cuda_embed(CudaBackend& backend, const at::Tensor& table, const at::Tensor& ids);

/// Token ids [rows] int64 of the CPU as i32 on the device: arguments of launches, no copy.
at::Tensor cuda_ids(CudaBackend& backend, const at::Tensor& ids);

}  // namespace rillkv
