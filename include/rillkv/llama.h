// LLaMA-family decoders over compressed caches.
#pragma once

#include <torch/nn/pimpl.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "rillkv/chunked_attention.h"
#include "rillkv/inference_module.h"
#include "rillkv/kv_cache.h"
#include "rillkv/model_config.h"
#include "rillkv/safetensors.h"

namespace rillkv {

/// Which positions' logits a forward pass returns; the others are never computed.
enum class Logits { kNone, kLast, kAll };

/// New tokens of one sequence and the cache they go to.
struct SequenceChunk {
  at::Tensor tokens;  ///< [T] int64
  QuantizedKvCache* cache = nullptr;
};

class CudaBackend;
class DeviceDecoder;
class LlamaLayerImpl;
class WeightImpl;
struct ModelAccess;

/// A LLaMA, Mistral (without sliding window) or Qwen2 decoder for inference. Submodules and
/// parameters are named as in Hugging Face checkpoints without the "model." prefix: embed_tokens,
/// layers.N.self_attn.q_proj, layers.N.mlp.gate_proj, norm, lm_head, ... forward is const: one
/// model serves any number of sequences.
class LlamaModelImpl : public InferenceModule {
 public:
  /// Weights are uninitialised. dtype: float32, bfloat16 or float16. device: the CPU or a CUDA
  /// device (see open_device). Throws Error for another dtype and for sizes that are not positive.
  LlamaModelImpl(const ModelConfig& config, at::ScalarType dtype, at::Device device = at::kCPU);

  /// Fills every weight from `source`, which is called with checkpoint names ("model.layers.0....")
  /// and returns a tensor of any floating dtype. Throws Error naming the weight and both shapes
  /// where they differ, and if the model has been packed. `done` is called after each weight has
  /// been copied.
  void load_weights(const std::function<at::Tensor(const std::string&)>& source,
                    const std::function<void(const std::string&)>& done = {});
  /// See InferenceModule; throws Error if the model has been packed.
  void load(torch::serialize::InputArchive& archive) override;

  /// tokens: [T] int64 on the CPU; appends them to the cache. Returns f32 logits on the CPU: [T,
  /// vocab] for kAll, [1, vocab] for kLast, undefined for kNone. Throws Error for a token outside
  /// the vocabulary, an empty chunk, a cache that is null, given twice or not in step
  /// (QuantizedKvCache::in_step) and positions beyond ModelConfig::position_limit, before anything
  /// changes. Throws Error for activations that a layer's cache cannot represent, and for logits
  /// that are NaN or infinite (-inf, a masked token, is allowed beside others): the message names
  /// the weight that holds such a number, otherwise the layer in whose output it first appeared.
  /// The batch's caches hold the chunk by then, or part of it, and must be reset.
  at::Tensor forward(const at::Tensor& tokens, QuantizedKvCache& cache, Logits logits) const;
  /// A batch of sequences of any lengths, each with its own cache; one result each. Equals separate
  /// calls up to rounding of the matrix multiplications.
  ///
  /// On a CUDA device, batches of one token a sequence under policy "adaptive" are one launch a
  /// kernel, wait for the device once, and are captured as a CUDA graph the second time
  /// (RILLKV_CUDA_GRAPHS=0: never), where the caches have one configuration, head_dim is 64 or 128,
  /// blocks have 128 tokens and the dtype 16 bits. Threads then take turns.
  std::vector<at::Tensor> forward(const std::vector<SequenceChunk>& batch, Logits logits) const;

  /// The two halves of `forward`: hidden states after the last layer, [sum of T, hidden_size] on
  /// the model's device. On the CPU throws Error as `forward` does for states that are not finite,
  /// ...
  at::Tensor hidden_states(const std::vector<SequenceChunk>& batch) const;
  /// ... and logits of any rows of them, [rows, vocab] f32 on the CPU. Throws Error for another
  /// shape, dtype or device than hidden_states gives, and as `forward` does for NaN.
  at::Tensor logits(const at::Tensor& hidden_states) const;

  /// An empty cache for one sequence, on the model's device.
  QuantizedKvCache make_cache(const CompressionConfig& config,
                              CacheProtocol protocol = CacheProtocol::kPrefill) const;

  /// See LinearImpl::pack: for good, weights can neither be saved nor loaded afterwards. A tied
  /// table stays as it is: packing it would keep it twice. Biases of v_proj are taken out of the
  /// values that caches hold (see ChunkedLlamaAttentionImpl), packed or not, on any device.
  void pack();
  /// Every weight from a checkpoint, packed as `pack` does. Names without "model." are found, too;
  /// whether the head is tied is what config() says (load_model decides it by the checkpoint). A
  /// tied table is packed, too, where that is possible, and the embedding stays in the mapped file.
  /// Peak memory is that of the weights and the largest of them once more. Throws Error as
  /// load_weights does.
  void read(const Checkpoint& checkpoint);
  /// Whether `pack` has taken any weight.
  bool packed() const;

  const ModelConfig& config() const { return config_; }
  at::ScalarType dtype() const { return dtype_; }
  at::Device device() const { return device_; }

 private:
  void copy_weights(const std::function<at::Tensor(const std::string&)>& source,
                    const std::function<void(const std::string&)>& done);
  /// `logits` of a batch; null: of hidden states whose origin is unknown.
  at::Tensor logits_of(const at::Tensor& hidden, const std::vector<SequenceChunk>* batch) const;
  /// The first `count` layers over hidden states, updated in place; returns what is still to be
  /// added to them.
  at::Tensor run_layers(size_t count, at::Tensor& hidden,
                        const std::vector<SequenceRows>& sequences) const;
  /// Where the first number that is none came from, for a message; see llama_checks.cpp.
  std::string origin(const at::Tensor& hidden, const std::vector<SequenceChunk>* batch) const;
  std::string first_broken_layer(const std::vector<SequenceChunk>& batch) const;
  std::string last_layers_output() const;
  /// Throws Error unless hidden states, of whatever layer, are finite. Not off the CPU, where
  /// looking would wait for the device.
  void check_hidden(const at::Tensor& hidden, const std::vector<SequenceChunk>& batch) const;
  /// Throws what `what` says of layer `layer`, whose input is `hidden`, and where that came from.
  [[noreturn]] void refuse_layer(size_t layer, const at::Tensor& hidden, const char* what) const;
  /// On a CUDA device the batch's caches note what they cannot represent; throws it. `logits`
  /// (undefined: none) are brought to the CPU, in f32, with the same wait.
  at::Tensor await(const at::Tensor& logits, const std::vector<SequenceChunk>* batch) const;
  void raise_errors(const std::vector<SequenceChunk>& batch,
                    const std::vector<uint64_t>& errors) const;
  at::Tensor embedded(const at::Tensor& ids) const;
  at::Tensor head(const at::Tensor& hidden) const;
  /// A batch of one token a sequence on a CUDA device, f32 logits [sequences, vocab]; undefined
  /// where the caches need the common way.
  at::Tensor decode(const std::vector<SequenceChunk>& batch) const;

  CacheGeometry cache_geometry() const;

  friend struct ModelAccess;

  ModelConfig config_;
  at::ScalarType dtype_;
  at::Device device_;
  std::shared_ptr<WeightImpl> embed_tokens_;  // [vocab, hidden]
  std::shared_ptr<WeightImpl> norm_;          // [hidden]
  Linear lm_head_{nullptr};
  std::vector<std::shared_ptr<LlamaLayerImpl>> layers_;
  std::shared_ptr<CudaBackend> backend_;            // null on the CPU
  mutable std::mutex decoding_;                     // of decoder_
  mutable std::shared_ptr<DeviceDecoder> decoder_;  // made by the first decode
};
TORCH_MODULE(LlamaModel);

/// What `load_model` may be told.
struct LoadOptions {
  at::ScalarType dtype = at::kFloat;
  at::Device device = at::kCPU;  ///< from open_device
};

/// Every weight of a model with its shape, by its checkpoint name ("model.norm.weight"), in the
/// order of the layers; `visit` may throw to end the walk.
void for_each_weight(
    const ModelConfig& config,
    const std::function<void(const std::string&, const std::vector<int64_t>&)>& visit);

/// Reads config.json and the weights of a checkpoint folder. Where config.json and the tensors
/// disagree about tie_word_embeddings, the tensors count (a head that differs from the embedding
/// table is used, a head that is missing is the table), and a warning says so; tensors that the
/// model does not use are one warning. Throws Error naming file and key or weight; shapes are
/// compared before anything is allocated.
LlamaModel load_model(const std::string& folder, const LoadOptions& options = {});

/// The dtype that --dtype names: auto, float32, bfloat16 or float16; auto is bfloat16 where the CPU
/// multiplies it natively and on CUDA devices, float32 otherwise. Throws UsageError for any other
/// name.
at::ScalarType parse_dtype(const std::string& name, at::Device device = at::kCPU);

}  // namespace rillkv
