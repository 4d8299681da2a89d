// A compressed layer's bytes on the CPU.
#include <ATen/ATen.h>

#include "core/assert.h"
#include "core/attention_runner.h"
#include "core/block_device.h"
#include "core/cpu_kernels.h"
#include "core/cpu_measuring.h"
#include "core/cpu_rotation_table.h"
#include "core/cpu_sealing.h"
#include "core/huge_page_arena.h"
#include "core/kernel_views.h"

namespace rillkv {
namespace {

class CpuBlockDevice final : public BlockDevice {
 public:
  CpuBlockDevice(Quantizer quantizer, const CpuRotationTable& rotations, HugePageArena& memory)
      : quantizer_(std::move(quantizer)),
        config_(quantizer_->options().config),
        kv_heads_(quantizer_->options().kv_heads),
        rotations_(rotations),
        memory_(memory),
        sinks_(allocate_sinks(quantizer_->options(), at::kCPU)) {}

  Measured measure(const Chunk& chunk, const at::Tensor& query_sums) override {
    if (config_.policy != Policy::kEma && chunk.k.size(0) > 1) {
      return measure_adaptive_on_cpu(quantizer_, chunk, query_sums);
    }
    Measured measured;
    quantizer_->check_representable(chunk.k, "keys");
    measured.values = quantizer_->rotates_values() ? quantizer_->rotate_values(chunk.v) : chunk.v;
    quantizer_->check_representable(measured.values, "values");
    if (config_.policy != Policy::kEma) {
      quantizer_->check_representable(chunk.q, "queries");
    } else if (!chunk.blocks.empty()) {
      const auto absmax = [&](const at::Tensor& x) {
        return x.slice(0, chunk.sinks.end).abs().amax(0).to(at::kFloat);
      };
      measured.key_absmax = absmax(chunk.k);
      measured.value_absmax = absmax(measured.values);
    }
    return measured;
  }

  void seal_sinks(const at::Tensor& keys, const at::Tensor& values, int64_t first) override {
    const auto pack = [&](const at::Tensor& x, int64_t bits, at::Tensor& sinks) {
      for (int64_t head = 0; head < kv_heads_; ++head) {
        cpu_kernels().pack_sinks(pack_params(x, head, config_.attention_sink_size),
                                 static_cast<int32_t>(first), static_cast<int32_t>(bits),
                                 sinks[head].mutable_data_ptr<uint8_t>());
      }
    };
    pack(keys, config_.key_bits_sink_outlier, sinks_.keys);
    pack(values, config_.value_bits_sink_outlier, sinks_.values);
  }

  std::shared_ptr<SealedBlock> seal(const OpenBlock& open) override {
    // A provisional block is gone soon and would leave a hole in the arena.
    BlockAllocator allocate = allocate_zeros;
    if (open.keep) {
      allocate = [this](int64_t bytes) { return memory_.take({bytes}, at::kByte); };
    }
    const QuantizerOptions& options = quantizer_->options();
    auto block = config_.policy == Policy::kEma
                     ? seal_ema_on_cpu(options, open.keys, open.values, open.key_scales,
                                       open.value_scales, allocate)
                     : seal_adaptive_on_cpu(options, quantizer_->layout(), open.keys, open.values,
                                            open.query_statistics, allocate);
    RILLKV_ASSERT(open.index * kv_heads_ <= static_cast<int64_t>(key_table_.size()));
    const auto enter = [&](std::vector<const uint8_t*>& table, const auto& pointers) {
      table.resize(open.index * kv_heads_);
      table.insert(table.end(), pointers.begin(), pointers.end());
    };
    enter(key_table_, block->keys);
    enter(value_table_, block->values);
    return block;
  }

  void attend(const kernels::AttentionParams& params) override {
    kernels::cpu::AttentionParams mine = {params, rotations_.in_block_fixed()};
    mine.prefix.keys = key_table_.data();
    mine.prefix.values = value_table_.data();
    run_attention(mine);
  }

  void settle(const std::vector<std::shared_ptr<SealedBlock>>&) override {}  // they are complete

  const PackedSinks& sinks() const override { return sinks_; }

  void reset() override {
    key_table_.clear();
    value_table_.clear();
    for (at::Tensor* side : {&sinks_.keys, &sinks_.values}) {
      if (side->defined()) side->zero_();
    }
  }

 private:
  Quantizer quantizer_;
  const CompressionConfig& config_;  // the quantiser's
  const int64_t kv_heads_;
  const CpuRotationTable& rotations_;
  HugePageArena& memory_;
  PackedSinks sinks_;
  std::vector<const uint8_t*> key_table_, value_table_;  // [blocks, kv_heads]
};

}  // namespace

std::unique_ptr<BlockDevice> make_cpu_block_device(Quantizer quantizer,
                                                   const CpuRotationTable& rotations,
                                                   HugePageArena& memory) {
  return std::make_unique<CpuBlockDevice>(std::move(quantizer), rotations, memory);
}

}  // namespace rillkv
