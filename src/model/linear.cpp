#include "rillkv/linear.h"

#include <ATen/ATen.h>

#include <utility>
#include <vector>

#include "core/check_tensor.h"
#include "core/cpu_kernels.h"
#include "core/linear_runner.h"
#include "core/parallel.h"
#include "model/pack_access.h"
#include "rillkv/error.h"

namespace rillkv {

bool multiplies_bfloat16() { return cpu_kernels().linear != nullptr; }

LinearImpl::LinearImpl(int64_t in_features, int64_t out_features, bool with_bias,
                       at::ScalarType dtype, at::Device device)
    : out_features_(out_features), in_features_(in_features) {
  RILLKV_CHECK(in_features >= 1 && out_features >= 1,
               "Linear: expected at least one input and one output, got ", in_features, " and ",
               out_features);
  const auto options = at::TensorOptions().dtype(dtype).device(device);
  weight = register_parameter("weight", at::empty({out_features, in_features}, options), false);
  if (with_bias) bias = register_parameter("bias", at::empty({out_features}, options), false);
}

LinearImpl::LinearImpl(at::Tensor weight_in, at::Tensor bias_in) {
  RILLKV_CHECK(weight_in.defined() && weight_in.dim() == 2,
               "Linear: expected a weight of [out_features, in_features], got ",
               describe(weight_in));
  out_features_ = weight_in.size(0);
  in_features_ = weight_in.size(1);
  RILLKV_CHECK(!bias_in.defined() || (bias_in.dim() == 1 && bias_in.size(0) == out_features_),
               "Linear: expected a bias of [", out_features_, "], got ", describe(bias_in));
  weight = register_parameter("weight", std::move(weight_in), false);
  if (bias_in.defined()) bias = register_parameter("bias", std::move(bias_in), false);
}

at::Tensor LinearImpl::forward(const at::Tensor& x, bool out_float32) const {
  return run(x, bias, out_float32);
}

at::Tensor LinearImpl::run(const at::Tensor& x, const at::Tensor& added, bool out_float32) const {
  const at::Tensor& own = packed_.defined() ? packed_ : weight;
  RILLKV_CHECK(own.defined(),
               "Linear: expected a layer with a weight, got a view whose fused "
               "weight has been packed");
  RILLKV_CHECK(x.defined() && x.dim() == 2 && x.size(1) == in_features_ &&
                   x.scalar_type() == own.scalar_type() && x.device() == own.device(),
               "Linear: expected [rows, ", in_features_, "] ", own.scalar_type(), " on ",
               own.device(), ", got ", describe(x));
  if (!packed_.defined()) {
    const at::Tensor out = at::linear(x, weight, added);
    return out_float32 ? out.to(at::kFloat) : out;
  }
  return run_linear(cpu_kernels(), x.contiguous(), packed_, added, out_features_, out_float32);
}

bool LinearImpl::pack() { return PackAccess::pack(*this, nullptr); }

bool PackAccess::pack(LinearImpl& linear, HugePageArena* arena) {
  const at::Tensor& weight = linear.weight;
  if (!weight.defined() || !weight.is_cpu() || weight.scalar_type() != at::kBFloat16 ||
      weight.size(1) % 2 != 0 || !multiplies_bfloat16()) {
    return false;
  }
  const int64_t out_features = weight.size(0), in_features = weight.size(1);
  const at::Tensor rows = weight.contiguous();
  const int64_t panels = linear_panels(out_features);
  const std::vector<int64_t> shape = {panels, in_features / 2, kernels::cpu::kLinearPanel, 2};
  at::Tensor packed =
      arena != nullptr ? arena->take(shape, at::kBFloat16) : at::empty(shape, weight.options());
  parallel_tasks(panels, [&](int64_t panel) {
    cpu_kernels().pack_linear(rows.const_data_ptr(), out_features, in_features, panel, panel + 1,
                              packed.mutable_data_ptr());
  });
  linear.out_features_ = out_features;  // the parameter may have been replaced since it was made
  linear.in_features_ = in_features;
  linear.packed_ = std::move(packed);
  drop_weight(linear);
  return true;
}

void PackAccess::drop_weight(LinearImpl& linear) {
  linear.parameters_.erase("weight");
  linear.weight = at::Tensor();
}

void LinearImpl::save(torch::serialize::OutputArchive& archive) const {
  RILLKV_CHECK(weight.defined(), "Linear: expected to be saved before pack, got a packed weight");
  InferenceModule::save(archive);
}

void LinearImpl::load(torch::serialize::InputArchive& archive) {
  RILLKV_CHECK(weight.defined(), "Linear: expected to be loaded before pack, got a packed weight");
  InferenceModule::load(archive);
}

}  // namespace rillkv
