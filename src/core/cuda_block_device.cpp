// A compressed layer's bytes on a CUDA device: the same as the CPU's, by the kernels of
// kernels/cuda.
//
// Statistics that carry over (EMAs, query energies) stay on the CPU in its arithmetic, which is
// what makes the widths and scales the same: the device reduces a chunk to a few numbers a channel,
// and one copy brings them here, with the check that everything can be quantised. Otherwise nothing
// waits for the device; tallies are read back when somebody asks.
#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "core/adaptive_layout.h"
#include "core/assert.h"
#include "core/block_device.h"
#include "core/block_layout.h"
#include "core/cuda_backend.h"
#include "core/device_rotation_table.h"
#include "core/device_table.h"
#include "core/kernel_views.h"
#include "core/slice_attention.h"
#include "kernels/packed_format.h"
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
        ema_(config_.policy == Policy::kEma),
        layout_(quantizer_->options()),
        rotations_(rotations),
        backend_(backend),
        sinks_(allocate_sinks(quantizer_->options(), backend.device())),
        key_table_(kv_heads_, backend.device()),
        value_table_(kv_heads_, backend.device()),
        sink_table_(kv_heads_, backend.device()),
        clipped_(2, backend.device()) {
    RILLKV_CHECK(head_dim_ <= cuda::kMaxGenericHeadDim,
                 "QuantizedKvCache: expected head_dim up to ", cuda::kMaxGenericHeadDim,
                 " on a CUDA device, got ", head_dim_);
    if (!sinks_.keys.defined()) return;
    const auto enter = [&](int64_t index, const at::Tensor& sinks) {
      std::vector<const uint8_t*> pointers;
      for (int64_t h = 0; h < kv_heads_; ++h) {
        pointers.push_back(sinks.const_data_ptr<uint8_t>() + h * sinks.stride(0));
      }
      sink_table_.set_pointers(index, pointers);
    };
    enter(kSinkKeys, sinks_.keys);
    enter(kSinkValues, sinks_.values);
  }

  Measured measure(const Chunk& chunk, const at::Tensor& energy_sums) override {
    Measured measured;
    measured.values = quantizer_->rotates_values() ? rotated(chunk.v) : chunk.v;
    Reductions found = reduce(chunk, measured.values, energy_sums);
    check("keys", {found.sink_keys, found.keys});
    check("values", {found.sink_values, found.values});
    if (!ema_) check("queries", {found.queries});
    measured.key_absmax = found.keys;
    measured.value_absmax = found.values;
    measured.energy_sums = std::move(found.energy_sums);
    return measured;
  }

  void seal_sinks(const at::Tensor& keys, const at::Tensor& values, int64_t first) override {
    const auto pack = [&](const at::Tensor& x, int64_t bits, int64_t row) {
      cuda::PackTokensParams p;
      p.block =
          block_params(x, config_.attention_sink_size, sink_table_.row<uint8_t*>(row), nullptr);
      p.bits = static_cast<int32_t>(bits);
      p.first_row = static_cast<int32_t>(first);
      cuda::pack_sinks(backend_.queue(), p, static_cast<int>(kv_heads_));
    };
    pack(keys, config_.key_bits_sink_outlier, kSinkKeys);
    pack(values, config_.value_bits_sink_outlier, kSinkValues);
  }

  std::shared_ptr<SealedBlock> seal(const OpenBlock& open) override {
    return ema_ ? seal_ema(open) : seal_adaptive(open);
  }

  void attend(const kernels::AttentionParams& params) override {
    cuda::AttentionParams mine = {params, rotations_.in_block_half(),
                                  static_cast<int32_t>(key_block_bytes_)};
    mine.prefix.keys = key_table_.row<const uint8_t*>(0);
    mine.prefix.values = value_table_.row<const uint8_t*>(0);
    if (attend_by_slices(backend_, mine, slices_)) return;
    const size_t bytes = cuda::attention_workspace_bytes(backend_.queue(), &mine, 1);
    const at::Tensor workspace = at::empty({static_cast<int64_t>(bytes)}, options(at::kByte));
    cuda::attend(backend_.queue(), &mine, 1, workspace.mutable_data_ptr(), bytes);
  }

  void settle(const std::vector<std::shared_ptr<SealedBlock>>& blocks) override {
    const int64_t count = static_cast<int64_t>(blocks.size()), first = settled_;
    RILLKV_ASSERT(first <= count && count <= clipped_.rows().size(0));
    if (first == count) return;
    const at::Tensor clipped = clipped_.rows().slice(0, first, count).cpu().contiguous();
    const int64_t* counts = clipped.const_data_ptr<int64_t>();
    at::Tensor widths;  // [blocks, kv_heads, head_dim / 2]
    if (!ema_) {
      const auto offset = static_cast<int64_t>(
          format::channel_widths_offset(static_cast<int>(head_dim_), /*symmetric=*/false));
      std::vector<at::Tensor> parts;
      for (int64_t n = first; n < count; ++n) {
        parts.push_back(blocks[n]
                            ->storage.slice(0, 0, blocks[n]->key_bytes)
                            .view({kv_heads_, -1})
                            .narrow(1, offset, head_dim_ / 2));
      }
      widths = at::stack(parts).cpu();
    }
    for (int64_t n = first; n < count; ++n) {
      const int64_t* of_block = counts + 2 * (n - first);
      BlockTally& tally = blocks[n]->tally;
      if (!ema_) {
        tally = adaptive_tally(widths[n - first].const_data_ptr<uint8_t>(), quantizer_->options(),
                               of_block[1]);
      } else {
        tally.key_clipped = of_block[0];
        tally.value_clipped = of_block[1];
      }
    }
    settled_ = count;
  }

  const PackedSinks& sinks() const override { return sinks_; }

  void reset() override {
    for (at::Tensor* side : {&sinks_.keys, &sinks_.values}) {
      if (side->defined()) side->zero_();
    }
    clipped_ = DeviceTable(2, backend_.device());
    key_block_bytes_ = settled_ = 0;
  }

 private:
  static constexpr int64_t kSinkKeys = 0, kSinkValues = 1;  // rows of the table of sinks

  at::TensorOptions options(at::ScalarType dtype) const {
    return at::TensorOptions().dtype(dtype).device(backend_.device());
  }
  /// Torch's caching allocator has slabs of its own.
  BlockAllocator allocator() const {
    return [this](int64_t bytes) { return at::zeros({bytes}, options(at::kByte)); };
  }
  template <typename T>
  at::Tensor upload(const T* data, int64_t count, at::ScalarType dtype) const {
    at::Tensor copy = at::empty({count}, options(dtype));
    copy.copy_(at::from_blob(const_cast<T*>(data), {count}, dtype), /*non_blocking=*/true);
    return copy;
  }

  at::Tensor rotated(const at::Tensor& x) {
    at::Tensor out = at::empty({x.size(0), x.size(1), x.size(2)}, x.options());
    cuda::RotateParams p;
    p.input = activation(x);
    p.out = mutable_activation(out);
    p.dtype = kernel_dtype(x.scalar_type());
    p.tokens = static_cast<int32_t>(x.size(0));
    p.heads = static_cast<int32_t>(x.size(1));
    p.head_dim = static_cast<int32_t>(x.size(2));
    cuda::hadamard(backend_.queue(), p);
    return out;
  }

  /// Largest magnitudes of the chunk's sinks and of the rest, and for policy "adaptive" of its
  /// queries, with the sums of squared queries at the end of each block's span. On the CPU,
  /// [kv_heads or heads, head_dim] f32.
  struct Reductions {
    at::Tensor sink_keys, keys, sink_values, values, queries;
    std::vector<at::Tensor> energy_sums;
  };
  /// One launch a part and one copy of all of them, for which the CPU waits.
  Reductions reduce(const Chunk& chunk, const at::Tensor& values, const at::Tensor& energy_sums) {
    const int64_t heads = chunk.q.size(1), sinks = chunk.sinks.end;
    const int64_t query_size = heads * head_dim_, key_size = kv_heads_ * head_dim_;
    const int64_t span_count = ema_ ? 0 : static_cast<int64_t>(chunk.blocks.size());
    const int64_t size = 4 * key_size + (ema_ ? 0 : query_size * (1 + span_count));
    const at::Tensor sums = at::zeros({size}, options(at::kFloat));
    int64_t used = 0;
    const auto take = [&](int64_t count) {
      const at::Tensor part = sums.slice(0, used, used + count);
      used += count;
      return part;
    };
    const auto launch = [&](const at::Tensor& x, const at::Tensor& absmax,
                            const at::Tensor& squares) {
      if (x.size(0) == 0) return;
      cuda::ColumnStatisticsParams p;
      p.input = activation(x);
      p.dtype = kernel_dtype(x.scalar_type());
      p.tokens = static_cast<int32_t>(x.size(0));
      p.head_dim = static_cast<int32_t>(head_dim_);
      if (absmax.defined()) p.absmax = absmax.mutable_data_ptr<float>();
      if (squares.defined()) p.squares = squares.mutable_data_ptr<float>();
      cuda::column_statistics(backend_.queue(), p, static_cast<int>(x.size(1)));
    };
    for (const at::Tensor* x : {&chunk.k, &values}) {
      launch(x->slice(0, 0, sinks), take(key_size), {});
      launch(x->slice(0, sinks), take(key_size), {});
    }
    if (!ema_) {
      launch(chunk.q, take(query_size), {});
      for (int64_t i = 0; i < span_count; ++i) {
        const at::Tensor squares = take(query_size);
        if (i == 0) squares.copy_(energy_sums.view({-1}), /*non_blocking=*/true);
        launch(chunk.q.slice(0, chunk.blocks[i].begin, chunk.blocks[i].end), {}, squares);
      }
    }
    const at::Tensor host = sums.cpu();
    used = 0;
    const auto read = [&](int64_t rows) {
      const at::Tensor part = host.slice(0, used, used + rows * head_dim_).view({rows, head_dim_});
      used += rows * head_dim_;
      return part;
    };
    Reductions found;
    found.sink_keys = read(kv_heads_);
    found.keys = read(kv_heads_);
    found.sink_values = read(kv_heads_);
    found.values = read(kv_heads_);
    if (ema_) return found;
    found.queries = read(heads);
    for (int64_t i = 0; i < span_count; ++i) found.energy_sums.push_back(read(heads));
    return found;
  }

  static void check(const char* what, std::initializer_list<at::Tensor> absmax) {
    std::vector<float> largest(absmax.begin()->size(0));
    for (const at::Tensor& part : absmax) {
      const float* data = part.const_data_ptr<float>();
      for (int64_t i = 0; i < part.numel(); ++i) {
        float& most = largest[i / part.size(1)];
        if (!(data[i] <= most) && !std::isnan(most)) most = data[i];  // keeps NaN
      }
    }
    check_magnitudes(largest, what);
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
  /// Where the block's clipped codes are counted: a provisional block's are not.
  unsigned long long* counter(const OpenBlock& open, bool values) const {
    return open.keep ? clipped_.row<unsigned long long>(open.index) + (values ? 1 : 0) : nullptr;
  }

  std::shared_ptr<SealedBlock> seal_adaptive(const OpenBlock& open) {
    auto block =
        allocate_block(open.keys.size(0), std::vector<size_t>(kv_heads_, layout_.key_bytes()),
                       std::vector<size_t>(kv_heads_, layout_.value_bytes()), allocator());
    enter(open.index, *block);
    const at::Tensor energies =
        upload(open.energy.const_data_ptr<float>(), open.energy.numel(), at::kFloat);
    cuda::PackChannelsAffineParams k;
    k.block =
        block_params(open.keys, config_.block_size, key_table_.row<uint8_t*>(open.index), nullptr);
    k.energy = energies.const_data_ptr<float>();
    k.class_count = static_cast<int32_t>(layout_.classes.size());
    std::copy(layout_.classes.begin(), layout_.classes.end(), k.classes);
    k.increments = layout_.increments;
    cuda::pack_channels_affine(backend_.queue(), k, static_cast<int>(kv_heads_));
    cuda::PackTokensParams v;
    v.block = block_params(open.values, config_.block_size, value_table_.row<uint8_t*>(open.index),
                           counter(open, true));
    v.groups = layout_.value_groups;
    v.bits = layout_.value_bits;
    cuda::pack_tokens_affine(backend_.queue(), v, static_cast<int>(kv_heads_));
    return block;
  }

  std::shared_ptr<SealedBlock> seal_ema(const OpenBlock& open) {
    const ChannelWidths key_widths = ema_widths(open.key_scales.outliers, config_.key_bits_normal,
                                                config_.key_bits_sink_outlier, config_.block_size);
    const ChannelWidths value_widths =
        ema_widths(open.value_scales.outliers, config_.value_bits_normal,
                   config_.value_bits_sink_outlier, config_.block_size);
    auto block =
        allocate_block(open.keys.size(0), key_widths.bytes, value_widths.bytes, allocator());
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
    pack(open.keys, open.key_scales, key_widths, key_table_, counter(open, false));
    pack(open.values, open.value_scales, value_widths, value_table_, counter(open, true));
    block->tally = ema_tally(key_widths, value_widths, quantizer_->options(),
                             open.key_scales.outliers.sum().item<int64_t>(),
                             open.value_scales.outliers.sum().item<int64_t>());
    return block;
  }

  Quantizer quantizer_;
  const CompressionConfig& config_;  // the quantiser's
  const int64_t kv_heads_, head_dim_;
  const bool ema_;
  const AdaptiveLayout layout_;
  const DeviceRotationTable& rotations_;
  CudaBackend& backend_;
  const SliceOptions slices_ = {.path = prefill_path()};
  PackedSinks sinks_;
  DeviceTable key_table_, value_table_;  // [blocks, kv_heads]
  DeviceTable sink_table_;               // [2, kv_heads]: keys, values
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
