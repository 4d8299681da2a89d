#include "core/packed_layer.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "core/adaptive_layout.h"
#include "core/kernel_views.h"

namespace rillkv {
namespace {

void add(BlockTally& sum, const BlockTally& part) {
  for (size_t w = 0; w < sum.key_widths.size(); ++w) {
    sum.key_widths[w] += part.key_widths[w];
    sum.value_widths[w] += part.value_widths[w];
  }
  sum.key_outliers += part.key_outliers;
  sum.value_outliers += part.value_outliers;
  sum.key_clipped += part.key_clipped;
  sum.value_clipped += part.value_clipped;
}

}  // namespace

PackedLayer::PackedLayer(const CacheGeometry& geometry, Quantizer quantizer, at::ScalarType dtype,
                         CacheProtocol protocol, RotationTable& rotations, at::Device device)
    : geometry_(geometry),
      quantizer_(std::move(quantizer)),
      config_(quantizer_->options().config),
      protocol_(protocol),
      rotations_(rotations) {
  const auto options = at::TensorOptions().dtype(dtype).device(device);
  tail_keys_ = at::empty({config_.block_size, geometry.kv_heads, geometry.head_dim}, options);
  tail_values_ = at::empty_like(tail_keys_);
}

LayerUsage PackedLayer::usage() const {
  settle();
  LayerUsage usage;
  usage.key_bytes = static_cast<int64_t>(tail_keys_.nbytes());
  usage.value_bytes = static_cast<int64_t>(tail_values_.nbytes());
  usage.key_bytes += statistics_bytes();
  if (const PackedSinks& packed = sinks(); packed.keys.defined()) {
    usage.key_bytes += static_cast<int64_t>(packed.keys.nbytes());
    usage.value_bytes += static_cast<int64_t>(packed.values.nbytes());
  }
  usage.sink_tokens = std::min(length_, config_.attention_sink_size);
  usage.sealed_blocks = static_cast<int64_t>(blocks_.size());
  usage.sealed_tokens = usage.sealed_blocks * config_.block_size;
  for (const auto& block : blocks_) add(usage.tally, block->tally);
  usage.sealed_key_bytes = sealed_key_bytes_;
  usage.sealed_value_bytes = sealed_value_bytes_;
  usage.key_bytes += sealed_key_bytes_;
  usage.value_bytes += sealed_value_bytes_;
  return usage;
}

std::vector<std::shared_ptr<const SealedBlock>> PackedLayer::blocks() const {
  settle();
  return {blocks_.begin(), blocks_.end()};
}

Chunk PackedLayer::divide(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) const {
  const int64_t tokens = q.size(0);
  const int64_t missing_sinks = std::max<int64_t>(config_.attention_sink_size - length_, 0);
  Chunk chunk{q, k, v, {0, std::min(missing_sinks, tokens)}, {}};
  int64_t room = config_.block_size - tail_count_;
  for (int64_t begin = chunk.sinks.end; begin < tokens; begin = chunk.blocks.back().end) {
    chunk.blocks.push_back({begin, std::min(begin + room, tokens)});
    room = config_.block_size;
  }
  return chunk;
}

kernels::AttentionParams PackedLayer::shared_params(const at::Tensor& q, at::Tensor& out) const {
  kernels::AttentionParams p;
  p.heads = static_cast<int32_t>(geometry_.heads);
  p.kv_heads = static_cast<int32_t>(geometry_.kv_heads);
  p.head_dim = static_cast<int32_t>(geometry_.head_dim);
  p.block_size = static_cast<int32_t>(config_.block_size);
  p.dtype = kernel_dtype(q.scalar_type());
  p.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(geometry_.head_dim)));
  p.queries = activation(q);
  p.out = mutable_activation(out);
  p.rotate_output = quantizer_->rotates_values();
  p.rotations = rotations_.in_block();
  kernels::PackedPrefix& prefix = p.prefix;
  prefix.sink_capacity = static_cast<int32_t>(config_.attention_sink_size);
  prefix.sink_key_bits = static_cast<int32_t>(config_.key_bits_sink_outlier);
  prefix.sink_value_bits = static_cast<int32_t>(config_.value_bits_sink_outlier);
  prefix.sink_cos = rotations_.sink_cos();
  prefix.sink_sin = rotations_.sink_sin();
  if (const PackedSinks& packed = sinks(); packed.keys.defined()) {
    prefix.sink_key_stride = packed.keys.stride(0);
    prefix.sink_value_stride = packed.values.stride(0);
  }
  prefix.keys_symmetric = config_.policy == Policy::kEma;
  prefix.values_channel_major = quantizer_->channel_major_values();
  const AdaptiveLayout& layout = quantizer_->layout();
  prefix.value_bits = static_cast<int32_t>(config_.value_bits);
  prefix.value_groups = layout.value_groups;
  prefix.trellis = layout.trellis;
  prefix.value_width = layout.value_bits;
  prefix.value_wide_pairs = layout.wide_pairs;
  return p;
}

kernels::AttentionParams PackedLayer::base_params(const at::Tensor& q, at::Tensor& out,
                                                  int64_t first) {
  kernels::AttentionParams p = shared_params(q, out);
  p.query_count = static_cast<int32_t>(q.size(0));
  p.first_query_index = first;
  kernels::PackedPrefix& prefix = p.prefix;
  prefix.sink_count = static_cast<int32_t>(std::min(length_, config_.attention_sink_size));
  if (prefix.sink_count > 0) {
    const PackedSinks& packed = sinks();
    prefix.sink_keys = packed.keys.const_data_ptr<uint8_t>();
    prefix.sink_values = packed.values.const_data_ptr<uint8_t>();
  }
  prefix.block_count = static_cast<int32_t>(blocks_.size());
  prefix.rotations = rotations_.blocks(prefix.block_count + 1);  // and the provisional block's
  return p;
}

kernels::AttentionParams PackedLayer::chunk_params(const Chunk& chunk, const at::Tensor& values,
                                                   at::Tensor& out) {
  const at::Tensor& q = chunk.q;
  kernels::AttentionParams p = base_params(q, out, length_);
  // The tail starts where the blocks end, except while the sinks are still being filled.
  const int64_t tail_first = length_ - tail_count_;
  const auto rows = rotations_.rows(tail_first, tail_count_ + q.size(0));
  const int64_t chunk_row = tail_count_ * (geometry_.head_dim / 2);
  p.query_cos = rows.cos + chunk_row;
  p.query_sin = rows.sin + chunk_row;
  p.tail = {activation(tail_keys_),
            activation(tail_values_),
            static_cast<int32_t>(tail_count_),
            tail_first,
            rows.cos,
            rows.sin};
  p.chunk = {activation(chunk.k), activation(values), static_cast<int32_t>(q.size(0)), length_,
             p.query_cos,         p.query_sin};
  return p;
}

kernels::AttentionParams PackedLayer::stress_params(const at::Tensor& q, int64_t first,
                                                    at::Tensor& out) {
  kernels::AttentionParams p = base_params(q, out, first);
  if (tail_count_ > 0) ++p.prefix.block_count;
  const auto rows = rotations_.rows(first, q.size(0));
  p.query_cos = rows.cos;
  p.query_sin = rows.sin;
  return p;
}

std::vector<at::Tensor> PackedLayer::tensors() const {
  std::vector<at::Tensor> all = {tail_keys_, tail_values_};
  for (const auto& block : blocks_) all.push_back(block->storage);
  if (const PackedSinks& packed = sinks(); packed.keys.defined()) {
    all.insert(all.end(), {packed.keys, packed.values});
  }
  return all;
}

void PackedLayer::add_block(std::shared_ptr<SealedBlock> block) {
  sealed_key_bytes_ += block->key_bytes;
  sealed_value_bytes_ += block->value_bytes;
  blocks_.push_back(std::move(block));
}

bool PackedLayer::counts_agree() const {
  return length_ == std::min(length_, config_.attention_sink_size) +
                        static_cast<int64_t>(blocks_.size()) * config_.block_size + tail_count_;
}

void PackedLayer::clear() {
  length_ = tail_count_ = sealed_key_bytes_ = sealed_value_bytes_ = 0;
  blocks_.clear();
}

}  // namespace rillkv
