#include "core/cuda_layer_cache.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "core/assert.h"
#include "core/block_layout.h"
#include "core/cuda_runner.h"
#include "core/kernel_views.h"
#include "kernels/cuda/ingest.h"
#include "kernels/moment_layout.h"
#include "kernels/packed_format.h"

namespace rillkv {

namespace cuda = kernels::cuda;

CudaLayerCache::CudaLayerCache(const CacheGeometry& geometry, Quantizer quantizer,
                               at::ScalarType dtype, CacheProtocol protocol, int64_t layer,
                               DeviceRotationTable& rotations, CudaCacheState& state,
                               CudaBackend& backend)
    : PackedLayer(geometry, std::move(quantizer), dtype, protocol, rotations, backend.device()),
      layer_(layer),
      layout_(quantizer_->options()),
      device_rotations_(rotations),
      state_(state),
      backend_(backend),
      statistics_(state.error_feedback()
                      ? static_cast<int64_t>(kernels::moment_floats(layout_.head_dim))
                      : geometry.head_dim),
      sinks_(allocate_sinks(quantizer_->options(), backend.device())) {
  check_head_dim_for_cuda(geometry.head_dim);
  if (sinks_.keys.defined()) sink_pointers_ = upload_sink_pointers(backend, sinks_);
  state_.set_places(layer, {sinks_.keys, sinks_.values, tail_keys_, tail_values_});
}

at::Tensor CudaLayerCache::attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  const Chunk chunk = divide(q, k, v);
  const int64_t completed = (tail_count_ + q.size(0) - chunk.sinks.end) / config_.block_size;
  const at::Tensor statistics =
      at::empty({completed, geometry_.kv_heads, statistics_}, q.options().dtype(at::kFloat));
  const at::Tensor values = ingest(chunk, statistics);
  at::Tensor out = at::empty({q.size(0), q.size(1), q.size(2)}, q.options());
  if (protocol_ == CacheProtocol::kStress) {
    const int64_t first = length_;
    append(chunk, values, statistics);
    std::shared_ptr<SealedBlock> provisional;  // lives until the kernels that read it are queued
    if (tail_count_ > 0) provisional = pack_provisional();
    attend_on_device(stress_params(q, first, out));
    return out;
  }
  attend_on_device(chunk_params(chunk, values, out));
  append(chunk, values, statistics);
  return out;
}

at::Tensor CudaLayerCache::ingest(const Chunk& chunk, const at::Tensor& statistics) {
  const bool rotates = quantizer_->rotates_values();
  at::Tensor values = chunk.v;
  if (rotates)
    values = at::empty({chunk.v.size(0), chunk.v.size(1), chunk.v.size(2)}, chunk.v.options());
  cuda::IngestParams p = ingest_params(chunk.q, chunk.k, chunk.v, config_.block_size, rotates);
  if (rotates) p.rotated = mutable_activation(values);
  p.sink_tokens = static_cast<int32_t>(chunk.sinks.end);
  p.tail_count = static_cast<int32_t>(tail_count_);
  p.error = state_.error_word();
  p.layer = static_cast<int32_t>(layer_);
  p.seen = blocks_.empty() ? 0 : 1;
  p.keep = static_cast<float>(config_.query_energy_decay);
  p.take = static_cast<float>(1 - config_.query_energy_decay);
  if (state_.error_feedback()) {
    p.error_feedback = 1;
    p.moments = state_.moments(layer_);
    p.block_moments = statistics.mutable_data_ptr<float>();
  } else {
    p.energy_sums = state_.energy_sums(layer_);
    p.energy_ema = state_.energy_ema(layer_);
    p.energies = statistics.mutable_data_ptr<float>();
    if (protocol_ == CacheProtocol::kStress) p.preview = state_.preview(layer_);
  }
  if (statistics.size(0) == 0) {
    p.tail_keys = tail_keys_.mutable_data_ptr();
    p.tail_values = tail_values_.mutable_data_ptr();
  }
  cuda::ingest(backend_.queue(), p, 1);
  return values;
}

void CudaLayerCache::append(const Chunk& chunk, const at::Tensor& values,
                            const at::Tensor& statistics) {
  const int64_t tokens = chunk.q.size(0), sinks = chunk.sinks.end;
  if (sinks > 0) {
    pack_sinks_on_device(backend_, config_, sink_pointers_, chunk.k.slice(0, 0, sinks),
                         values.slice(0, 0, sinks), length_);
  }
  if (statistics.size(0) > 0) {
    pack(tail_count_, chunk.k.slice(0, sinks), values.slice(0, sinks),
         {.numbers = statistics.mutable_data_ptr<float>()});
  } else {
    tail_count_ += tokens - sinks;  // they are there already
  }
  length_ += tokens;
  RILLKV_ASSERT(counts_agree());
}

std::shared_ptr<SealedBlock> CudaLayerCache::allocate(int64_t tokens) const {
  // Not zeroed: the kernel writes every byte, padding included.
  return allocate_block(
      tokens, std::vector<size_t>(geometry_.kv_heads, layout_.key_bytes()),
      std::vector<size_t>(geometry_.kv_heads, layout_.value_bytes()),
      [this](int64_t bytes) { return at::empty({bytes}, tail_keys_.options().dtype(at::kByte)); });
}

cuda::PackParams CudaLayerCache::pack_params() const {
  cuda::PackParams p;
  p.tail_keys = tail_keys_.mutable_data_ptr();
  p.tail_values = tail_values_.mutable_data_ptr();
  p.dtype = kernel_dtype(tail_keys_.scalar_type());
  p.kv_heads = static_cast<int32_t>(geometry_.kv_heads);
  p.head_dim = static_cast<int32_t>(geometry_.head_dim);
  p.block_size = static_cast<int32_t>(config_.block_size);
  p.key_bytes = static_cast<int32_t>(layout_.key_bytes());
  p.value_bytes = static_cast<int32_t>(layout_.value_bytes());
  p.key_table = state_.key_table(layer_);
  p.value_table = state_.value_table(layer_);
  p.first_block = static_cast<int32_t>(blocks_.size());
  p.class_count = static_cast<int32_t>(layout_.classes.size());
  std::copy(layout_.classes.begin(), layout_.classes.end(), p.classes);
  p.increments = layout_.increments;
  p.value_groups = layout_.value_groups;
  p.value_bits = layout_.value_bits;
  p.trellis = layout_.trellis ? 1 : 0;
  p.wide_pairs = layout_.wide_pairs;
  return p;
}

void CudaLayerCache::pack(int64_t tail_count, const at::Tensor& keys, const at::Tensor& values,
                          QueryStatistics statistics) {
  int64_t tokens = tail_count + keys.size(0), read = 0;  // rows of keys and values
  const int64_t all = tokens / config_.block_size;
  state_.ensure_blocks(block_count() + all);
  for (int64_t left = all; left > 0;) {
    const int64_t count = std::min<int64_t>(left, cuda::kMaxBlocksPerPack);
    left -= count;
    const int64_t taken = left > 0 ? count * config_.block_size : tokens;
    cuda::PackParams p = pack_params();
    p.keys = activation(keys.slice(0, read));
    p.values = activation(values.slice(0, read));
    p.tail_count = static_cast<int32_t>(tail_count);
    p.tokens = static_cast<int32_t>(taken);
    p.blocks = static_cast<int32_t>(count);
    p.clipped = state_.clipped(layer_, block_count());
    std::vector<std::shared_ptr<SealedBlock>> packed;
    for (int64_t i = 0; i < count; ++i) {
      packed.push_back(allocate(config_.block_size));
      p.storage[i] = packed.back()->storage.mutable_data_ptr<uint8_t>();
    }
    launch_pack(p, statistics);
    for (auto& block : packed) add_block(std::move(block));
    read += taken - tail_count;
    tokens -= taken;
    statistics.numbers += count * geometry_.kv_heads * statistics_;
    tail_count_ = taken - count * config_.block_size;
    tail_count = 0;
  }
}

std::shared_ptr<SealedBlock> CudaLayerCache::pack_provisional() {
  state_.ensure_blocks(block_count() + 1);
  std::shared_ptr<SealedBlock> block = allocate(tail_count_);
  cuda::PackParams p = pack_params();
  p.tail_count = p.tokens = static_cast<int32_t>(tail_count_);
  p.blocks = 1;
  p.keep_rest = 0;
  p.storage[0] = block->storage.mutable_data_ptr<uint8_t>();
  launch_pack(
      p, {.numbers = state_.error_feedback() ? state_.moments(layer_) : state_.preview(layer_)});
  return block;
}

void CudaLayerCache::launch_pack(cuda::PackParams& p, const QueryStatistics& statistics) {
  at::Tensor scratch;
  if (state_.error_feedback()) {
    p.error_feedback = 1;
    p.moments = statistics.numbers;
    p.decay = statistics.decay;
    p.distances = state_.distances();
    const auto floats = static_cast<int64_t>(cuda::pack_scratch_floats(p));
    if (floats > 0) {
      scratch = at::empty({floats}, tail_keys_.options().dtype(at::kFloat));
      p.scratch = scratch.mutable_data_ptr<float>();
    }
  } else {
    p.energies = statistics.numbers;
  }
  cuda::pack(backend_.queue(), p);
}

void CudaLayerCache::attend_on_device(const kernels::AttentionParams& params) {
  kernels::AttentionParams p = params;
  p.prefix.keys = state_.key_table(layer_);
  p.prefix.values = state_.value_table(layer_);
  run_attention(backend_, p, device_rotations_.in_block_half(),
                static_cast<int64_t>(layout_.key_bytes()), slices_);
}

cuda::AttentionParams CudaLayerCache::step_params(const at::Tensor& q, at::Tensor& out) const {
  cuda::AttentionParams p = {shared_params(q, out), device_rotations_.in_block_half(),
                             static_cast<int32_t>(layout_.key_bytes())};
  p.query_count = 1;
  p.prefix.sink_count = p.prefix.sink_capacity;
  p.prefix.block_count = static_cast<int32_t>(block_count());
  p.tail.keys = activation(tail_keys_);
  p.tail.values = activation(tail_values_);
  p.tail.count = static_cast<int32_t>(tail_count_ + 1);
  return p;
}

void CudaLayerCache::count_token() {
  ++tail_count_;
  ++length_;
  if (tail_count_ == config_.block_size) {
    const at::Tensor none = tail_keys_.slice(0, 0, 0);
    const QueryStatistics statistics =
        state_.error_feedback() ? QueryStatistics{state_.moments(layer_),
                                                  static_cast<float>(config_.query_energy_decay)}
                                : QueryStatistics{state_.energies(layer_)};
    pack(tail_count_, none, none, statistics);
  }
  RILLKV_ASSERT(counts_agree());
}

void CudaLayerCache::settle() const {
  const int64_t first = settled_, count = block_count();
  if (first == count) return;
  const std::vector<int64_t> clipped = state_.read_clipped(layer_, first, count);
  const int dim = layout_.head_dim;
  const auto offset = static_cast<int64_t>(
      layout_.trellis ? format::trellis_widths_offset(dim)
                      : format::channel_widths_offset(dim, /*symmetric=*/false));
  const int64_t half = geometry_.head_dim / 2;
  std::vector<at::Tensor> parts;
  for (int64_t n = first; n < count; ++n) {
    parts.push_back(blocks_[n]
                        ->storage.slice(0, 0, blocks_[n]->key_bytes)
                        .view({geometry_.kv_heads, -1})
                        .narrow(1, offset, half));
  }
  const at::Tensor widths = at::stack(parts).cpu();  // [blocks, kv_heads, head_dim / 2]
  for (int64_t n = first; n < count; ++n) {
    blocks_[n]->tally = adaptive_tally(widths[n - first].const_data_ptr<uint8_t>(),
                                       quantizer_->options(), layout_, clipped[n - first]);
  }
  settled_ = count;
}

void CudaLayerCache::reset() {
  clear();
  for (at::Tensor* side : {&sinks_.keys, &sinks_.values}) {
    if (side->defined()) side->zero_();
  }
  settled_ = 0;
}

std::vector<at::Tensor> CudaLayerCache::tensors() const {
  std::vector<at::Tensor> all = PackedLayer::tensors();
  if (sink_pointers_.defined()) all.push_back(sink_pointers_);
  return all;
}

}  // namespace rillkv
