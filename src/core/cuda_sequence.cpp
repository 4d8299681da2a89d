#include "core/cuda_sequence.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <atomic>

#include "core/assert.h"

namespace rillkv {
namespace {

uint64_t next_id() {
  static std::atomic<uint64_t> last{0};
  return ++last;
}

}  // namespace

CudaSequence::CudaSequence(const CacheGeometry& geometry, const Quantizer& quantizer,
                           at::ScalarType dtype, CacheProtocol protocol, CudaBackend& backend)
    : geometry_(geometry),
      quantizer_(quantizer),
      protocol_(protocol),
      id_(next_id()),
      rotations_(geometry.inverse_frequencies, quantizer->options().config.attention_sink_size,
                 quantizer->options().config.block_size, backend),
      state_(geometry, AdaptiveLayout(quantizer->options()), backend) {
  for (int64_t i = 0; i < geometry.layers; ++i) {
    auto layer = std::make_unique<CudaLayerCache>(geometry, quantizer, dtype, protocol, i,
                                                  rotations_, state_, backend);
    layers_.push_back(layer.get());
    owned_.push_back(std::move(layer));
  }
  tail_cos_ = at::empty({options().config.block_size, geometry.head_dim / 2},
                        at::TensorOptions().dtype(at::kFloat).device(backend.device()));
  tail_sin_ = at::empty_like(tail_cos_);
}

std::vector<std::unique_ptr<LayerCache>> CudaSequence::take_layers() { return std::move(owned_); }

bool CudaSequence::can_step() const {
  const int64_t length = layers_.front()->length();
  return protocol_ == CacheProtocol::kPrefill && length > 0 &&
         length >= options().config.attention_sink_size &&
         std::all_of(layers_.begin(), layers_.end(),
                     [&](const CudaLayerCache* layer) { return layer->length() == length; });
}

kernels::cuda::SequenceStep CudaSequence::begin_step() {
  RILLKV_ASSERT(can_step());
  const CudaLayerCache& first = *layers_.front();
  const int64_t blocks = first.block_count(), count = first.tail_count();
  const int64_t tail_first = first.length() - count;
  state_.ensure_blocks(blocks + 1);
  if (tail_first_ != tail_first || tail_rows_ != count) {  // after a chunk
    rotations_.compute_rows(tail_first, count, tail_cos_.mutable_data_ptr<float>(),
                            tail_sin_.mutable_data_ptr<float>());
  }
  kernels::cuda::SequenceStep step;
  step.layers = state_.layer_states();
  step.block_rotations = rotations_.blocks(blocks + 1);
  step.tail_cos = tail_cos_.mutable_data_ptr<float>();
  step.tail_sin = tail_sin_.mutable_data_ptr<float>();
  step.error = state_.error_word();
  step.length = static_cast<int32_t>(first.length());
  step.block_count = static_cast<int32_t>(blocks);
  step.tail_count = static_cast<int32_t>(count);
  tail_first_ = tail_first;
  tail_rows_ = count + 1;
  return step;
}

void CudaSequence::end_step() {
  for (CudaLayerCache* layer : layers_) layer->count_token();
}

void CudaSequence::reset() {
  state_.reset();
  tail_first_ = -1;
}

std::vector<at::Tensor> CudaSequence::tensors() const {
  std::vector<at::Tensor> all = state_.tensors();
  const auto append = [&](const std::vector<at::Tensor>& more) {
    all.insert(all.end(), more.begin(), more.end());
  };
  append(rotations_.tensors());
  append({tail_cos_, tail_sin_});
  return all;
}

}  // namespace rillkv
