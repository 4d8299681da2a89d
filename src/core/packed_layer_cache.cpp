// One layer of the compressed cache: sinks, sealed blocks, the open tail, and their statistics.
#include <ATen/ATen.h>

#include <cmath>

#include "core/attention_runner.h"
#include "core/kernel_views.h"
#include "core/layer_cache.h"
#include "core/rotation_table.h"
#include "kernels/cpu/kernels.h"
#include "kernels/packed_format.h"
#include "rillkv/error.h"
#include "rillkv/query_energy.h"
#include "rillkv/streaming_stats.h"

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

class PackedLayerCache final : public LayerCache {
 public:
  PackedLayerCache(const CacheGeometry& geometry, Quantizer quantizer, at::ScalarType dtype,
                   CacheProtocol protocol, RotationTable& rotations)
      : geometry_(geometry),
        quantizer_(std::move(quantizer)),
        config_(quantizer_->options().config),
        protocol_(protocol),
        rotations_(rotations),
        ema_(config_.policy == Policy::kEma),
        energy_(QueryEnergyOptions{geometry.heads, geometry.kv_heads, geometry.head_dim,
                                   config_.query_energy_decay}),
        key_stats_(stats_options(quantizer_->options(), -1)),
        value_stats_(stats_options(quantizer_->options(), config_.value_quant_groups)) {
    const int64_t block = config_.block_size, heads = geometry.kv_heads, dim = geometry.head_dim;
    const auto options = at::TensorOptions().dtype(dtype);
    tail_keys_ = at::empty({block, heads, dim}, options);
    tail_values_ = at::empty({block, heads, dim}, options);
    const int sinks = static_cast<int>(config_.attention_sink_size);
    if (sinks > 0) {
      const auto bytes = [&](int64_t bits) {
        return static_cast<int64_t>(format::token_block_bytes(sinks, static_cast<int>(dim), 1, true,
                                                              static_cast<int>(bits)));
      };
      sink_keys_ = at::zeros({heads, bytes(config_.key_bits_sink_outlier)}, at::kByte);
      sink_values_ = at::zeros({heads, bytes(config_.value_bits_sink_outlier)}, at::kByte);
    }
  }

  at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) override {
    quantizer_->check_representable(k, "keys");
    const at::Tensor values = quantizer_->rotates_values() ? quantizer_->rotate_values(v) : v;
    quantizer_->check_representable(values, "values");
    if (!ema_) quantizer_->check_representable(q, "queries");
    if (protocol_ == CacheProtocol::kStress) {
      const int64_t first = length_;
      append(q, k, values);
      return attend_stressed(q, first);
    }
    at::Tensor out = attend_chunk(q, k, values);
    append(q, k, values);
    return out;
  }

  int64_t length() const override { return length_; }

  LayerUsage usage() const override {
    LayerUsage usage;
    usage.key_bytes = static_cast<int64_t>(tail_keys_.nbytes());
    usage.value_bytes = static_cast<int64_t>(tail_values_.nbytes());
    if (sink_keys_.defined()) {
      usage.key_bytes += static_cast<int64_t>(sink_keys_.nbytes());
      usage.value_bytes += static_cast<int64_t>(sink_values_.nbytes());
    }
    usage.sink_tokens = std::min(length_, config_.attention_sink_size);
    usage.sealed_blocks = static_cast<int64_t>(blocks_.size());
    usage.sealed_tokens = usage.sealed_blocks * config_.block_size;
    usage.tally = tally_;
    usage.sealed_key_bytes = sealed_key_bytes_;
    usage.sealed_value_bytes = sealed_value_bytes_;
    usage.key_bytes += sealed_key_bytes_;
    usage.value_bytes += sealed_value_bytes_;
    return usage;
  }

  std::vector<std::shared_ptr<const SealedBlock>> blocks() const override { return blocks_; }

  void reset() override {
    length_ = tail_count_ = sealed_key_bytes_ = sealed_value_bytes_ = key_block_bytes_ = 0;
    blocks_.clear();
    key_pointers_.clear();
    value_pointers_.clear();
    tally_ = {};
    energy_->reset();
    key_stats_->reset();
    value_stats_->reset();
    if (sink_keys_.defined()) {
      sink_keys_.zero_();
      sink_values_.zero_();
    }
  }

 private:
  kernels::AttentionParams base_params(const at::Tensor& q, at::Tensor& out, int64_t first) {
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
      prefix.sink_keys = sink_keys_.const_data_ptr<uint8_t>();
      prefix.sink_values = sink_values_.const_data_ptr<uint8_t>();
      prefix.sink_key_stride = sink_keys_.stride(0);
      prefix.sink_value_stride = sink_values_.stride(0);
      prefix.sink_cos = rotations_.sink_cos();
      prefix.sink_sin = rotations_.sink_sin();
    }
    prefix.block_count = static_cast<int32_t>(blocks_.size());
    prefix.keys = key_pointers_.data();
    prefix.values = value_pointers_.data();
    prefix.rotations = rotations_.blocks(prefix.block_count + 1);  // and the provisional block's
    prefix.keys_symmetric = ema_;
    prefix.values_channel_major = quantizer_->channel_major_values();
    prefix.value_bits = static_cast<int32_t>(config_.value_bits);
    prefix.value_groups = static_cast<int32_t>(quantizer_->value_groups());
    prefix.key_block_bytes = static_cast<int32_t>(key_block_bytes_);
    return p;
  }

  /// Prefill protocol: the chunk and the open tail are read in full precision.
  at::Tensor attend_chunk(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
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
    p.chunk = {activation(k), activation(v), static_cast<int32_t>(q.size(0)),
               length_,       p.query_cos,   p.query_sin};
    run_attention(p);
    return out;
  }

  /// Stress protocol: the chunk has been appended; what is unsealed is read as one provisional
  /// short block.
  at::Tensor attend_stressed(const at::Tensor& q, int64_t first) {
    std::shared_ptr<const SealedBlock> provisional;
    if (tail_count_ > 0) provisional = seal(tail_count_, /*keep=*/false);
    if (provisional != nullptr) push_pointers(*provisional);
    at::Tensor out = at::empty({q.size(0), q.size(1), q.size(2)}, q.options());
    kernels::AttentionParams p = base_params(q, out, first);
    if (provisional != nullptr) ++p.prefix.block_count;
    const auto rows = rotations_.rows(first, q.size(0));
    p.query_cos = rows.cos;
    p.query_sin = rows.sin;
    run_attention(p);
    if (provisional != nullptr) {
      key_pointers_.resize(key_pointers_.size() - geometry_.kv_heads);
      value_pointers_.resize(value_pointers_.size() - geometry_.kv_heads);
    }
    return out;
  }

  void append(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
    const int64_t tokens = q.size(0);
    int64_t done = std::min(std::max<int64_t>(config_.attention_sink_size - length_, 0), tokens);
    if (done > 0) append_sinks(k.slice(0, 0, done), v.slice(0, 0, done));
    if (ema_ && done < tokens) {
      key_stats_->update(k.slice(0, done).transpose(0, 1));
      value_stats_->update(v.slice(0, done).transpose(0, 1));
    }
    while (done < tokens) {
      const int64_t take = std::min(config_.block_size - tail_count_, tokens - done);
      tail_keys_.slice(0, tail_count_, tail_count_ + take).copy_(k.slice(0, done, done + take));
      tail_values_.slice(0, tail_count_, tail_count_ + take).copy_(v.slice(0, done, done + take));
      if (!ema_) energy_->accumulate(q.slice(0, done, done + take));
      tail_count_ += take;
      done += take;
      if (tail_count_ == config_.block_size) {
        auto block = seal(tail_count_, /*keep=*/true);
        push_pointers(*block);
        count(*block);
        blocks_.push_back(std::move(block));
        tail_count_ = 0;
      }
    }
    length_ += tokens;
  }

  /// Quantises the first `tokens` of the tail; `keep` commits the statistics.
  std::shared_ptr<const SealedBlock> seal(int64_t tokens, bool keep) {
    const at::Tensor keys = tail_keys_.slice(0, 0, tokens);
    const at::Tensor values = tail_values_.slice(0, 0, tokens);
    if (!ema_) {
      return quantizer_->seal_adaptive(keys, values, keep ? energy_->seal() : energy_->preview());
    }
    const auto flags = [&](StreamingStats& stats) {
      return stats->per_channel(stats->block_outliers(tokens));
    };
    auto block = quantizer_->seal_ema(
        keys, values, key_stats_->per_channel(key_stats_->ema()), flags(key_stats_),
        value_stats_->per_channel(value_stats_->ema()), flags(value_stats_));
    if (keep) {
      key_stats_->consume(tokens);
      value_stats_->consume(tokens);
    }
    return block;
  }

  void append_sinks(const at::Tensor& k, const at::Tensor& v) {
    const auto& kernel = kernels::cpu::kernels();
    const auto pack = [&](const at::Tensor& x, at::Tensor& sinks, int64_t bits) {
      for (int64_t head = 0; head < geometry_.kv_heads; ++head) {
        kernel.pack_tokens_symmetric(pack_params(x, head, config_.attention_sink_size),
                                     static_cast<int32_t>(length_), static_cast<int32_t>(bits),
                                     sinks[head].mutable_data_ptr<uint8_t>());
      }
    };
    pack(k, sink_keys_, config_.key_bits_sink_outlier);
    pack(v, sink_values_, config_.value_bits_sink_outlier);
  }

  void push_pointers(const SealedBlock& block) {
    key_pointers_.insert(key_pointers_.end(), block.keys.begin(), block.keys.end());
    value_pointers_.insert(value_pointers_.end(), block.values.begin(), block.values.end());
    for (size_t h = 0; h < block.keys.size(); ++h) {  // a block's keys lie before its values
      const uint8_t* end = h + 1 < block.keys.size() ? block.keys[h + 1] : block.values[0];
      key_block_bytes_ = std::max<int64_t>(key_block_bytes_, end - block.keys[h]);
    }
  }

  void count(const SealedBlock& block) {
    for (size_t w = 0; w < tally_.key_widths.size(); ++w) {
      tally_.key_widths[w] += block.tally.key_widths[w];
      tally_.value_widths[w] += block.tally.value_widths[w];
    }
    tally_.key_outliers += block.tally.key_outliers;
    tally_.value_outliers += block.tally.value_outliers;
    tally_.key_clipped += block.tally.key_clipped;
    tally_.value_clipped += block.tally.value_clipped;
    sealed_key_bytes_ += block.key_bytes;
    sealed_value_bytes_ += block.value_bytes;
  }

  const CacheGeometry geometry_;
  Quantizer quantizer_;
  const CompressionConfig& config_;
  CacheProtocol protocol_;
  RotationTable& rotations_;
  bool ema_;
  QueryEnergy energy_;
  StreamingStats key_stats_, value_stats_;

  int64_t length_ = 0;
  at::Tensor sink_keys_, sink_values_;  // [kv_heads, bytes] u8
  std::vector<std::shared_ptr<const SealedBlock>> blocks_;
  std::vector<const uint8_t*> key_pointers_, value_pointers_;  // [blocks, kv_heads]
  at::Tensor tail_keys_, tail_values_;  // [block_size, kv_heads, head_dim], the model's dtype
  int64_t tail_count_ = 0;
  BlockTally tally_;
  int64_t sealed_key_bytes_ = 0, sealed_value_bytes_ = 0;
  int64_t key_block_bytes_ = 0;  // of the largest, one kv head
};

}  // namespace

std::unique_ptr<LayerCache> make_packed_layer(const CacheGeometry& geometry, Quantizer quantizer,
                                              at::ScalarType dtype, CacheProtocol protocol,
                                              RotationTable& rotations) {
  return std::make_unique<PackedLayerCache>(geometry, std::move(quantizer), dtype, protocol,
                                            rotations);
}

}  // namespace rillkv
