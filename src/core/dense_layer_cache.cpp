// Post-RoPE keys and values in the model's dtype. On the CPU the arithmetic is kernels/cpu's RoPE
// and LibTorch's attention; over a CUDA back end RoPE is the CUDA kernel's and attention, where its
// shapes allow, FlashAttention as LibTorch has it, so that the baseline is as fast as it can be.
#include "core/dense_layer_cache.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/cpu_kernels.h"
#include "core/cuda_backend.h"
#include "core/kernel_views.h"
#include "core/parallel.h"
#include "kernels/cuda/launch.h"

namespace rillkv {
namespace {

class DenseLayerCache final : public LayerCache {
 public:
  DenseLayerCache(const CacheGeometry& geometry, at::ScalarType dtype, RotationTable& rotations,
                  at::Device device, CudaBackend* backend, std::shared_ptr<ChunkMask> mask)
      : geometry_(geometry),
        options_(at::TensorOptions().dtype(dtype).device(device)),
        rotations_(rotations),
        backend_(backend),
        mask_(std::move(mask)) {}

  at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) override {
    const int64_t tokens = q.size(0), past = length_, end = past + tokens;
    reserve(end);
    const auto rows = rotations_.rows(past, tokens);
    at::Tensor keys = keys_.slice(1, past, end).transpose(0, 1);
    rotate(k, rows, keys);
    values_.slice(1, past, end).copy_(v.transpose(0, 1));
    length_ = end;
    at::Tensor by_token = rotated_queries(tokens);
    rotate(q, rows, by_token);
    const at::Tensor query = by_token.transpose(0, 1);
    const at::Tensor all_keys = keys_.slice(1, 0, end), all_values = values_.slice(1, 0, end);
    if (flash_takes()) return attend_flash(query, all_keys, all_values);
    if (tokens == 1) return attend_one(query, all_keys, all_values);

    std::optional<at::Tensor> mask;
    if (past > 0) mask = additive_mask(past, tokens);
    const at::Tensor out = at::scaled_dot_product_attention(
        query.unsqueeze(0), all_keys.unsqueeze(0), all_values.unsqueeze(0), mask, 0.0,
        /*is_causal=*/past == 0, std::nullopt,
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
  /// [tokens, heads, head_dim]: in memory by heads on the CPU, whose attention reads a head at a
  /// time, and by tokens over a back end: FlashAttention lays out its result as the queries are,
  /// and the model reads it by tokens.
  at::Tensor rotated_queries(int64_t tokens) const {
    if (backend_ != nullptr) {
      return at::empty({tokens, geometry_.heads, geometry_.head_dim}, options_);
    }
    return at::empty({geometry_.heads, tokens, geometry_.head_dim}, options_).transpose(0, 1);
  }

  /// What FlashAttention computes without padding a head.
  bool flash_takes() const {
    return options_.device().is_cuda() && options_.dtype() != at::kFloat &&
           geometry_.head_dim % 8 == 0 && geometry_.head_dim <= 256;
  }

  /// query: [heads, tokens, head_dim]; keys, values: [kv_heads, length, head_dim], none of them
  /// copied or expanded for its group. The causal mask of this operator, unlike that of
  /// scaled_dot_product_attention, is aligned to the last query and key (torch.nn.attention.bias
  /// calls it for LOWER_RIGHT), which is what a chunk after a past needs.
  static at::Tensor attend_flash(const at::Tensor& query, const at::Tensor& keys,
                                 const at::Tensor& values) {
    const auto results = at::_scaled_dot_product_flash_attention(
        query.unsqueeze(0), keys.unsqueeze(0), values.unsqueeze(0), /*dropout_p=*/0.0,
        /*is_causal=*/true);
    return std::get<0>(results).squeeze(0).transpose(0, 1);
  }

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
    if (backend_ != nullptr) {
      kernels::cuda::RotateParams params;
      params.input = activation(x);
      params.out = mutable_activation(out);
      params.dtype = kernel_dtype(x.scalar_type());
      params.tokens = static_cast<int32_t>(x.size(0));
      params.heads = static_cast<int32_t>(x.size(1));
      params.head_dim = static_cast<int32_t>(geometry_.head_dim);
      params.cos = rows.cos;
      params.sin = rows.sin;
      kernels::cuda::rope(backend_->queue(), params);
      return;
    }
    kernels::cpu::RopeParams params;
    params.x = activation(x);
    params.out = mutable_activation(out);
    params.cos = rows.cos;
    params.sin = rows.sin;
    params.heads = static_cast<int32_t>(x.size(1));
    params.head_dim = static_cast<int32_t>(geometry_.head_dim);
    params.dtype = kernel_dtype(x.scalar_type());
    parallel_rows(x.size(0), 16,
                  [&](int64_t begin, int64_t end) { cpu_kernels().rope(params, begin, end); });
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
  CudaBackend* backend_;
  std::shared_ptr<ChunkMask> mask_;
  int64_t length_ = 0;
  at::Tensor keys_, values_;  // [kv_heads, capacity, head_dim]
};

}  // namespace

std::unique_ptr<LayerCache> make_dense_layer(const CacheGeometry& geometry, at::ScalarType dtype,
                                             RotationTable& rotations, at::Device device,
                                             CudaBackend* backend,
                                             std::shared_ptr<ChunkMask> mask) {
  return std::make_unique<DenseLayerCache>(geometry, dtype, rotations, device, backend,
                                           std::move(mask));
}

}  // namespace rillkv
