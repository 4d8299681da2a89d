#include "rillkv/llama.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstring>
#include <set>
#include <utility>

#include "core/cache_access.h"
#include "core/check_tensor.h"
#include "core/cuda_backend.h"
#include "core/cuda_ops.h"
#include "core/device_decoder.h"
#include "core/huge_page_arena.h"
#include "core/kernel_views.h"
#include "core/parallel.h"
#include "model/checkpoint_weights.h"
#include "model/llama_layer.h"
#include "model/non_finite.h"
#include "model/pack_access.h"
#include "model/pass.h"
#include "rillkv/error.h"
#include "rillkv/memory.h"

namespace rillkv {

namespace {

/// Whether the last hidden states of this thread were computed on the library's own threads: their
/// logits then are, too.
thread_local bool last_on_own_threads = false;

/// Whether a pass runs on the library's own threads: other programs want the cores, and Torch opens
/// no parallel region in it. It would in linear layers that are not packed, in the dense cache's
/// attention and in the statistics of policy ema.
template <typename Layers>
bool on_own_threads(const LinearImpl& head, const Layers& layers,
                    const std::vector<SequenceChunk>& batch) {
  return ThreadPool::shared().contended() && !head.weight.defined() &&
         std::all_of(layers.begin(), layers.end(),
                     [](const auto& layer) { return layer->packed(); }) &&
         std::all_of(batch.begin(), batch.end(), [](const SequenceChunk& chunk) {
           return chunk.cache->config().follows_queries();
         });
}

// On the CPU without Torch's parallel regions, whose threads would spin into the layers' work.

/// Rows `ids` of `table`, [vocab, columns] -> [ids, columns].
at::Tensor embed(const at::Tensor& table, const at::Tensor& ids) {
  if (!table.is_cpu() || !table.is_contiguous() || !ids.is_contiguous()) {
    return at::embedding(table, ids);
  }
  at::Tensor out = at::empty({ids.size(0), table.size(1)}, table.options());
  const size_t bytes = static_cast<size_t>(table.size(1)) * table.element_size();
  const auto* id = ids.const_data_ptr<int64_t>();
  const auto* from = static_cast<const char*>(table.const_data_ptr());
  auto* to = static_cast<char*>(out.mutable_data_ptr());
  parallel_rows(ids.size(0), 64, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      std::memcpy(to + static_cast<size_t>(i) * bytes, from + static_cast<size_t>(id[i]) * bytes,
                  bytes);
    }
  });
  return out;
}

/// x += delta, both [rows, columns].
void add(at::Tensor& x, const at::Tensor& delta) {
  constexpr int64_t kSerial = 32768;  // at::internal::GRAIN_SIZE: no more opens no region
  const int64_t rows = x.is_cpu() ? std::max<int64_t>(1, kSerial / x.size(1)) : x.size(0);
  for (int64_t begin = 0; begin < x.size(0); begin += rows) {
    const int64_t end = std::min(x.size(0), begin + rows);
    x.slice(0, begin, end).add_(delta.slice(0, begin, end));
  }
}

}  // namespace

LlamaModelImpl::LlamaModelImpl(const ModelConfig& config, at::ScalarType dtype, at::Device device)
    : config_(config),
      dtype_(dtype),
      device_(device),
      backend_(device.is_cpu() ? nullptr : cuda_backend(device)) {
  kernel_dtype(dtype);  // rejects what the kernels do not read
  RILLKV_CHECK(config.vocab_size >= 1 && config.hidden_size >= 1 && config.num_hidden_layers >= 1,
               "LlamaModel: expected a vocabulary, a hidden size and layers, got ",
               config.vocab_size, ", ", config.hidden_size, " and ", config.num_hidden_layers);
  embed_tokens_ = register_module(
      "embed_tokens", std::make_shared<WeightImpl>(
                          at::IntArrayRef{config.vocab_size, config.hidden_size}, dtype, device));
  auto layers = std::make_shared<torch::nn::Module>();
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    layers_.push_back(layers->register_module(
        std::to_string(i), std::make_shared<LlamaLayerImpl>(config, i, dtype, device)));
  }
  register_module("layers", std::move(layers));
  norm_ = register_module(
      "norm", std::make_shared<WeightImpl>(at::IntArrayRef{config.hidden_size}, dtype, device));
  lm_head_ = config.tie_word_embeddings
                 ? Linear(embed_tokens_->weight, at::Tensor())
                 : Linear(config.hidden_size, config.vocab_size, false, dtype, device);
  if (!config.tie_word_embeddings) register_module("lm_head", lm_head_);
}

void LlamaModelImpl::load_weights(const std::function<at::Tensor(const std::string&)>& source,
                                  const std::function<void(const std::string&)>& done) {
  RILLKV_CHECK(!packed(), "LlamaModel: expected to be loaded before pack, got a packed model");
  copy_weights(source, done);
  decoder_ = nullptr;
  for (const auto& layer : layers_) layer->refold();
}

void LlamaModelImpl::copy_weights(const std::function<at::Tensor(const std::string&)>& source,
                                  const std::function<void(const std::string&)>& done) {
  RILLKV_CHECK(source != nullptr,
               "LlamaModel: expected a source of weights, got an empty function");
  at::NoGradGuard no_grad;
  const bool table_is_kept = config_.tie_word_embeddings && !lm_head_->weight.defined();
  for (auto& item : named_parameters()) {
    if (table_is_kept && item.key() == "embed_tokens.weight") continue;
    const std::string name = item.key() == "lm_head.weight" ? item.key() : "model." + item.key();
    const at::Tensor tensor = source(name);
    RILLKV_CHECK(tensor.defined(), "weight '", name, "': expected shape ", item.value().sizes(),
                 ", got ", describe(tensor));
    RILLKV_CHECK(tensor.sizes() == item.value().sizes(), "weight '", name, "': expected shape ",
                 item.value().sizes(), ", got ", tensor.sizes());
    item.value().copy_(tensor);
    if (done) done(name);
  }
}

bool LlamaModelImpl::packed() const {
  bool packed = !lm_head_->weight.defined();
  for (const auto& module : modules()) {
    const auto* linear = module->as<LinearImpl>();
    packed |= linear != nullptr && !linear->weight.defined();
  }
  return packed;
}

void LlamaModelImpl::load(torch::serialize::InputArchive& archive) {
  RILLKV_CHECK(!packed(), "LlamaModel: expected to be loaded before pack, got a packed model");
  InferenceModule::load(archive);
}

at::Tensor LlamaModelImpl::logits(const at::Tensor& hidden_states) const {
  RILLKV_CHECK(hidden_states.defined() && hidden_states.dim() == 2 &&
                   hidden_states.size(1) == config_.hidden_size &&
                   hidden_states.scalar_type() == dtype_ && hidden_states.device() == device_,
               "LlamaModel::logits: expected hidden states of [rows, ", config_.hidden_size, "] ",
               dtype_, " on ", device_, ", got ", describe(hidden_states));
  return logits_of(hidden_states, nullptr);
}

at::Tensor LlamaModelImpl::logits_of(const at::Tensor& hidden,
                                     const std::vector<SequenceChunk>* batch) const {
  at::InferenceMode inference;
  const LoopThreads threads(last_on_own_threads);
  const at::Tensor out =
      backend_ != nullptr ? await(head(hidden), batch)
                          : lm_head_->forward(rms_norm(hidden, norm_->weight, config_.rms_norm_eps),
                                              /*out_float32=*/true);
  const int64_t bad = first_unusable_row(out);
  RILLKV_CHECK(bad < 0,
               "LlamaModel: expected finite logits, got NaN or infinity: ", origin(hidden, batch));
  return out;
}

namespace {

/// The tokens of a batch, one sequence after the other, and whose rows are whose.
struct Batch {
  at::Tensor ids;  // [sum of T] int64 on the CPU
  std::vector<SequenceRows> sequences;
};

/// Throws Error for what LlamaModel::forward refuses.
Batch checked_batch(const std::vector<SequenceChunk>& batch, const ModelConfig& config) {
  const int64_t vocab_size = config.vocab_size;
  std::vector<at::Tensor> tokens;
  std::vector<SequenceRows> rows;
  int64_t total = 0;
  std::set<const QuantizedKvCache*> caches;
  for (const SequenceChunk& chunk : batch) {
    RILLKV_CHECK(chunk.cache != nullptr, "LlamaModel: expected a cache, got null");
    RILLKV_CHECK(caches.insert(chunk.cache).second,
                 "LlamaModel: expected a cache of its own for every sequence, got one twice");
    RILLKV_CHECK(chunk.cache->in_step(),
                 "LlamaModel: expected a cache whose layers hold the same tokens, got one that an "
                 "earlier call left half way: reset() it");
    RILLKV_CHECK(chunk.tokens.defined() && chunk.tokens.dim() == 1 &&
                     chunk.tokens.scalar_type() == at::kLong && chunk.tokens.is_cpu(),
                 "LlamaModel: expected tokens of [T] int64 on the cpu, got ",
                 describe(chunk.tokens));
    const int64_t count = chunk.tokens.size(0);
    RILLKV_CHECK(count > 0, "LlamaModel: expected at least one token, got none");
    RILLKV_CHECK(chunk.cache->length() + count <= config.position_limit(),
                 "LlamaModel: expected at most max_position_embeddings (", config.position_limit(),
                 ") positions, beyond which dynamic scaling of RoPE is not computed, got ",
                 chunk.cache->length() + count);
    const int64_t low = chunk.tokens.min().item<int64_t>(),
                  high = chunk.tokens.max().item<int64_t>();
    RILLKV_CHECK(low >= 0 && high < vocab_size, "LlamaModel: expected token ids in 0..",
                 vocab_size - 1, ", got ", low < 0 ? low : high);
    tokens.push_back(chunk.tokens);
    rows.push_back({total, total + count, chunk.cache});
    total += count;
  }
  RILLKV_CHECK(!tokens.empty(), "LlamaModel: expected at least one sequence, got none");
  return {tokens.size() == 1 ? tokens[0] : at::cat(tokens), std::move(rows)};
}

}  // namespace

at::Tensor LlamaModelImpl::run_layers(size_t count, at::Tensor& hidden,
                                      const std::vector<SequenceRows>& sequences) const {
  const Pass pass = pass_over(sequences, backend_.get());
  at::Tensor delta;
  for (size_t i = 0; i < count; ++i) {
    try {
      delta = layers_[i]->forward(hidden, delta, pass);
    } catch (const Error& error) {
      refuse_layer(i, hidden, error.what());
    }
  }
  return delta;
}

at::Tensor LlamaModelImpl::hidden_states(const std::vector<SequenceChunk>& batch) const {
  at::InferenceMode inference;
  const Batch input = checked_batch(batch, config_);
  const LoopThreads threads(last_on_own_threads = on_own_threads(*lm_head_, layers_, batch));
  at::Tensor hidden = embedded(input.ids);
  add(hidden, run_layers(layers_.size(), hidden, input.sequences));
  check_hidden(hidden, batch);
  return hidden;
}

at::Tensor LlamaModelImpl::forward(const at::Tensor& tokens, QuantizedKvCache& cache,
                                   Logits logits) const {
  return forward({SequenceChunk{tokens, &cache}}, logits)[0];
}

std::vector<at::Tensor> LlamaModelImpl::forward(const std::vector<SequenceChunk>& batch,
                                                Logits which) const {
  std::vector<at::Tensor> results(batch.size());
  const auto decodes = [](const SequenceChunk& chunk) {
    return chunk.tokens.defined() && chunk.tokens.numel() == 1;
  };
  const bool one_each = std::all_of(batch.begin(), batch.end(), decodes);
  if (backend_ != nullptr && one_each && which != Logits::kNone) {
    if (const at::Tensor logits = decode(batch); logits.defined()) {
      for (size_t i = 0; i < batch.size(); ++i) {
        const auto row = static_cast<int64_t>(i);
        results[i] = logits.slice(0, row, row + 1);
      }
      return results;
    }
  }
  if (which == Logits::kAll || (which == Logits::kLast && one_each)) {
    const at::Tensor hidden = hidden_states(batch);
    int64_t begin = 0;
    for (size_t i = 0; i < batch.size(); ++i) {
      const int64_t end = begin + batch[i].tokens.size(0);
      results[i] = logits_of(hidden.slice(0, begin, end), &batch);
      begin = end;
    }
    return results;
  }
  // Of the last layer's MLP only the last tokens' rows are read, or none.
  at::InferenceMode inference;
  const Batch input = checked_batch(batch, config_);
  std::vector<int64_t> last;
  if (which == Logits::kLast) {
    for (const SequenceRows& rows : input.sequences) last.push_back(rows.end - 1);
  }
  const LoopThreads threads(last_on_own_threads = on_own_threads(*lm_head_, layers_, batch));
  at::Tensor hidden = embedded(input.ids);
  const size_t before_last = layers_.size() - 1;
  const at::Tensor delta = run_layers(before_last, hidden, input.sequences);
  at::Tensor rows, wanted = at::tensor(last, at::kLong);
  if (backend_ != nullptr) {
    wanted = at::empty(wanted.sizes(), wanted.options().device(device_));
    backend_->upload(last.data(), wanted);
  }
  try {
    rows = layers_[before_last]->forward_rows(hidden, delta,
                                              pass_over(input.sequences, backend_.get()), wanted);
  } catch (const Error& error) {
    refuse_layer(before_last, hidden, error.what());
  }
  check_hidden(hidden, batch);  // what the last layer was given: a dense cache has taken it
  for (size_t i = 0; i < last.size(); ++i) {
    const auto row = static_cast<int64_t>(i);
    results[i] = logits_of(rows.slice(0, row, row + 1), &batch);
  }
  if (backend_ != nullptr && last.empty()) await(at::Tensor(), &batch);
  return results;
}

at::Tensor LlamaModelImpl::embedded(const at::Tensor& ids) const {
  if (backend_ == nullptr) return embed(embed_tokens_->weight, ids).to(dtype_);
  return cuda_embed(*backend_, embed_tokens_->weight, cuda_ids(*backend_, ids));
}

at::Tensor LlamaModelImpl::head(const at::Tensor& hidden) const {
  return PackAccess::forward(*lm_head_,
                             rms_norm(hidden, norm_->weight, config_.rms_norm_eps, backend_.get()),
                             lm_head_->bias, backend_.get());
}

at::Tensor LlamaModelImpl::await(const at::Tensor& logits,
                                 const std::vector<SequenceChunk>* batch) const {
  std::vector<CudaSequence*> sequences;
  if (batch != nullptr) {
    for (const SequenceChunk& chunk : *batch) {
      sequences.push_back(CacheAccess::cuda(*chunk.cache));
    }
  }
  const PassResult result = await_pass(*backend_, logits, sequences);
  if (batch != nullptr) raise_errors(*batch, result.errors);
  return logits.defined() ? result.logits.to(at::kFloat) : at::Tensor();
}

at::Tensor LlamaModelImpl::decode(const std::vector<SequenceChunk>& batch) const {
  at::InferenceMode inference;
  std::vector<QuantizedKvCache*> caches;
  for (const SequenceChunk& chunk : batch) caches.push_back(chunk.cache);
  if (std::find(caches.begin(), caches.end(), nullptr) != caches.end()) return {};
  const std::vector<CudaSequence*> sequences = DeviceDecoder::sequences_of(caches);
  const std::lock_guard<std::mutex> lock(decoding_);
  if (decoder_ == nullptr) decoder_ = std::make_shared<DeviceDecoder>(backend_, dtype_);
  if (!decoder_->takes(sequences)) return {};
  const Batch input = checked_batch(batch, config_);
  for (QuantizedKvCache* cache : caches) CacheAccess::follow_stream(*cache);
  const at::Tensor narrow = input.ids.to(at::kInt);
  const int32_t* first = narrow.const_data_ptr<int32_t>();
  const auto layers = [&](const at::Tensor& ids, const DeviceDecoder::Attend& attend) {
    const Pass pass = {backend_.get(), attend};
    at::Tensor hidden = cuda_embed(*backend_, embed_tokens_->weight, ids), delta;
    for (const auto& layer : layers_) delta = layer->forward(hidden, delta, pass);
    const at::Tensor normed =
        add_rms_norm(hidden, delta, norm_->weight, config_.rms_norm_eps, backend_.get());
    return PackAccess::forward(*lm_head_, normed, lm_head_->bias, backend_.get());
  };
  const PassResult result =
      decoder_->run(sequences, std::vector<int32_t>(first, first + narrow.numel()), layers);
  raise_errors(batch, result.errors);
  at::Tensor logits = result.logits.to(at::kFloat);
  if (first_unusable_row(logits) >= 0) {
    const std::string weight = first_broken_weight(*this);
    throw Error(str_cat("LlamaModel: expected finite logits, got NaN or infinity: ",
                        weight.empty() ? last_layers_output() : weight));
  }
  return logits;
}

CacheGeometry LlamaModelImpl::cache_geometry() const {
  CacheGeometry geometry;
  geometry.layers = config_.num_hidden_layers;
  geometry.heads = config_.num_attention_heads;
  geometry.kv_heads = config_.num_key_value_heads;
  geometry.head_dim = config_.head_dim;
  geometry.inverse_frequencies = rope_inverse_frequencies(config_);
  return geometry;
}

QuantizedKvCache LlamaModelImpl::make_cache(const CompressionConfig& config,
                                            CacheProtocol protocol) const {
  return QuantizedKvCache(cache_geometry(), config, dtype_, protocol, device_);
}

void LlamaModelImpl::pack() {
  decoder_ = nullptr;   // its graphs hold the biases' places
  HugePageArena arena;  // its regions live on in the layers' tensors
  for (auto& layer : layers_) {
    layer->pack(&arena);
    release_freed_memory();  // or packed weights would stand beside what they replace
  }
  if (!config_.tie_word_embeddings) PackAccess::pack(*lm_head_, &arena);
}

void LlamaModelImpl::read(const Checkpoint& checkpoint) {
  RILLKV_CHECK(!packed(), "LlamaModel: expected to be loaded before pack, got a packed model");
  const std::string name = stored_name(checkpoint, "model.embed_tokens.weight");
  const at::Tensor table = checkpoint.tensor(name);
  RILLKV_CHECK(table.sizes() == embed_tokens_->weight.sizes(), "weight '", name,
               "': expected shape ", embed_tokens_->weight.sizes(), ", got ", table.sizes());
  HugePageArena arena;
  const bool share_table = config_.tie_word_embeddings && device_.is_cpu();
  if (share_table && table.scalar_type() == dtype_) {
    // Before anything else is resident, since packing makes all of the table's pages resident;
    // later only those of rows that occur are.
    Linear head(table, at::Tensor());
    if (PackAccess::pack(*head, &arena)) {
      checkpoint.release(name);
      embed_tokens_->replace(table);
      lm_head_ = std::move(head);
    }
  }
  if (!config_.tie_word_embeddings && device_.is_cpu() && dtype_ == at::kBFloat16 &&
      multiplies_bfloat16()) {
    at::NoGradGuard no_grad;
    const std::string head = stored_name(checkpoint, "lm_head.weight");
    lm_head_->weight.copy_(checkpoint.tensor(head));  // the largest: first, too
    PackAccess::pack(*lm_head_, &arena);
    checkpoint.release(head);
    release_freed_memory();
  }
  copy_weights(
      [&](const std::string& weight) { return checkpoint.tensor(stored_name(checkpoint, weight)); },
      [&](const std::string& weight) { checkpoint.release(stored_name(checkpoint, weight)); });
  pack();  // off the CPU no weight is, but biases are folded there, too
  // A table of another dtype: packed from the converted copy.
  if (share_table && lm_head_->weight.defined() && PackAccess::pack(*lm_head_, &arena)) {
    embed_tokens_->replace(table);
  }
  release_freed_memory();
}

at::ScalarType parse_dtype(const std::string& name, at::Device device) {
  if (name == "float32") return at::kFloat;
  if (name == "bfloat16") return at::kBFloat16;
  if (name == "float16") return at::kHalf;
  if (name == "auto") return !device.is_cpu() || multiplies_bfloat16() ? at::kBFloat16 : at::kFloat;
  throw UsageError(str_cat("expected dtype auto, float32, bfloat16 or float16, got '", name, "'"));
}

}  // namespace rillkv
