// LLaMA attention over a compressed cache, a chunk at a time.
#pragma once

#include <torch/nn/pimpl.h>

#include <cstdint>
#include <vector>

#include "rillkv/inference_module.h"
#include "rillkv/kv_cache.h"
#include "rillkv/linear.h"
#include "rillkv/model_config.h"

namespace rillkv {

/// A sequence's share of the rows of a flattened batch.
struct SequenceRows {
  int64_t begin = 0;
  int64_t end = 0;
  QuantizedKvCache* cache = nullptr;
};

/// The attention block of one LLaMA layer: project Q, K and V, attend to the cache and the chunk
/// itself, append, project the output. RoPE is applied inside the attention kernels; the cache
/// holds keys before it.
///
/// Submodules q_proj, k_proj, v_proj, o_proj have the names and shapes of Hugging Face's
/// LlamaAttention; the first three are views of one fused weight, so write into their tensors (or
/// `load`) rather than put others in their place.
///
/// Attention weights sum to one, so a bias of v_proj reaches the output as a constant, the bias
/// times o_proj.weight. `pack` computes that once: from then on values go into the cache without
/// their bias, which would only widen the ranges their codes must cover, and the output has the
/// constant added. The parameters stay what they were.
///
/// forward is const: one module serves any number of sequences, each with a cache of its own, and
/// any number of threads as long as each has its own caches.
class ChunkedLlamaAttentionImpl : public InferenceModule {
 public:
  /// `layer` is the layer's index in the caches, which live on the same device. Weights are
  /// uninitialised. Throws Error for a negative layer, and for heads or sizes that are not
  /// positive.
  ChunkedLlamaAttentionImpl(const ModelConfig& config, int64_t layer, at::ScalarType dtype,
                            at::Device device = at::kCPU);

  /// hidden: [tokens, hidden_size] -> the same shape. Appends `tokens` tokens to layer `layer` of
  /// the cache.
  at::Tensor forward(const at::Tensor& hidden, QuantizedKvCache& cache) const;
  /// A batch of sequences of any lengths, flattened along the first dimension: the rows of one
  /// after those of the other, all of them. Throws Error for other rows, and where a cache is null
  /// or given twice.
  at::Tensor forward(const at::Tensor& hidden, const std::vector<SequenceRows>& sequences) const;

  /// See LinearImpl::pack; also takes v_proj's bias out of the values. Parameters written by hand
  /// afterwards are not followed (`load` is), and a cache is filled either before or after.
  void pack();
  /// See InferenceModule.
  void load(torch::serialize::InputArchive& archive) override;

  Linear q_proj{nullptr}, k_proj{nullptr}, v_proj{nullptr}, o_proj{nullptr};

 private:
  friend struct PackAccess;

  int64_t layer_, heads_, kv_heads_, head_dim_;
  Linear qkv_{nullptr};    // the fused weight; not a submodule, its views are
  bool prepared_ = false;  // whether `pack` has been called
  bool folded_ = false;    // whether forward adds these biases rather than the parameters'
  at::Tensor qkv_bias_;    // [q_rows + 2 kv_rows], zeros for the values
  at::Tensor o_bias_;      // [hidden_size], of the constant as well
};
TORCH_MODULE(ChunkedLlamaAttention);

}  // namespace rillkv
