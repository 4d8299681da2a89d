#include "model/llama_layer.h"

#include <ATen/ATen.h>

namespace rillkv {
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  const at::Tensor wide = x.to(at::kFloat);
  const at::Tensor scale = at::rsqrt(wide.square().mean(-1, /*keepdim=*/true) + eps);
  return weight * (wide * scale).to(x.scalar_type());
}

LlamaMlpImpl::LlamaMlpImpl(const ModelConfig& config, at::ScalarType dtype)
    : intermediate_(config.intermediate_size) {
  gate_up_ = Linear(config.hidden_size, 2 * intermediate_, config.mlp_bias, dtype);
  const auto view = [&](const char* name, int64_t begin) {
    return register_module(
        name,
        Linear(gate_up_->weight.narrow(0, begin, intermediate_),
               config.mlp_bias ? gate_up_->bias.narrow(0, begin, intermediate_) : at::Tensor()));
  };
  gate_proj_ = view("gate_proj", 0);
  up_proj_ = view("up_proj", intermediate_);
  down_proj_ = register_module("down_proj",
                               Linear(intermediate_, config.hidden_size, config.mlp_bias, dtype));
}

at::Tensor LlamaMlpImpl::forward(const at::Tensor& x) const {
  const at::Tensor both = gate_up_->forward(x);
  const at::Tensor gate = at::silu(both.narrow(1, 0, intermediate_));
  return down_proj_->forward(gate.mul_(both.narrow(1, intermediate_, intermediate_)));
}

void LlamaMlpImpl::pack() {
  if (gate_up_->pack()) {
    gate_proj_->drop_weight();
    up_proj_->drop_weight();
  }
  down_proj_->pack();
}

LlamaLayerImpl::LlamaLayerImpl(const ModelConfig& config, int64_t layer, at::ScalarType dtype)
    : eps_(config.rms_norm_eps) {
  const auto norm = [&](const char* name) {
    return register_module(name, Weight(at::IntArrayRef{config.hidden_size}, dtype));
  };
  input_norm_ = norm("input_layernorm");
  attention_ = register_module("self_attn", ChunkedLlamaAttention(config, layer, dtype));
  post_attention_norm_ = norm("post_attention_layernorm");
  mlp_ = register_module("mlp", LlamaMlp(config, dtype));
}

at::Tensor LlamaLayerImpl::forward(const at::Tensor& hidden,
                                   const std::vector<SequenceRows>& sequences) const {
  const at::Tensor x =
      hidden + attention_->forward(rms_norm(hidden, input_norm_->weight, eps_), sequences);
  return x + mlp_->forward(rms_norm(x, post_attention_norm_->weight, eps_));
}

void LlamaLayerImpl::pack() {
  attention_->pack();
  mlp_->pack();
}

}  // namespace rillkv
