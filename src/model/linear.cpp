#include "rillkv/linear.h"

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>

namespace rillkv {
namespace {

// Torch's oneDNN operators: public in its operator registry, not in its C++ headers.
using Reorder = at::Tensor(const at::Tensor&, std::optional<int64_t>);
using PackedLinear = at::Tensor(const at::Tensor&, const at::Tensor&,
                                const std::optional<at::Tensor>&, c10::string_view,
                                c10::List<std::optional<at::Scalar>>,
                                std::optional<c10::string_view>);

const c10::TypedOperatorHandle<Reorder>& reorder_weight() {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("mkldnn::_reorder_linear_weight", "")
                             .typed<Reorder>();
  return op;
}

const c10::TypedOperatorHandle<PackedLinear>& packed_linear() {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("mkldnn::_linear_pointwise", "")
                             .typed<PackedLinear>();
  return op;
}

std::optional<at::Tensor> bias_argument(const at::Tensor& bias) {
  return bias.defined() ? std::optional(bias) : std::nullopt;
}

}  // namespace

bool multiplies_bfloat16() { return __builtin_cpu_supports("avx512bf16"); }

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

at::Tensor LinearImpl::forward(const at::Tensor& x) const {
  if (!packed_.defined()) return at::linear(x, weight, bias);
  return packed_linear().call(x, packed_, bias_argument(bias), "none",
                              c10::List<std::optional<at::Scalar>>(), std::nullopt);
}

bool LinearImpl::pack() {
  if (!weight.defined() || weight.scalar_type() != at::kBFloat16 || !multiplies_bfloat16())
    return false;
  packed_ = reorder_weight().call(weight, std::nullopt);
  drop_weight();
  return true;
}

void LinearImpl::drop_weight() {
  parameters_.erase("weight");
  weight = at::Tensor();
}

}  // namespace rillkv
