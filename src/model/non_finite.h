// Numbers that are none: whether there are any, and which weight they come from.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <string>

namespace rillkv {

/// Whether every element of x is finite; x: float32, bfloat16 or float16, any shape and device.
bool all_finite(const at::Tensor& x);

/// Whether a token can be chosen from these logits: none is NaN or +inf, and not all are -inf,
/// which is how a masked token looks.
bool usable_logits(const float* logits, int64_t count);
/// The first row of logits [rows, vocab], f32 on the CPU, that is not usable; -1 if all are.
int64_t first_unusable_row(const at::Tensor& logits);

/// "weight 'model.norm.weight' holds NaN" of the first such weight of a LlamaModel in the order of
/// its layers, packed ones included; empty if all are finite. Reads every weight: for failures.
std::string first_broken_weight(const torch::nn::Module& model);

}  // namespace rillkv
