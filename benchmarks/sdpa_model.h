// The yardstick for the whole model: a LLaMA decoder with a plain contiguous dense cache and
// Torch's scaled_dot_product_attention, as one writes it with Torch. It shares the library's linear
// layers, norms and gate, so that only attention and cache differ, and none of its attention or
// cache code.
#pragma once

#include <ATen/ATen.h>

#include <algorithm>
#include <string>
#include <vector>

#include "kernels/cpu/kernels.h"
#include "rillkv/linear.h"
#include "rillkv/model_config.h"
#include "rillkv/safetensors.h"

namespace rillkv::bench {

class SdpaModel {
 public:
  /// Room for `capacity` tokens, allocated at once: no growing is timed.
  SdpaModel(const std::string& folder, at::ScalarType dtype, int64_t capacity)
      : config_(ModelConfig::load(folder)), dtype_(dtype), checkpoint_(Checkpoint::open(folder)) {
    embedding_ = checkpoint_.tensor("model.embed_tokens.weight").to(dtype);
    norm_ = checkpoint_.tensor("model.norm.weight").to(dtype);
    head_ = linear({config_.tie_word_embeddings ? "model.embed_tokens" : "lm_head"}, false);
    for (int64_t i = 0; i < config_.num_hidden_layers; ++i) {
      const std::string base = "model.layers." + std::to_string(i) + ".";
      const std::string self = base + "self_attn.", mlp = base + "mlp.";
      Layer layer;
      layer.input_norm = checkpoint_.tensor(base + "input_layernorm.weight").to(dtype);
      layer.post_norm = checkpoint_.tensor(base + "post_attention_layernorm.weight").to(dtype);
      layer.qkv = linear({self + "q_proj", self + "k_proj", self + "v_proj"}, config_.qkv_bias);
      layer.o = linear({self + "o_proj"}, config_.o_bias);
      layer.gate_up = linear({mlp + "gate_proj", mlp + "up_proj"}, config_.mlp_bias);
      layer.down = linear({mlp + "down_proj"}, config_.mlp_bias);
      const auto options = at::TensorOptions().dtype(dtype);
      layer.keys = at::zeros({config_.num_key_value_heads, capacity, config_.head_dim}, options);
      layer.values = at::zeros_like(layer.keys);
      layers_.push_back(std::move(layer));
    }
    const std::vector<double> frequencies = rope_inverse_frequencies(config_);
    const at::Tensor inverse = at::tensor(frequencies, at::kDouble);
    const at::Tensor angle = at::arange(capacity, at::kDouble).unsqueeze(1) * inverse;
    cos_ = at::cos(angle).to(at::kFloat);
    sin_ = at::sin(angle).to(at::kFloat);
  }

  int64_t length() const { return length_; }
  void reset() { length_ = 0; }

  /// Appends keys and values before RoPE, [tokens, kv_heads, D], to every layer, without attention.
  void fill(const at::Tensor& k, const at::Tensor& v) {
    for (Layer& layer : layers_) store(layer, k, v);
    length_ += k.size(0);
  }

  /// tokens [T] int64 -> f32 logits [1, vocab] of the last one.
  at::Tensor forward(const at::Tensor& tokens) {
    at::InferenceMode inference;
    const int64_t count = tokens.size(0), end = length_ + count;
    // One additive mask for all layers: given booleans, SDPA would make one in each.
    at::Tensor mask;
    if (count > 1) {
      mask = at::zeros({count, end}, at::TensorOptions().dtype(dtype_));
      mask.slice(1, length_).fill_(-INFINITY).triu_(1);
    }
    at::Tensor hidden = at::embedding(embedding_, tokens), delta;
    for (Layer& layer : layers_) {
      const at::Tensor attended = attend(layer, normed(hidden, delta, layer.input_norm), mask);
      const at::Tensor both =
          layer.gate_up->forward(normed(hidden, attended, layer.post_norm)).contiguous();
      delta = layer.down->forward(gated(both));
    }
    length_ = end;
    hidden.add_(delta);
    at::Tensor last = hidden.slice(0, count - 1).contiguous();
    return head_->forward(normed(last, {}, norm_), /*out_float32=*/true);
  }

 private:
  struct Layer {
    at::Tensor input_norm, post_norm;
    Linear qkv{nullptr}, o{nullptr}, gate_up{nullptr}, down{nullptr};
    at::Tensor keys, values;  // [kv_heads, capacity, D], keys after RoPE
  };

  /// The rows of several projections as one layer.
  Linear linear(const std::vector<std::string>& names, bool with_bias) {
    std::vector<at::Tensor> weights, biases;
    for (const std::string& name : names) {
      weights.push_back(checkpoint_.tensor(name + ".weight").to(dtype_));
      if (with_bias) biases.push_back(checkpoint_.tensor(name + ".bias").to(dtype_));
    }
    Linear result(at::cat(weights), with_bias ? at::cat(biases) : at::Tensor());
    result->pack();
    return result;
  }

  kernels::Dtype kernel_dtype() const {
    return dtype_ == at::kFloat      ? kernels::Dtype::kFloat32
           : dtype_ == at::kBFloat16 ? kernels::Dtype::kBFloat16
                                     : kernels::Dtype::kFloat16;
  }

  at::Tensor normed(at::Tensor& x, const at::Tensor& delta, const at::Tensor& weight) const {
    at::Tensor out = at::empty_like(x);
    kernels::cpu::NormParams p;
    p.x = x.data_ptr();
    if (delta.defined()) p.delta = delta.const_data_ptr();
    p.weight = weight.const_data_ptr();
    p.out = out.data_ptr();
    p.columns = x.size(1);
    p.epsilon = static_cast<float>(config_.rms_norm_eps);
    p.dtype = kernel_dtype();
    at::parallel_for(0, x.size(0), 32, [&](int64_t begin, int64_t end) {
      kernels::cpu::kernels().rms_norm(p, begin, end);
    });
    return out;
  }

  at::Tensor gated(const at::Tensor& both) const {
    at::Tensor out = at::empty({both.size(0), both.size(1) / 2}, both.options());
    kernels::cpu::GateParams p;
    p.gate_up = both.const_data_ptr();
    p.out = out.data_ptr();
    p.columns = out.size(1);
    p.dtype = kernel_dtype();
    at::parallel_for(0, out.size(0), 16, [&](int64_t begin, int64_t end) {
      kernels::cpu::kernels().gate(p, begin, end);
    });
    return out;
  }

  at::Tensor rotated(const at::Tensor& x, int64_t first) const {  // [T, heads, D] -> f32
    const int64_t half = x.size(2) / 2;
    const at::Tensor cos = cos_.slice(0, first, first + x.size(0)).unsqueeze(1);
    const at::Tensor sin = sin_.slice(0, first, first + x.size(0)).unsqueeze(1);
    const at::Tensor wide = x.to(at::kFloat);
    const at::Tensor low = wide.slice(2, 0, half), high = wide.slice(2, half);
    return at::cat({low * cos - high * sin, high * cos + low * sin}, 2);
  }

  void store(Layer& layer, const at::Tensor& k, const at::Tensor& v) const {
    const int64_t end = length_ + k.size(0);
    layer.keys.slice(1, length_, end).copy_(rotated(k, length_).transpose(0, 1));
    layer.values.slice(1, length_, end).copy_(v.transpose(0, 1));
  }

  at::Tensor attend(Layer& layer, const at::Tensor& x, const at::Tensor& mask) const {
    const int64_t tokens = x.size(0), heads = config_.num_attention_heads,
                  kv_heads = config_.num_key_value_heads, end = length_ + tokens;
    const at::Tensor qkv =
        layer.qkv->forward(x).view({tokens, heads + 2 * kv_heads, config_.head_dim});
    store(layer, qkv.narrow(1, heads, kv_heads), qkv.narrow(1, heads + kv_heads, kv_heads));
    const at::Tensor q = rotated(qkv.narrow(1, 0, heads), length_).to(dtype_).transpose(0, 1);
    const at::Tensor out = at::scaled_dot_product_attention(
        q.unsqueeze(0), layer.keys.slice(1, 0, end).unsqueeze(0),
        layer.values.slice(1, 0, end).unsqueeze(0),
        mask.defined() ? std::optional<at::Tensor>(mask) : std::nullopt, 0.0, false, std::nullopt,
        /*enable_gqa=*/heads != kv_heads);
    return layer.o->forward(
        out.squeeze(0).transpose(0, 1).reshape({tokens, heads * config_.head_dim}));
  }

  ModelConfig config_;
  at::ScalarType dtype_;
  Checkpoint checkpoint_;
  at::Tensor embedding_, norm_, cos_, sin_;
  Linear head_{nullptr};
  std::vector<Layer> layers_;
  int64_t length_ = 0;
};

}  // namespace rillkv::bench
