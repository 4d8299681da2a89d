#include "core/packed_layer_cache.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/assert.h"
#include "core/kernel_views.h"
#include "core/statistics_access.h"

namespace rillkv {
namespace {

StreamingStatsOptions stats_options(const QuantizerOptions& q, int64_t groups) {
  const CompressionConfig& c = q.config;
  return {q.kv_heads,
          q.head_dim,
          groups,
          c.chunk_size,
          c.ema_decay,
          c.outlier_threshold_abs,
          c.outlier_threshold_relative};
}

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

PackedLayerCache::PackedLayerCache(const CacheGeometry& geometry, Quantizer quantizer,
                                   at::ScalarType dtype, CacheProtocol protocol,
                                   RotationTable& rotations, at::Device device,
                                   std::unique_ptr<BlockDevice> blocks)
    : geometry_(geometry),
      quantizer_(std::move(quantizer)),
      config_(quantizer_->options().config),
      protocol_(protocol),
      rotations_(rotations),
      device_(std::move(blocks)),
      ema_(config_.policy == Policy::kEma),
      energy_(QueryEnergyOptions{geometry.heads, geometry.kv_heads, geometry.head_dim,
                                 config_.query_energy_decay}),
      key_stats_(stats_options(quantizer_->options(), -1)),
      value_stats_(stats_options(quantizer_->options(), config_.value_quant_groups)) {
  const auto options = at::TensorOptions().dtype(dtype).device(device);
  tail_keys_ = at::empty({config_.block_size, geometry.kv_heads, geometry.head_dim}, options);
  tail_values_ = at::empty_like(tail_keys_);
}

at::Tensor PackedLayerCache::attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  const Chunk chunk = divide(q, k, v);
  const Measured measured = device_->measure(chunk, energy_->sums());
  if (protocol_ == CacheProtocol::kStress) {
    const int64_t first = length_;
    append(chunk, measured);
    return attend_stressed(q, first);
  }
  at::Tensor out = attend_chunk(chunk, measured.values);
  append(chunk, measured);
  return out;
}

LayerUsage PackedLayerCache::usage() const {
  device_->settle(blocks_);
  LayerUsage usage;
  usage.key_bytes = static_cast<int64_t>(tail_keys_.nbytes());
  usage.value_bytes = static_cast<int64_t>(tail_values_.nbytes());
  if (const PackedSinks& sinks = device_->sinks(); sinks.keys.defined()) {
    usage.key_bytes += static_cast<int64_t>(sinks.keys.nbytes());
    usage.value_bytes += static_cast<int64_t>(sinks.values.nbytes());
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

std::vector<std::shared_ptr<const SealedBlock>> PackedLayerCache::blocks() const {
  device_->settle(blocks_);
  return {blocks_.begin(), blocks_.end()};
}

void PackedLayerCache::reset() {
  length_ = tail_count_ = sealed_key_bytes_ = sealed_value_bytes_ = 0;
  blocks_.clear();
  energy_->reset();
  key_stats_->reset();
  value_stats_->reset();
  device_->reset();
}

Chunk PackedLayerCache::divide(const at::Tensor& q, const at::Tensor& k,
                               const at::Tensor& v) const {
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

kernels::AttentionParams PackedLayerCache::base_params(const at::Tensor& q, at::Tensor& out,
                                                       int64_t first) {
  kernels::AttentionParams p;
  p.heads = static_cast<int32_t>(geometry_.heads);
  p.kv_heads = static_cast<int32_t>(geometry_.kv_heads);
  p.head_dim = static_cast<int32_t>(geometry_.head_dim);
  p.block_size = static_cast<int32_t>(config_.block_size);
  p.dtype = kernel_dtype(q.scalar_type());
  p.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(geometry_.head_dim)));
  p.queries = activation(q);
  p.query_count = static_cast<int32_t>(q.size(0));
  p.first_query_index = first;
  p.out = mutable_activation(out);
  p.rotate_output = quantizer_->rotates_values();
  p.rotations = rotations_.in_block();

  kernels::PackedPrefix& prefix = p.prefix;
  prefix.sink_capacity = static_cast<int32_t>(config_.attention_sink_size);
  prefix.sink_count = static_cast<int32_t>(std::min(length_, config_.attention_sink_size));
  prefix.sink_key_bits = static_cast<int32_t>(config_.key_bits_sink_outlier);
  prefix.sink_value_bits = static_cast<int32_t>(config_.value_bits_sink_outlier);
  if (prefix.sink_count > 0) {
    const PackedSinks& sinks = device_->sinks();
    prefix.sink_keys = sinks.keys.const_data_ptr<uint8_t>();
    prefix.sink_values = sinks.values.const_data_ptr<uint8_t>();
    prefix.sink_key_stride = sinks.keys.stride(0);
    prefix.sink_value_stride = sinks.values.stride(0);
    prefix.sink_cos = rotations_.sink_cos();
    prefix.sink_sin = rotations_.sink_sin();
  }
  prefix.block_count = static_cast<int32_t>(blocks_.size());
  prefix.rotations = rotations_.blocks(prefix.block_count + 1);  // and the provisional block's
  prefix.keys_symmetric = ema_;
  prefix.values_channel_major = quantizer_->channel_major_values();
  prefix.value_bits = static_cast<int32_t>(config_.value_bits);
  prefix.value_groups = static_cast<int32_t>(quantizer_->value_groups());
  return p;
}

/// Prefill protocol: the chunk and the open tail are read in full precision.
at::Tensor PackedLayerCache::attend_chunk(const Chunk& chunk, const at::Tensor& values) {
  const at::Tensor& q = chunk.q;
  at::Tensor out = at::empty({q.size(0), q.size(1), q.size(2)}, q.options());
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
  device_->attend(p);
  return out;
}

/// Stress protocol: the chunk has been appended; what is unsealed is read as one provisional short
/// block.
at::Tensor PackedLayerCache::attend_stressed(const at::Tensor& q, int64_t first) {
  std::shared_ptr<SealedBlock> provisional;
  if (tail_count_ > 0) {
    provisional = seal(tail_keys_.slice(0, 0, tail_count_), tail_values_.slice(0, 0, tail_count_),
                       /*keep=*/false);
  }
  at::Tensor out = at::empty({q.size(0), q.size(1), q.size(2)}, q.options());
  kernels::AttentionParams p = base_params(q, out, first);
  if (provisional != nullptr) ++p.prefix.block_count;
  const auto rows = rotations_.rows(first, q.size(0));
  p.query_cos = rows.cos;
  p.query_sin = rows.sin;
  device_->attend(p);
  return out;
}

namespace {

/// Tokens [begin, end) of `from` to rows `row` and following of `to`. On the CPU without a
/// dispatch, which for the one token of a decode step costs more than the copy.
void copy_tokens(const at::Tensor& from, int64_t begin, int64_t end, at::Tensor& to, int64_t row) {
  if (!from.is_cpu() || from.scalar_type() != to.scalar_type() || from.stride(2) != 1 ||
      from.stride(1) != from.size(2)) {
    to.slice(0, row, row + end - begin).copy_(from.slice(0, begin, end));
    return;
  }
  const size_t bytes = static_cast<size_t>(from.size(1) * from.size(2)) * from.element_size();
  const size_t stride = static_cast<size_t>(from.stride(0)) * from.element_size();
  const auto* source = static_cast<const uint8_t*>(from.const_data_ptr());
  auto* target = static_cast<uint8_t*>(to.mutable_data_ptr());
  for (int64_t t = 0; t < end - begin; ++t) {
    std::memcpy(target + static_cast<size_t>(row + t) * bytes,
                source + static_cast<size_t>(begin + t) * stride, bytes);
  }
}

}  // namespace

void PackedLayerCache::append(const Chunk& chunk, const Measured& measured) {
  const at::Tensor &q = chunk.q, &k = chunk.k, &v = measured.values;
  const int64_t tokens = q.size(0), sinks = chunk.sinks.end;
  if (sinks > 0) device_->seal_sinks(k.slice(0, 0, sinks), v.slice(0, 0, sinks), length_);
  if (ema_ && !chunk.blocks.empty()) {
    StatisticsAccess::update_absmax(*key_stats_, measured.key_absmax, tokens - sinks);
    StatisticsAccess::update_absmax(*value_stats_, measured.value_absmax, tokens - sinks);
  }
  RILLKV_ASSERT(measured.energy_sums.empty() || measured.energy_sums.size() == chunk.blocks.size());
  for (size_t i = 0; i < chunk.blocks.size(); ++i) {
    const Span& span = chunk.blocks[i];
    const int64_t end = tail_count_ + span.count();
    // On the CPU a block that lies in the chunk as a whole is sealed from there.
    const bool whole = span.count() == config_.block_size && k.is_cpu();
    if (!whole) {
      copy_tokens(k, span.begin, span.end, tail_keys_, tail_count_);
      copy_tokens(v, span.begin, span.end, tail_values_, tail_count_);
    }
    if (!ema_ && !measured.energy_sums.empty()) {
      StatisticsAccess::replace_sums(*energy_, measured.energy_sums[i], span.count());
    } else if (!ema_) {
      energy_->accumulate(span.count() == tokens ? q : q.slice(0, span.begin, span.end));
    }
    RILLKV_ASSERT(end <= config_.block_size);
    tail_count_ = end;
    if (tail_count_ == config_.block_size) {
      blocks_.push_back(whole ? seal(k.slice(0, span.begin, span.end),
                                     v.slice(0, span.begin, span.end), /*keep=*/true)
                              : seal(tail_keys_, tail_values_, /*keep=*/true));
      sealed_key_bytes_ += blocks_.back()->key_bytes;
      sealed_value_bytes_ += blocks_.back()->value_bytes;
      tail_count_ = 0;
    }
  }
  length_ += tokens;
  // Every token is in exactly one place.
  RILLKV_ASSERT(length_ == std::min(length_, config_.attention_sink_size) +
                               static_cast<int64_t>(blocks_.size()) * config_.block_size +
                               tail_count_);
}

/// Quantises the open block's tokens; `keep` commits the statistics.
std::shared_ptr<SealedBlock> PackedLayerCache::seal(const at::Tensor& keys,
                                                    const at::Tensor& values, bool keep) {
  const int64_t tokens = keys.size(0);
  OpenBlock open;
  open.index = static_cast<int64_t>(blocks_.size());
  open.keys = keys;
  open.values = values;
  open.keep = keep;
  if (!ema_) {
    open.energy = keep ? energy_->seal() : energy_->preview();
  } else {
    const auto scales = [&](StreamingStats& stats) {
      return ChannelScales{stats->per_channel(stats->ema()),
                           stats->per_channel(stats->block_outliers(tokens))};
    };
    open.key_scales = scales(key_stats_);
    open.value_scales = scales(value_stats_);
  }
  const std::shared_ptr<SealedBlock> block = device_->seal(open);
  if (ema_ && keep) {
    key_stats_->consume(tokens);
    value_stats_->consume(tokens);
  }
  return block;
}

}  // namespace rillkv
