// A module that holds one parameter called "weight": Hugging Face's name for a norm's gain and an
// embedding's table.
#pragma once

#include <ATen/ATen.h>
#include <torch/nn/pimpl.h>

#include "rillkv/inference_module.h"

namespace rillkv {

class WeightImpl : public InferenceModule {
 public:
  WeightImpl(at::IntArrayRef shape, at::ScalarType dtype, at::Device device)
      : weight(register_parameter(
            "weight", at::empty(shape, at::TensorOptions().dtype(dtype).device(device)), false)) {}

  /// Another tensor in its place; the old one's memory is free once nobody else holds it.
  void replace(at::Tensor tensor) {
    parameters_["weight"] = tensor;
    weight = std::move(tensor);
  }

  at::Tensor weight;
};
TORCH_MODULE(Weight);

}  // namespace rillkv
