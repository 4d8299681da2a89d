#include "model/llama_layer.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "core/cpu_kernels.h"
#include "core/cuda_ops.h"
#include "core/kernel_views.h"
#include "core/parallel.h"
#include "model/pack_access.h"

namespace rillkv {
namespace {

/// Rows a thread takes at least: about 16k numbers, a few microseconds.
int64_t row_grain(int64_t columns) { return std::max<int64_t>(1, 16384 / columns); }

at::Tensor norm(at::Tensor& x, const at::Tensor& delta, const at::Tensor& weight, double eps,
                CudaBackend* backend) {
  if (backend != nullptr) return cuda_rms_norm(*backend, x, delta, weight, eps);
  at::Tensor out = at::empty_like(x);
  kernels::cpu::NormParams params;
  params.x = x.data_ptr();
  if (delta.defined()) params.delta = delta.const_data_ptr();
  params.weight = weight.const_data_ptr();
  params.out = out.data_ptr();
  params.columns = x.size(1);
  params.epsilon = static_cast<float>(eps);
  params.dtype = kernel_dtype(x.scalar_type());
  parallel_rows(x.size(0), row_grain(x.size(1)),
                [&](int64_t begin, int64_t end) { cpu_kernels().rms_norm(params, begin, end); });
  return out;
}

}  // namespace

at::Tensor gate(const at::Tensor& gate_up, CudaBackend* backend) {
  const int64_t columns = gate_up.size(1) / 2;
  const at::Tensor both = gate_up.contiguous();
  if (backend != nullptr) return cuda_gate(*backend, both);
  at::Tensor gated = at::empty({both.size(0), columns}, both.options());
  kernels::cpu::GateParams params;
  params.gate_up = both.const_data_ptr();
  params.out = gated.data_ptr();
  params.columns = columns;
  params.dtype = kernel_dtype(both.scalar_type());
  parallel_rows(both.size(0), row_grain(columns),
                [&](int64_t begin, int64_t end) { cpu_kernels().gate(params, begin, end); });
  return gated;
}

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps,
                    CudaBackend* backend) {
  at::Tensor rows = x.contiguous();
  return norm(rows, {}, weight, eps, backend);
}

at::Tensor add_rms_norm(at::Tensor& x, const at::Tensor& delta, const at::Tensor& weight,
                        double eps, CudaBackend* backend) {
  return norm(x, delta, weight, eps, backend);
}

LlamaMlpImpl::LlamaMlpImpl(const ModelConfig& config, at::ScalarType dtype, at::Device device)
    : intermediate_(config.intermediate_size) {
  gate_up_ = Linear(config.hidden_size, 2 * intermediate_, config.mlp_bias, dtype, device);
  const auto view = [&](const char* name, int64_t begin) {
    return register_module(
        name,
        Linear(gate_up_->weight.narrow(0, begin, intermediate_),
               config.mlp_bias ? gate_up_->bias.narrow(0, begin, intermediate_) : at::Tensor()));
  };
  gate_proj_ = view("gate_proj", 0);
  up_proj_ = view("up_proj", intermediate_);
  down_proj_ = register_module(
      "down_proj", Linear(intermediate_, config.hidden_size, config.mlp_bias, dtype, device));
}

at::Tensor LlamaMlpImpl::forward(const at::Tensor& x, CudaBackend* backend) const {
  const at::Tensor both = PackAccess::forward(*gate_up_, x, gate_up_->bias, backend);
  return PackAccess::forward(*down_proj_, gate(both, backend), down_proj_->bias, backend);
}

const at::Tensor& LlamaMlpImpl::packed_gate_up() const { return PackAccess::packed(*gate_up_); }

void LlamaMlpImpl::pack(HugePageArena* arena) {
  if (PackAccess::pack(*gate_up_, arena)) {
    PackAccess::drop_weight(*gate_proj_);
    PackAccess::drop_weight(*up_proj_);
  }
  PackAccess::pack(*down_proj_, arena);
}

LlamaLayerImpl::LlamaLayerImpl(const ModelConfig& config, int64_t layer, at::ScalarType dtype,
                               at::Device device)
    : eps_(config.rms_norm_eps) {
  const auto norm = [&](const char* name) {
    return register_module(name, Weight(at::IntArrayRef{config.hidden_size}, dtype, device));
  };
  input_norm_ = norm("input_layernorm");
  attention_ = register_module("self_attn", ChunkedLlamaAttention(config, layer, dtype, device));
  post_attention_norm_ = norm("post_attention_layernorm");
  mlp_ = register_module("mlp", LlamaMlp(config, dtype, device));
}

at::Tensor LlamaLayerImpl::forward(at::Tensor& hidden, const at::Tensor& delta,
                                   const Pass& pass) const {
  const at::Tensor normed = add_rms_norm(hidden, delta, input_norm_->weight, eps_, pass.backend);
  const at::Tensor attended = PackAccess::forward(*attention_, normed, pass);
  return mlp_->forward(
      add_rms_norm(hidden, attended, post_attention_norm_->weight, eps_, pass.backend),
      pass.backend);
}

at::Tensor LlamaLayerImpl::forward_rows(at::Tensor& hidden, const at::Tensor& delta,
                                        const Pass& pass, const at::Tensor& rows) const {
  const at::Tensor normed = add_rms_norm(hidden, delta, input_norm_->weight, eps_, pass.backend);
  const at::Tensor attended = PackAccess::forward(*attention_, normed, pass);
  at::Tensor some = hidden.index_select(0, rows);
  if (some.size(0) == 0) return some;
  const at::Tensor last = add_rms_norm(some, attended.index_select(0, rows),
                                       post_attention_norm_->weight, eps_, pass.backend);
  return some.add_(mlp_->forward(last, pass.backend));
}

void LlamaLayerImpl::pack(HugePageArena* arena) {
  PackAccess::pack(*attention_, arena);
  mlp_->pack(arena);
  packed_ = true;
  for (const auto& module : modules()) {
    const auto* linear = module->as<LinearImpl>();
    packed_ &= linear == nullptr || !linear->weight.defined();
  }
}

void LlamaLayerImpl::refold() { PackAccess::refold(*attention_); }

}  // namespace rillkv
