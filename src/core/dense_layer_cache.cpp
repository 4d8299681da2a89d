// Post-RoPE keys and values in the model's dtype.
#include "core/dense_layer_cache.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/cpu_kernels.h"
#include "core/kernel_views.h"
#include "core/parallel.h"

namespace rillkv {
namespace {

class DenseLayerCache final : public LayerCache {
 public:
  DenseLayerCache(const CacheGeometry& geometry, at::ScalarType dtype, RotationTable& rotations,
                  at::Device device, std::shared_ptr<ChunkMask> mask)
      : geometry_(geometry),
        options_(at::TensorOptions().dtype(dtype).device(device)),
        rotations_(rotations),
        mask_(std::move(mask)) {}

  at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) override {
    const int64_t tokens = q.size(0), past = length_, end = past + tokens;
    reserve(end);
    const auto rows = rotations_.rows(past, tokens);
    at::Tensor keys = keys_.slice(1, past, end).transpose(0, 1);
    rotate(k, rows, keys);
    values_.slice(1, past, end).copy_(v.transpose(0, 1));
    length_ = end;
    const at::Tensor query = at::empty({q.size(1), tokens, q.size(2)}, options_);
    at::Tensor by_token = query.transpose(0, 1);
    rotate(q, rows, by_token);

    if (tokens == 1) return attend_one(query, keys_.slice(1, 0, end), values_.slice(1, 0, end));

    std::optional<at::Tensor> mask;
    if (past > 0) mask = additive_mask(past, tokens);
    const at::Tensor out =
        at::scaled_dot_product_attention(query.unsqueeze(0), keys_.slice(1, 0, end).unsqueeze(0),
                                         values_.slice(1, 0, end).unsqueeze(0), mask, 0.0,
                                         /*is_causal=*/tokens > 1 && past == 0, std::nullopt,
                                         /*enable_gqa=*/geometry_.heads != geometry_.kv_heads);
    return out.squeeze(0).transpose(0, 1);
  }

  int64_t length() const override { return length_; }

  LayerUsage usage() const override {
    LayerUsage usage;
    if (keys_.defined()) {
      usage.key_bytes = static_cast<int64_t>(keys_.nbytes());
      usage.value_bytes = static_cast<int64_t>(values_.nbytes());
    }
    return usage;
  }

  std::vector<std::shared_ptr<const SealedBlock>> blocks() const override { return {}; }

  std::vector<at::Tensor> tensors() const override {
    return keys_.defined() ? std::vector<at::Tensor>{keys_, values_} : std::vector<at::Tensor>{};
  }

  void reset() override {
    length_ = 0;
    keys_ = values_ = at::Tensor();
  }

 private:
  /// One query token: two batched products over kv heads, so that each key and value is read once
  /// for its whole group of heads. Several times faster here than scaled_dot_product_attention.
  /// query: [heads, 1, head_dim]; keys, values: [kv_heads, length, head_dim] -> [1, heads,
  /// head_dim].
  at::Tensor attend_one(const at::Tensor& query, const at::Tensor& keys,
                        const at::Tensor& values) const {
    const at::Tensor grouped = query.reshape(
        {geometry_.kv_heads, geometry_.heads / geometry_.kv_heads, geometry_.head_dim});
    const double scale = 1 / std::sqrt(static_cast<double>(geometry_.head_dim));
    const at::Tensor logits = at::bmm(grouped, keys.transpose(1, 2)).to(at::kFloat).mul_(scale);
    const at::Tensor weights = logits.softmax(-1).to(values.scalar_type());
    return at::bmm(weights, values).view({1, geometry_.heads, geometry_.head_dim});
  }

  /// Grows by a quarter at least, so that appending costs O(1) copies a token.
  void reserve(int64_t tokens) {
    const int64_t capacity = keys_.defined() ? keys_.size(1) : 0;
    if (tokens <= capacity) return;
    const int64_t grown = std::max(tokens, capacity + capacity / 4);
    for (at::Tensor* side : {&keys_, &values_}) {
      at::Tensor larger = at::empty({geometry_.kv_heads, grown, geometry_.head_dim}, options_);
      if (length_ > 0) larger.slice(1, 0, length_).copy_(side->slice(1, 0, length_));
      *side = larger;
    }
  }

  /// RoPE in f32, rounded once: x to `out`, both [tokens, heads, head_dim].
  void rotate(const at::Tensor& x, const RotationTable::Rows& rows, at::Tensor& out) const {
    const int64_t half = geometry_.head_dim / 2, tokens = x.size(0);
    if (x.is_cpu() && x.scalar_type() == out.scalar_type()) {
      kernels::cpu::RopeParams params;
      params.x = activation(x);
      params.out = mutable_activation(out);
      params.cos = rows.cos;
      params.sin = rows.sin;
      params.heads = static_cast<int32_t>(x.size(1));
      params.head_dim = static_cast<int32_t>(geometry_.head_dim);
      params.dtype = kernel_dtype(x.scalar_type());
      parallel_rows(tokens, 16,
                    [&](int64_t begin, int64_t end) { cpu_kernels().rope(params, begin, end); });
      return;
    }
    const auto table = [&](const float* data) {
      return at::from_blob(const_cast<float*>(data), {tokens, 1, half}, options_.dtype(at::kFloat));
    };
    const at::Tensor cos = table(rows.cos), sin = table(rows.sin), wide = x.to(at::kFloat);
    const at::Tensor low = wide.slice(2, 0, half), high = wide.slice(2, half);
    out.copy_(at::cat({low * cos - high * sin, high * cos + low * sin}, 2));
  }

  /// 0 where a query of the chunk sees the key, -infinity elsewhere: [tokens, past + tokens].
  at::Tensor additive_mask(int64_t past, int64_t tokens) const {
    if (mask_->past != past || mask_->additive.size(0) != tokens) {
      const float hidden = -std::numeric_limits<float>::infinity();
      mask_->additive = at::full({tokens, past + tokens}, hidden, options_).triu_(past + 1);
      mask_->past = past;
    }
    return mask_->additive;
  }

  const CacheGeometry geometry_;
  at::TensorOptions options_;
  RotationTable& rotations_;
  std::shared_ptr<ChunkMask> mask_;
  int64_t length_ = 0;
  at::Tensor keys_, values_;  // [kv_heads, capacity, head_dim]
};

}  // namespace

std::unique_ptr<LayerCache> make_dense_layer(const CacheGeometry& geometry, at::ScalarType dtype,
                                             RotationTable& rotations, at::Device device,
                                             std::shared_ptr<ChunkMask> mask) {
  return std::make_unique<DenseLayerCache>(geometry, dtype, rotations, device, std::move(mask));
}

}  // namespace rillkv
