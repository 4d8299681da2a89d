#include "rillkv/linear.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <vector>

#include "core/huge_page_arena.h"
#include "core/parallel.h"
#include "kernels/cpu/kernels.h"
#include "rillkv/error.h"

namespace rillkv {
namespace {

int64_t panels_of(int64_t out_features) {
  return (out_features + kernels::kLinearPanel - 1) / kernels::kLinearPanel;
}

/// Into how many runs the panels go: about four a thread even out what the machine's other work
/// takes away, and runs of one length, as many for every thread, where the panels allow it.
int64_t count_runs(int64_t panels, int64_t threads) {
  const int64_t most = std::min(panels, 4 * threads);
  for (int64_t runs = most; runs >= 2 * threads; --runs) {
    if (panels % runs == 0 && runs % threads == 0) return runs;
  }
  return most;
}

}  // namespace

bool multiplies_bfloat16() { return kernels::cpu::kernels().linear != nullptr; }

LinearImpl::LinearImpl(int64_t in_features, int64_t out_features, bool with_bias,
                       at::ScalarType dtype, at::Device device) {
  const auto options = at::TensorOptions().dtype(dtype).device(device);
  weight = register_parameter("weight", at::empty({out_features, in_features}, options), false);
  if (with_bias) bias = register_parameter("bias", at::empty({out_features}, options), false);
}

LinearImpl::LinearImpl(at::Tensor weight_in, at::Tensor bias_in) {
  weight = register_parameter("weight", std::move(weight_in), false);
  if (bias_in.defined()) bias = register_parameter("bias", std::move(bias_in), false);
}

at::Tensor LinearImpl::forward(const at::Tensor& x, bool out_float32) const {
  if (!packed_.defined()) {
    const at::Tensor out = at::linear(x, weight, bias);
    return out_float32 ? out.to(at::kFloat) : out;
  }
  const at::Tensor input = x.contiguous();
  at::Tensor out = at::empty({x.size(0), out_features_},
                             x.options().dtype(out_float32 ? at::kFloat : at::kBFloat16));
  kernels::LinearParams params;
  params.x = input.const_data_ptr();
  params.packed = packed_.const_data_ptr();
  if (bias.defined()) params.bias = bias.const_data_ptr();
  params.out = out.mutable_data_ptr();
  params.out_float32 = out_float32;
  params.rows = x.size(0);
  params.in_features = in_features_;
  params.out_features = out_features_;
  // A task is a run of panels over all rows: a panel's weights are read once.
  const int64_t panels = panels_of(out_features_);
  const int64_t tasks = count_runs(panels, at::get_num_threads());
  parallel_tasks(tasks, [&](int64_t task) {
    kernels::cpu::kernels().linear(params, panels * task / tasks, panels * (task + 1) / tasks, 0,
                                   params.rows);
  });
  return out;
}

bool LinearImpl::pack(HugePageArena* arena) {
  if (!weight.defined() || !weight.is_cpu() || weight.scalar_type() != at::kBFloat16 ||
      weight.size(1) % 2 != 0 || !multiplies_bfloat16()) {
    return false;
  }
  out_features_ = weight.size(0);
  in_features_ = weight.size(1);
  const at::Tensor rows = weight.contiguous();
  const int64_t panels = panels_of(out_features_);
  const std::vector<int64_t> shape = {panels, in_features_ / 2, kernels::kLinearPanel, 2};
  packed_ =
      arena != nullptr ? arena->take(shape, at::kBFloat16) : at::empty(shape, weight.options());
  parallel_tasks(panels, [&](int64_t panel) {
    kernels::cpu::kernels().pack_linear(rows.const_data_ptr(), out_features_, in_features_, panel,
                                        panel + 1, packed_.mutable_data_ptr());
  });
  drop_weight();
  return true;
}

void LinearImpl::save(torch::serialize::OutputArchive& archive) const {
  RILLKV_CHECK(weight.defined(), "Linear: expected to be saved before pack, got a packed weight");
  InferenceModule::save(archive);
}

void LinearImpl::load(torch::serialize::InputArchive& archive) {
  RILLKV_CHECK(weight.defined(), "Linear: expected to be loaded before pack, got a packed weight");
  InferenceModule::load(archive);
}

void LinearImpl::drop_weight() {
  parameters_.erase("weight");
  weight = at::Tensor();
}

}  // namespace rillkv
