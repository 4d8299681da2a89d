// The bytes of a layer of policy "ema" on a CUDA device: the same as the CPU's, by the kernels of
// kernels/cuda.
//
// What scales and widens a block's channels stays on the CPU in its arithmetic (StreamingStats):
// widths decide how large a block is, which its allocation must know. The device reduces a chunk to
// the largest magnitude a channel, and one copy brings those here, with the check that everything
// can be quantised. Policies "adaptive" and "trellis" do without: cuda_layer_cache.h.
#include <ATen/ATen.h>

#include <algorithm>
#include <cstring>

#include "core/assert.h"
#include "core/block_device.h"
#include "core/block_layout.h"
#include "core/cuda_backend.h"
#include "core/cuda_cache_state.h"
#include "core/cuda_runner.h"
#include "core/device_rotation_table.h"
#include "core/device_table.h"
#include "core/kernel_views.h"
#include "kernels/cuda/ingest.h"
#include "kernels/cuda/launch.h"
#include "rillkv/error.h"

namespace rillkv {
namespace {

namespace cuda = kernels::cuda;

class CudaBlockDevice final : public BlockDevice {
 public:
  CudaBlockDevice(Quantizer quantizer, const DeviceRotationTable& rotations, CudaBackend& backend)
      : quantizer_(std::move(quantizer)),
        config_(quantizer_->options().config),
        kv_heads_(quantizer_->options().kv_heads),
        head_dim_(quantizer_->options().head_dim),
        rotations_(rotations),
        backend_(backend),
        sinks_(allocate_sinks(quantizer_->options(), backend.device())),
        key_table_(kv_heads_, backend),
        value_table_(kv_heads_, backend),
        clipped_(2, backend) {
    check_head_dim_for_cuda(head_dim_);
    RILLKV_ASSERT(config_.policy == Policy::kEma);
    if (sinks_.keys.defined()) sink_pointers_ = upload_sink_pointers(backend, sinks_);
  }

  Measured measure(const Chunk& chunk, const at::Tensor&) override {
    const int64_t tokens = chunk.k.size(0), sinks = chunk.sinks.end;
    Measured measured;
    measured.values = chunk.v;
    const bool rotates = quantizer_->rotates_values();
    if (rotates) {
      measured.values = at::empty({tokens, kv_heads_, head_dim_}, chunk.v.options());
    }
    // Keys, values, error: one copy.
    const int64_t size = kv_heads_ * head_dim_;
    const at::Tensor found = at::zeros({2 * size + 2}, options(at::kFloat));
    float* data = found.mutable_data_ptr<float>();
    cuda::IngestParams p = ingest_params(chunk.q, chunk.k, chunk.v, config_.block_size, rotates);
    if (rotates) p.rotated = mutable_activation(measured.values);
    p.sink_tokens = static_cast<int32_t>(sinks);
    p.key_absmax = data;
    p.value_absmax = data + size;
    p.error = reinterpret_cast<unsigned long long*>(data + 2 * size);
    cuda::ingest(backend_.queue(), p, 1);
    const at::Tensor host = at::empty({2 * size + 2}, at::kFloat);
    backend_.download({{found, host.mutable_data_ptr()}});
    uint64_t error = 0;
    std::memcpy(&error, host.const_data_ptr<float>() + 2 * size, sizeof(error));
    if (error != 0) throw Error(CudaCacheState::describe_error(error));
    if (!chunk.blocks.empty()) {
      measured.key_absmax = host.slice(0, 0, size).view({kv_heads_, head_dim_});
      measured.value_absmax = host.slice(0, size, 2 * size).view({kv_heads_, head_dim_});
    }
    return measured;
  }

  void seal_sinks(const at::Tensor& keys, const at::Tensor& values, int64_t first) override {
    pack_sinks_on_device(backend_, config_, sink_pointers_, keys, values, first);
  }

  std::shared_ptr<SealedBlock> seal(const OpenBlock& open) override {
    const ChannelWidths key_widths = ema_widths(open.key_scales.outliers, config_.key_bits_normal,
                                                config_.key_bits_sink_outlier, config_.block_size);
    const ChannelWidths value_widths =
        ema_widths(open.value_scales.outliers, config_.value_bits_normal,
                   config_.value_bits_sink_outlier, config_.block_size);
    auto block =
        allocate_block(open.keys.size(0), key_widths.bytes, value_widths.bytes,
                       [this](int64_t bytes) { return at::empty({bytes}, options(at::kByte)); });
    enter(open.index, *block);
    const auto pack = [&](const at::Tensor& x, const ChannelScales& scales,
                          const ChannelWidths& widths, const DeviceTable& table,
                          unsigned long long* clipped) {
      const at::Tensor stored =
          upload(widths.stored.data(), static_cast<int64_t>(widths.stored.size()), at::kByte);
      const at::Tensor absmax = scales.absmax.contiguous();
      const at::Tensor device_absmax =
          upload(absmax.const_data_ptr<float>(), absmax.numel(), at::kFloat);
      cuda::PackChannelsSymmetricParams p;
      p.block = block_params(x, config_.block_size, table.row<uint8_t*>(open.index), clipped);
      p.absmax = device_absmax.const_data_ptr<float>();
      p.widths = stored.const_data_ptr<uint8_t>();
      cuda::pack_channels_symmetric(backend_.queue(), p, static_cast<int>(kv_heads_));
    };
    // A provisional block's clipped codes are not counted.
    auto* clipped = open.keep ? clipped_.row<unsigned long long>(open.index) : nullptr;
    pack(open.keys, open.key_scales, key_widths, key_table_, clipped);
    pack(open.values, open.value_scales, value_widths, value_table_,
         clipped != nullptr ? clipped + 1 : nullptr);
    block->tally = ema_tally(key_widths, value_widths, quantizer_->options(),
                             open.key_scales.outliers.sum().item<int64_t>(),
                             open.value_scales.outliers.sum().item<int64_t>());
    return block;
  }

  void attend(const kernels::AttentionParams& params) override {
    kernels::AttentionParams p = params;
    p.prefix.keys = key_table_.row<const uint8_t*>(0);
    p.prefix.values = value_table_.row<const uint8_t*>(0);
    run_attention(backend_, p, rotations_.in_block_half(), key_block_bytes_, slices_);
  }

  void settle(const std::vector<std::shared_ptr<SealedBlock>>& blocks) override {
    const int64_t count = static_cast<int64_t>(blocks.size()), first = settled_;
    RILLKV_ASSERT(first <= count && count <= clipped_.rows().size(0));
    if (first == count) return;
    std::vector<int64_t> counts(2 * (count - first));
    backend_.download({{clipped_.rows().slice(0, first, count), counts.data()}});
    for (int64_t n = first; n < count; ++n) {
      BlockTally& tally = blocks[n]->tally;
      tally.key_clipped = counts[2 * (n - first)];
      tally.value_clipped = counts[2 * (n - first) + 1];
    }
    settled_ = count;
  }

  const PackedSinks& sinks() const override { return sinks_; }

  void reset() override {
    for (at::Tensor* side : {&sinks_.keys, &sinks_.values}) {
      if (side->defined()) side->zero_();
    }
    clipped_ = DeviceTable(2, backend_);
    key_block_bytes_ = settled_ = 0;
  }

 private:
  at::TensorOptions options(at::ScalarType dtype) const {
    return at::TensorOptions().dtype(dtype).device(backend_.device());
  }
  template <typename T>
  at::Tensor upload(const T* data, int64_t count, at::ScalarType dtype) const {
    at::Tensor copy = at::empty({count}, options(dtype));
    backend_.upload(data, copy);
    return copy;
  }

  /// Packing arguments of a block of up to `rows` tokens; `blocks`: [kv_heads] on the device.
  cuda::BlockPackParams block_params(const at::Tensor& x, int64_t rows, uint8_t* const* blocks,
                                     unsigned long long* clipped) const {
    cuda::BlockPackParams p;
    p.input = activation(x);
    p.dtype = kernel_dtype(x.scalar_type());
    p.tokens = static_cast<int32_t>(x.size(0));
    p.block_size = static_cast<int32_t>(rows);
    p.head_dim = static_cast<int32_t>(head_dim_);
    p.blocks = blocks;
    p.clipped = clipped;
    return p;
  }

  /// Enters a block's pointers in the tables. The device reads them from there when it packs, too.
  void enter(int64_t index, const SealedBlock& block) {
    for (size_t h = 0; h < block.keys.size(); ++h) {  // a block's keys lie before its values
      const uint8_t* end = h + 1 < block.keys.size() ? block.keys[h + 1] : block.values[0];
      key_block_bytes_ = std::max<int64_t>(key_block_bytes_, end - block.keys[h]);
    }
    key_table_.set_pointers(index, block.keys);
    value_table_.set_pointers(index, block.values);
    clipped_.ensure(index + 1);
  }
  Quantizer quantizer_;
  const CompressionConfig& config_;  // the quantiser's
  const int64_t kv_heads_, head_dim_;
  const DeviceRotationTable& rotations_;
  CudaBackend& backend_;
  const SliceOptions slices_ = {.path = prefill_path()};
  PackedSinks sinks_;
  at::Tensor sink_pointers_;             // [2, kv_heads] i64: keys, values
  DeviceTable key_table_, value_table_;  // [blocks, kv_heads]
  DeviceTable clipped_;                  // [blocks, 2]: clipped codes of keys, of values
  int64_t key_block_bytes_ = 0;          // of the largest, one kv head
  int64_t settled_ = 0;                  // blocks whose tally is complete
};

}  // namespace

std::unique_ptr<BlockDevice> make_cuda_block_device(Quantizer quantizer,
                                                    const DeviceRotationTable& rotations,
                                                    CudaBackend& backend) {
  return std::make_unique<CudaBlockDevice>(std::move(quantizer), rotations, backend);
}

}  // namespace rillkv
