// A linear layer for inference.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/pimpl.h>

#include <cstdint>

#include "rillkv/inference_module.h"

namespace rillkv {

class HugePageArena;

/// Whether this CPU multiplies bfloat16 matrices natively.
bool multiplies_bfloat16();

/// y = x W^T + b, as torch::nn::Linear, with one addition: `pack` rearranges a bfloat16 weight into
/// the panels that the library's own matrix multiplication streams (kernels/params.h, LinearParams)
/// and drops the plain copy. forward is const and safe to call from several threads.
class LinearImpl : public InferenceModule {
 public:
  /// Parameters weight [out_features, in_features] and, if asked for, bias [out_features];
  /// uninitialised.
  LinearImpl(int64_t in_features, int64_t out_features, bool with_bias, at::ScalarType dtype,
             at::Device device = at::kCPU);
  /// A layer over existing tensors, shared with the caller.
  LinearImpl(at::Tensor weight, at::Tensor bias);

  /// x: [rows, in_features] of the weight's dtype -> [rows, out_features], of the same dtype or
  /// float32.
  at::Tensor forward(const at::Tensor& x, bool out_float32 = false) const;

  /// Packs where that pays: bfloat16 on the CPU, an even number of inputs, a CPU that multiplies
  /// bfloat16. Afterwards `weight` is undefined, and `save` and `load` throw Error. Returns whether
  /// it packed. `arena`: where the panels go, the allocator's memory if null.
  bool pack(HugePageArena* arena = nullptr);

  void save(torch::serialize::OutputArchive& archive) const override;
  void load(torch::serialize::InputArchive& archive) override;

  /// Forgets the plain weight (of a view whose fused weight has been packed).
  void drop_weight();

  at::Tensor weight;
  at::Tensor bias;

 private:
  at::Tensor packed_;  // [panels, in_features / 2, kLinearPanel, 2], kernels/params.h
  int64_t out_features_ = 0, in_features_ = 0;
};
TORCH_MODULE(Linear);

}  // namespace rillkv
