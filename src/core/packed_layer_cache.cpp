#include "core/packed_layer_cache.h"

#include <ATen/ATen.h>

#include <cstring>

#include "core/assert.h"
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

}  // namespace

PackedLayerCache::PackedLayerCache(const CacheGeometry& geometry, Quantizer quantizer,
                                   at::ScalarType dtype, CacheProtocol protocol,
                                   RotationTable& rotations, at::Device device,
                                   std::unique_ptr<BlockDevice> blocks)
    : PackedLayer(geometry, std::move(quantizer), dtype, protocol, rotations, device),
      device_(std::move(blocks)),
      ema_(config_.policy == Policy::kEma),
      feedback_(!ema_ && config_.error_feedback),
      key_stats_(stats_options(quantizer_->options(), -1)),
      value_stats_(stats_options(quantizer_->options(), config_.value_quant_groups)) {
  if (feedback_) {
    moment_ = QueryMoment(QueryMomentOptions{geometry.heads, geometry.kv_heads, geometry.head_dim,
                                             config_.query_energy_decay});
  } else {
    energy_ = QueryEnergy(QueryEnergyOptions{geometry.heads, geometry.kv_heads, geometry.head_dim,
                                             config_.query_energy_decay});
  }
}

at::Tensor PackedLayerCache::attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  const Chunk chunk = divide(q, k, v);
  const Measured measured = device_->measure(chunk, query_sums());
  at::Tensor out = at::empty({q.size(0), q.size(1), q.size(2)}, q.options());
  if (protocol_ == CacheProtocol::kStress) {
    const int64_t first = length_;
    append(chunk, measured);
    std::shared_ptr<SealedBlock> provisional;
    if (tail_count_ > 0) {
      provisional = seal(tail_keys_.slice(0, 0, tail_count_), tail_values_.slice(0, 0, tail_count_),
                         /*keep=*/false);
    }
    device_->attend(stress_params(q, first, out));
    return out;
  }
  device_->attend(chunk_params(chunk, measured.values, out));
  append(chunk, measured);
  return out;
}

void PackedLayerCache::reset() {
  clear();
  if (feedback_) {
    moment_->reset();
  } else {
    energy_->reset();
  }
  key_stats_->reset();
  value_stats_->reset();
  device_->reset();
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

/// Those of the tokens that block number `block` of the chunk takes.
void PackedLayerCache::add_queries(const Chunk& chunk, const Measured& measured, size_t block) {
  const Span& span = chunk.blocks[block];
  if (!measured.query_sums.empty()) {
    const at::Tensor& sums = measured.query_sums[block];
    if (feedback_) {
      StatisticsAccess::replace_moments(*moment_, sums, span.count());
    } else {
      StatisticsAccess::replace_sums(*energy_, sums, span.count());
    }
    return;
  }
  const at::Tensor queries =
      span.count() == chunk.q.size(0) ? chunk.q : chunk.q.slice(0, span.begin, span.end);
  if (feedback_) {
    moment_->accumulate(queries);
  } else {
    energy_->accumulate(queries);
  }
}

void PackedLayerCache::append(const Chunk& chunk, const Measured& measured) {
  const at::Tensor &k = chunk.k, &v = measured.values;
  const int64_t tokens = k.size(0), sinks = chunk.sinks.end;
  if (sinks > 0) device_->seal_sinks(k.slice(0, 0, sinks), v.slice(0, 0, sinks), length_);
  if (ema_ && !chunk.blocks.empty()) {
    StatisticsAccess::update_absmax(*key_stats_, measured.key_absmax, tokens - sinks);
    StatisticsAccess::update_absmax(*value_stats_, measured.value_absmax, tokens - sinks);
  }
  RILLKV_ASSERT(measured.query_sums.empty() || measured.query_sums.size() == chunk.blocks.size());
  for (size_t i = 0; i < chunk.blocks.size(); ++i) {
    const Span& span = chunk.blocks[i];
    const int64_t end = tail_count_ + span.count();
    // On the CPU a block that lies in the chunk as a whole is sealed from there.
    const bool whole = span.count() == config_.block_size && k.is_cpu();
    if (!whole) {
      copy_tokens(k, span.begin, span.end, tail_keys_, tail_count_);
      copy_tokens(v, span.begin, span.end, tail_values_, tail_count_);
    }
    if (!ema_) add_queries(chunk, measured, i);
    RILLKV_ASSERT(end <= config_.block_size);
    tail_count_ = end;
    if (tail_count_ == config_.block_size) {
      add_block(whole ? seal(k.slice(0, span.begin, span.end), v.slice(0, span.begin, span.end),
                             /*keep=*/true)
                      : seal(tail_keys_, tail_values_, /*keep=*/true));
      tail_count_ = 0;
    }
  }
  length_ += tokens;
  RILLKV_ASSERT(counts_agree());
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
  if (feedback_) {
    open.query_statistics = moment_->moments();
  } else if (!ema_) {
    open.query_statistics = keep ? energy_->seal() : energy_->preview();
  } else {
    const auto scales = [&](StreamingStats& stats) {
      return ChannelScales{stats->per_channel(stats->ema()),
                           stats->per_channel(stats->block_outliers(tokens))};
    };
    open.key_scales = scales(key_stats_);
    open.value_scales = scales(value_stats_);
  }
  const std::shared_ptr<SealedBlock> block = device_->seal(open);
  if (feedback_ && keep) moment_->seal();
  if (ema_ && keep) {
    key_stats_->consume(tokens);
    value_stats_->consume(tokens);
  }
  return block;
}

}  // namespace rillkv
