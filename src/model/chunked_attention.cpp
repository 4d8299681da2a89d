#include "rillkv/chunked_attention.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "core/check_tensor.h"
#include "model/pack_access.h"
#include "model/pass.h"
#include "rillkv/error.h"

namespace rillkv {
namespace {

void check_hidden(const at::Tensor& hidden) {
  RILLKV_CHECK(hidden.defined() && hidden.dim() == 2,
               "ChunkedLlamaAttention: expected [tokens, hidden_size], got ", describe(hidden));
}

}  // namespace

ChunkedLlamaAttentionImpl::ChunkedLlamaAttentionImpl(const ModelConfig& config, int64_t layer,
                                                     at::ScalarType dtype, at::Device device)
    : layer_(layer),
      heads_(config.num_attention_heads),
      kv_heads_(config.num_key_value_heads),
      head_dim_(config.head_dim) {
  RILLKV_CHECK(layer >= 0, "ChunkedLlamaAttention: expected layer >= 0, got ", layer);
  RILLKV_CHECK(heads_ >= 1 && kv_heads_ >= 1 && heads_ % kv_heads_ == 0 && head_dim_ >= 2 &&
                   head_dim_ % 2 == 0,
               "ChunkedLlamaAttention: expected heads a multiple of kv heads and an even head_dim, "
               "got ",
               heads_, " heads, ", kv_heads_, " kv heads, head_dim ", head_dim_);
  const int64_t q_rows = heads_ * head_dim_, kv_rows = kv_heads_ * head_dim_;
  qkv_ = Linear(config.hidden_size, q_rows + 2 * kv_rows, config.qkv_bias, dtype, device);
  const auto view = [&](const char* name, int64_t begin, int64_t rows) {
    return register_module(
        name, Linear(qkv_->weight.narrow(0, begin, rows),
                     config.qkv_bias ? qkv_->bias.narrow(0, begin, rows) : at::Tensor()));
  };
  q_proj = view("q_proj", 0, q_rows);
  k_proj = view("k_proj", q_rows, kv_rows);
  v_proj = view("v_proj", q_rows + kv_rows, kv_rows);
  o_proj =
      register_module("o_proj", Linear(q_rows, config.hidden_size, config.o_bias, dtype, device));
}

at::Tensor ChunkedLlamaAttentionImpl::forward(const at::Tensor& hidden,
                                              QuantizedKvCache& cache) const {
  check_hidden(hidden);
  return forward(hidden, {SequenceRows{0, hidden.size(0), &cache}});
}

at::Tensor ChunkedLlamaAttentionImpl::forward(const at::Tensor& hidden,
                                              const std::vector<SequenceRows>& sequences) const {
  check_hidden(hidden);
  const int64_t tokens = hidden.size(0);
  int64_t next = 0;
  for (auto s = sequences.begin(); s != sequences.end(); ++s) {
    RILLKV_CHECK(s->cache != nullptr, "ChunkedLlamaAttention: expected a cache, got null");
    const auto same = [&](const SequenceRows& other) { return other.cache == s->cache; };
    RILLKV_CHECK(
        std::none_of(sequences.begin(), s, same),
        "ChunkedLlamaAttention: expected a cache of its own for every sequence, got one twice");
    RILLKV_CHECK(s->begin == next && s->end >= s->begin && s->end <= tokens,
                 "ChunkedLlamaAttention: expected rows from ", next, " to ", tokens,
                 " at the most, got ", s->begin, "..", s->end);
    next = s->end;
  }
  RILLKV_CHECK(next == tokens && !sequences.empty(),
               "ChunkedLlamaAttention: expected sequences of ", tokens, " rows together, got ",
               next, " rows of ", sequences.size(), " sequences");
  return PackAccess::forward(*this, hidden, pass_over(sequences, nullptr));
}

Pass pass_over(const std::vector<SequenceRows>& sequences, CudaBackend* backend) {
  const auto attend = [&sequences](int64_t layer, const at::Tensor& q, const at::Tensor& k,
                                   const at::Tensor& v) {
    std::vector<at::Tensor> outputs;
    for (const SequenceRows& s : sequences) {
      outputs.push_back(s.cache->attend(layer, q.slice(0, s.begin, s.end),
                                        k.slice(0, s.begin, s.end), v.slice(0, s.begin, s.end)));
    }
    return outputs.size() == 1 ? outputs[0] : at::cat(outputs);
  };
  return {backend, attend};
}

at::Tensor PackAccess::forward(const LinearImpl& linear, const at::Tensor& x,
                               const at::Tensor& bias, CudaBackend* backend) {
  if (backend == nullptr) return linear.run(x, bias, /*out_float32=*/false);
  return backend->linear(x, linear.weight, bias);
}

at::Tensor PackAccess::forward(const ChunkedLlamaAttentionImpl& a, const at::Tensor& hidden,
                               const Pass& pass) {
  const int64_t tokens = hidden.size(0);
  const at::Tensor qkv =
      forward(*a.qkv_, hidden, a.folded_ ? a.qkv_bias_ : a.qkv_->bias, pass.backend)
          .view({tokens, a.heads_ + 2 * a.kv_heads_, a.head_dim_});
  const at::Tensor out =
      pass.attend(a.layer_, qkv.narrow(1, 0, a.heads_), qkv.narrow(1, a.heads_, a.kv_heads_),
                  qkv.narrow(1, a.heads_ + a.kv_heads_, a.kv_heads_));
  return forward(*a.o_proj, out.reshape({tokens, a.heads_ * a.head_dim_}),
                 a.folded_ ? a.o_bias_ : a.o_proj->bias, pass.backend);
}

void PackAccess::fold_value_bias(ChunkedLlamaAttentionImpl& a) {
  const at::Tensor& value = a.v_proj->bias;
  if (!value.defined()) return;
  at::NoGradGuard no_grad;
  const at::Tensor of_heads = value.view({a.kv_heads_, 1, a.head_dim_})
                                  .expand({a.kv_heads_, a.heads_ / a.kv_heads_, a.head_dim_})
                                  .reshape({1, a.heads_ * a.head_dim_});
  at::Tensor sum = a.o_proj->run(of_heads, /*added=*/{}, /*out_float32=*/true)[0];
  if (a.o_proj->bias.defined()) sum = sum + a.o_proj->bias;
  a.o_bias_ = sum.to(value.scalar_type());
  a.qkv_bias_ = at::cat({a.q_proj->bias, a.k_proj->bias, at::zeros_like(value)});
  // A broken bias is left to the cache, which says what is wrong with the values.
  a.folded_ = a.o_bias_.isfinite().all().item<bool>();
}

void ChunkedLlamaAttentionImpl::load(torch::serialize::InputArchive& archive) {
  InferenceModule::load(archive);
  PackAccess::refold(*this);
}

void ChunkedLlamaAttentionImpl::pack() { PackAccess::pack(*this, nullptr); }

void PackAccess::pack(ChunkedLlamaAttentionImpl& attention, HugePageArena* arena) {
  if (pack(*attention.qkv_, arena)) {
    for (Linear* view : {&attention.q_proj, &attention.k_proj, &attention.v_proj}) {
      drop_weight(**view);
    }
  }
  pack(*attention.o_proj, arena);
  fold_value_bias(attention);
  attention.prepared_ = true;
}

void PackAccess::refold(ChunkedLlamaAttentionImpl& attention) {
  if (attention.prepared_) fold_value_bias(attention);
}

}  // namespace rillkv
