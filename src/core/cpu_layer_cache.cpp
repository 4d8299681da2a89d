// A compressed layer on the CPU.
#include <ATen/ATen.h>

#include "core/attention_runner.h"
#include "core/huge_page_arena.h"
#include "core/kernel_views.h"
#include "core/packed_layer_cache.h"
#include "kernels/cpu/kernels.h"

namespace rillkv {
namespace {

class CpuLayerCache final : public PackedLayerCache {
 public:
  CpuLayerCache(const CacheGeometry& geometry, Quantizer quantizer, at::ScalarType dtype,
                CacheProtocol protocol, RotationTable& rotations, HugePageArena& memory)
      : PackedLayerCache(geometry, std::move(quantizer), dtype, protocol, rotations, at::kCPU),
        memory_(memory) {}

 private:
  at::Tensor prepare(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) override {
    quantizer_->check_representable(k, "keys");
    const at::Tensor values = quantizer_->rotates_values() ? quantizer_->rotate_values(v) : v;
    quantizer_->check_representable(values, "values");
    if (!ema_) quantizer_->check_representable(q, "queries");
    return values;
  }

  void update_statistics(const at::Tensor& k, const at::Tensor& v) override {
    key_stats_->update(k.transpose(0, 1));
    value_stats_->update(v.transpose(0, 1));
  }

  void add_energy(const at::Tensor& q) override { energy_->accumulate(q); }

  void pack_sinks(const at::Tensor& x, int64_t bits, at::Tensor& sinks) override {
    for (int64_t head = 0; head < geometry_.kv_heads; ++head) {
      kernels::cpu::kernels().pack_tokens_symmetric(
          pack_params(x, head, config_.attention_sink_size), static_cast<int32_t>(length_),
          static_cast<int32_t>(bits), sinks[head].mutable_data_ptr<uint8_t>());
    }
  }

  std::shared_ptr<SealedBlock> seal_adaptive(int64_t index, const at::Tensor& keys,
                                             const at::Tensor& values, const at::Tensor& energy,
                                             bool keep) override {
    return enter(index, quantizer_->seal_adaptive(keys, values, energy, allocator(keep)));
  }

  std::shared_ptr<SealedBlock> seal_ema(int64_t index, const at::Tensor& keys,
                                        const at::Tensor& values, const EmaSide& key_side,
                                        const EmaSide& value_side, bool keep) override {
    return enter(index,
                 quantizer_->seal_ema(keys, values, key_side.absmax, key_side.outliers,
                                      value_side.absmax, value_side.outliers, allocator(keep)));
  }

  /// A provisional block is gone soon and would leave a hole in the arena.
  BlockAllocator allocator(bool keep) {
    if (!keep) return allocate_zeros;
    return [this](int64_t bytes) { return memory_.take({bytes}, at::kByte); };
  }

  std::shared_ptr<SealedBlock> enter(int64_t index, std::shared_ptr<SealedBlock> block) {
    const auto into = [&](std::vector<const uint8_t*>& table, const auto& pointers) {
      table.resize(index * geometry_.kv_heads);
      table.insert(table.end(), pointers.begin(), pointers.end());
    };
    into(key_pointers_, block->keys);
    into(value_pointers_, block->values);
    return block;
  }

  const uint8_t* const* key_table() const override { return key_pointers_.data(); }
  const uint8_t* const* value_table() const override { return value_pointers_.data(); }
  void run(const kernels::AttentionParams& params) override { run_attention(params); }

  HugePageArena& memory_;
  std::vector<const uint8_t*> key_pointers_, value_pointers_;  // [blocks, kv_heads]
};

}  // namespace

std::unique_ptr<LayerCache> make_cpu_layer(const CacheGeometry& geometry, Quantizer quantizer,
                                           at::ScalarType dtype, CacheProtocol protocol,
                                           RotationTable& rotations, HugePageArena& memory) {
  return std::make_unique<CpuLayerCache>(geometry, std::move(quantizer), dtype, protocol, rotations,
                                         memory);
}

}  // namespace rillkv
