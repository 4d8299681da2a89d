// A LibTorch module whose tensors stay where they are.
#pragma once

#include <torch/nn/module.h>

namespace rillkv {

/// Base of the model's modules. Some of their parameters are views of one fused weight, which is
/// what forward reads; Torch's own `load` and `to` would put other tensors in their place, and
/// forward would go on with the old values. Here `load` copies into the tensors that are there, and
/// `to` refuses to move or convert them: dtype and device are the constructor's.
class InferenceModule : public torch::nn::Module {
 public:
  /// As torch::nn::Module::save; a parameter that is a view is written alone, without the rest of
  /// the tensor it looks into.
  void save(torch::serialize::OutputArchive& archive) const override;
  /// Copies the archive's tensors, converting their dtype. Throws Error naming the parameter where
  /// it is missing or shapes differ; parameters before it have been read by then.
  void load(torch::serialize::InputArchive& archive) override;

  /// Throw Error, before anything changes, unless every parameter already is so.
  void to(torch::Device device, torch::Dtype dtype, bool non_blocking = false) override;
  void to(torch::Dtype dtype, bool non_blocking = false) override;
  void to(torch::Device device, bool non_blocking = false) override;
};

}  // namespace rillkv
