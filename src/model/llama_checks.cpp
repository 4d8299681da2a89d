// What a LlamaModel says of numbers that are none. All of this runs when a pass has failed, so it
// may be slow: it reads every weight, and may run the pass again.
#include <ATen/ATen.h>

#include <algorithm>
#include <string>

#include "core/cache_access.h"
#include "core/cuda_cache_state.h"
#include "model/llama_layer.h"  // IWYU pragma: keep
#include "model/non_finite.h"
#include "model/weight.h"  // IWYU pragma: keep
#include "rillkv/error.h"
#include "rillkv/llama.h"

namespace rillkv {
namespace {

constexpr char kFirstIn[] = "they first appear in ";

std::string output_of(size_t layer) {
  return str_cat(kFirstIn, "the output of layer ", layer, ", whose weights are finite");
}

}  // namespace

void LlamaModelImpl::refuse_layer(size_t layer, const at::Tensor& hidden, const char* what) const {
  std::string message = str_cat("layer ", layer, ": ", what);
  const std::string weight = first_broken_weight(*this);
  if (!weight.empty()) {
    message += ": " + weight;
  } else if (!all_finite(hidden)) {
    message += ": " + (layer > 0 ? output_of(layer - 1) : str_cat(kFirstIn, "the embedding"));
  }
  throw Error(message);
}

void LlamaModelImpl::raise_errors(const std::vector<SequenceChunk>& batch,
                                  const std::vector<uint64_t>& errors) const {
  for (size_t i = 0; i < errors.size(); ++i) {
    try {
      if (CacheAccess::cuda(*batch[i].cache) != nullptr) {
        CacheAccess::raise(*batch[i].cache, errors[i]);
      }
    } catch (const Error& error) {
      std::string message =
          str_cat("layer ", CudaCacheState::layer_of_error(errors[i]), ": ", error.what());
      const std::string weight = first_broken_weight(*this);
      if (!weight.empty()) message += ": " + weight;
      throw Error(message);
    }
  }
}

std::string LlamaModelImpl::last_layers_output() const { return output_of(layers_.size() - 1); }

void LlamaModelImpl::check_hidden(const at::Tensor& hidden,
                                  const std::vector<SequenceChunk>& batch) const {
  if (backend_ != nullptr || all_finite(hidden)) return;
  throw Error(str_cat("LlamaModel: expected finite hidden states, got NaN or infinity: ",
                      origin(hidden, &batch)));
}

std::string LlamaModelImpl::origin(const at::Tensor& hidden,
                                   const std::vector<SequenceChunk>* batch) const {
  std::string weight = first_broken_weight(*this);
  if (!weight.empty()) return weight;
  if (all_finite(hidden)) return str_cat(kFirstIn, "lm_head, whose weights are finite");
  return batch != nullptr ? first_broken_layer(*batch) : str_cat(kFirstIn, "the hidden states");
}

std::string LlamaModelImpl::first_broken_layer(const std::vector<SequenceChunk>& batch) const {
  // Every other cache refuses what is not finite, so layers before the last have given nothing of
  // the kind. A dense one has taken it. What came before is still in its layers: up to the one that
  // is looked for, the same tokens once more make the same numbers.
  const auto dense = [](const SequenceChunk& chunk) {
    return chunk.cache->config().policy == Policy::kDense;
  };
  if (std::none_of(batch.begin(), batch.end(), dense)) return output_of(layers_.size() - 1);
  for (const SequenceChunk& chunk : batch) {
    const SequenceRows rows{0, chunk.tokens.size(0), chunk.cache};
    const std::vector<SequenceRows> sequence = {rows};
    const Pass pass = pass_over(sequence, backend_.get());
    at::Tensor delta, hidden = at::embedding(embed_tokens_->weight, chunk.tokens.to(device_));
    hidden = hidden.to(dtype_);
    if (!all_finite(hidden)) return str_cat(kFirstIn, "the embedding");
    for (size_t i = 0; i < layers_.size(); ++i) {
      try {
        delta = layers_[i]->forward(hidden, delta, pass);
      } catch (const Error&) {  // a layer whose cache refuses what it is given
        return output_of(i);
      }
      if (!all_finite(hidden + delta)) return output_of(i);
    }
  }
  return str_cat(kFirstIn, "the layers, whose weights are finite");
}

}  // namespace rillkv
