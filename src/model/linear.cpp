#include "rillkv/linear.h"

#include <ATen/ATen.h>

namespace rillkv {

LinearImpl::LinearImpl(int64_t in_features, int64_t out_features, bool with_bias,
                       at::ScalarType dtype) {
  const auto options = at::TensorOptions().dtype(dtype);
  weight = register_parameter("weight", at::empty({out_features, in_features}, options), false);
  if (with_bias) bias = register_parameter("bias", at::empty({out_features}, options), false);
}

LinearImpl::LinearImpl(at::Tensor weight_in, at::Tensor bias_in) {
  weight = register_parameter("weight", std::move(weight_in), false);
  if (bias_in.defined()) bias = register_parameter("bias", std::move(bias_in), false);
}

at::Tensor LinearImpl::forward(const at::Tensor& x) const { return at::linear(x, weight, bias); }

bool LinearImpl::pack() { return false; }

}  // namespace rillkv
