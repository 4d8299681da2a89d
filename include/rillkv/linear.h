// A linear layer for inference.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/pimpl.h>

#include <cstdint>

#include "rillkv/inference_module.h"

namespace rillkv {

struct PackAccess;

/// Whether this CPU multiplies bfloat16 matrices natively. Throws UsageError where RILLKV_ISA names
/// an instruction set that this machine lacks.
bool multiplies_bfloat16();

/// y = x W^T + b, as torch::nn::Linear, with one addition: `pack` rearranges a bfloat16 weight into
/// panels of a few outputs, pairs of inputs side by side, which the library's own matrix
/// multiplication streams, and drops the plain copy. forward is const and safe to call from several
/// threads.
class LinearImpl : public InferenceModule {
 public:
  /// Parameters weight [out_features, in_features] and, if asked for, bias [out_features];
  /// uninitialised. Throws Error unless both sizes are positive.
  LinearImpl(int64_t in_features, int64_t out_features, bool with_bias, at::ScalarType dtype,
             at::Device device = at::kCPU);
  /// A layer over existing tensors, shared with the caller: weight [out_features, in_features],
  /// bias [out_features] or undefined. Throws Error for other shapes.
  LinearImpl(at::Tensor weight, at::Tensor bias);

  /// x: [rows, in_features] of the weight's dtype -> [rows, out_features], of the same dtype or
  /// float32. Throws Error for another shape, dtype or device.
  at::Tensor forward(const at::Tensor& x, bool out_float32 = false) const;

  /// Packs where that pays: bfloat16 on the CPU, an even number of inputs, a CPU that multiplies
  /// bfloat16. Afterwards `weight` is undefined, and `save` and `load` throw Error. Returns whether
  /// it packed.
  bool pack();

  void save(torch::serialize::OutputArchive& archive) const override;
  void load(torch::serialize::InputArchive& archive) override;

  at::Tensor weight;
  at::Tensor bias;

 private:
  friend struct PackAccess;

  /// forward with another bias in the place of its own; undefined: none.
  at::Tensor run(const at::Tensor& x, const at::Tensor& added, bool out_float32) const;

  at::Tensor packed_;  // [panels, in_features / 2, outputs of a panel, 2]
  int64_t out_features_ = 0, in_features_ = 0;
};
TORCH_MODULE(Linear);

}  // namespace rillkv
