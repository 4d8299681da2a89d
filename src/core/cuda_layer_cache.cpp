// A compressed layer on a CUDA device: the same bytes, by the kernels of kernels/cuda.
//
// Statistics that carry over (EMAs, query energies) stay on the CPU in its arithmetic, which is
// what makes the widths and scales the same: the device reduces a chunk to a few numbers a channel,
// and one copy brings them here, with the check that everything can be quantised. Otherwise nothing
// waits for the device; tallies are read back when somebody asks.
#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cmath>

#include "core/block_layout.h"
#include "core/cuda_backend.h"
#include "core/kernel_views.h"
#include "core/packed_layer_cache.h"
#include "kernels/packed_format.h"
#include "rillkv/error.h"

namespace rillkv {
namespace {

namespace cuda = kernels::cuda;

/// A table of 64-bit words on the device that grows by doubling; new rows are zero.
class DeviceTable {
 public:
  DeviceTable(int64_t columns, at::Device device)
      : rows_(at::zeros({8, columns}, at::TensorOptions().dtype(at::kLong).device(device))) {}
  void ensure(int64_t rows) {
    if (rows <= rows_.size(0)) return;
    // Made under a model's inference mode it could not be written to outside of it.
    const c10::InferenceMode normal(false);
    at::Tensor larger =
        at::zeros({std::max(rows, 2 * rows_.size(0)), rows_.size(1)}, rows_.options());
    larger.slice(0, 0, rows_.size(0)).copy_(rows_);
    rows_ = larger;
  }
  template <typename T>
  T* row(int64_t index) const {
    static_assert(sizeof(T) == sizeof(int64_t));
    return reinterpret_cast<T*>(rows_.mutable_data_ptr<int64_t>() + index * rows_.size(1));
  }
  void set_pointers(int64_t index, const std::vector<const uint8_t*>& pointers) {
    ensure(index + 1);
    const at::Tensor host = at::empty({rows_.size(1)}, at::kLong);
    for (size_t i = 0; i < pointers.size(); ++i) {
      host.mutable_data_ptr<int64_t>()[i] = reinterpret_cast<int64_t>(pointers[i]);
    }
    rows_[index].copy_(host, /*non_blocking=*/true);
  }
  const at::Tensor& rows() const { return rows_; }

 private:
  at::Tensor rows_;  // [capacity, columns] i64
};

class CudaLayerCache final : public PackedLayerCache {
 public:
  CudaLayerCache(const CacheGeometry& geometry, Quantizer quantizer, at::ScalarType dtype,
                 CacheProtocol protocol, RotationTable& rotations, CudaBackend& backend)
      : PackedLayerCache(geometry, std::move(quantizer), dtype, protocol, rotations,
                         backend.device()),
        backend_(backend),
        key_pointers_(geometry.kv_heads, backend.device()),
        value_pointers_(geometry.kv_heads, backend.device()),
        sink_pointers_(geometry.kv_heads, backend.device()),
        clipped_(2, backend.device()) {
    RILLKV_CHECK(geometry.head_dim <= cuda::kMaxGenericHeadDim,
                 "QuantizedKvCache: expected head_dim up to ", cuda::kMaxGenericHeadDim,
                 " on a CUDA device, got ", geometry.head_dim);
    if (sink_keys_.defined()) {
      const auto enter_sinks = [&](int64_t index, const at::Tensor& sinks) {
        std::vector<const uint8_t*> pointers;
        for (int64_t h = 0; h < geometry.kv_heads; ++h) {
          pointers.push_back(sinks.const_data_ptr<uint8_t>() + h * sinks.stride(0));
        }
        sink_pointers_.set_pointers(index, pointers);
      };
      enter_sinks(0, sink_keys_);
      enter_sinks(1, sink_values_);
    }
  }

  void reset() override {
    PackedLayerCache::reset();
    clipped_ = DeviceTable(2, backend_.device());
    settled_ = 0;
  }

 private:
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

  at::Tensor prepare(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) override {
    const at::Tensor values = quantizer_->rotates_values() ? rotated(v) : v;
    measure(q, k, values);
    check("keys", {&sink_keys_absmax_, &keys_absmax_});
    check("values", {&sink_values_absmax_, &values_absmax_});
    if (!ema_) check("queries", {&queries_absmax_});
    return values;
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

  /// Largest magnitudes of keys and values, sinks and the rest apart, and of queries; and for
  /// policy "adaptive" the sums of squared queries at the end of each block's span. Into members,
  /// on the CPU.
  void measure(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
    const int64_t tokens = q.size(0), sinks = sink_span(tokens).end, dim = geometry_.head_dim;
    const int64_t query_size = geometry_.heads * dim, key_size = geometry_.kv_heads * dim;
    const std::vector<Span> spans = ema_ ? std::vector<Span>() : block_spans(tokens);
    const int64_t span_count = static_cast<int64_t>(spans.size());
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
      p.head_dim = static_cast<int32_t>(dim);
      if (absmax.defined()) p.absmax = absmax.mutable_data_ptr<float>();
      if (squares.defined()) p.squares = squares.mutable_data_ptr<float>();
      cuda::column_statistics(backend_.queue(), p, static_cast<int>(x.size(1)));
    };
    for (const at::Tensor* x : {&k, &v}) {
      launch(x->slice(0, 0, sinks), take(key_size), {});
      launch(x->slice(0, sinks), take(key_size), {});
    }
    if (!ema_) {
      launch(q, take(query_size), {});
      for (int64_t i = 0; i < span_count; ++i) {
        const at::Tensor squares = take(query_size);
        if (i == 0) squares.copy_(energy_->sums().view({-1}), /*non_blocking=*/true);
        launch(q.slice(0, spans[i].begin, spans[i].end), {}, squares);
      }
    }
    const at::Tensor host = sums.cpu();
    used = 0;
    const auto read = [&](int64_t heads) {
      const at::Tensor part = host.slice(0, used, used + heads * dim).view({heads, dim});
      used += heads * dim;
      return part;
    };
    sink_keys_absmax_ = read(geometry_.kv_heads);
    keys_absmax_ = read(geometry_.kv_heads);
    sink_values_absmax_ = read(geometry_.kv_heads);
    values_absmax_ = read(geometry_.kv_heads);
    energy_sums_.clear();
    if (ema_) return;
    queries_absmax_ = read(geometry_.heads);
    for (int64_t i = 0; i < span_count; ++i) energy_sums_.push_back(read(geometry_.heads));
    std::reverse(energy_sums_.begin(), energy_sums_.end());  // taken from the back
  }

  static void check(const char* what, std::initializer_list<const at::Tensor*> absmax) {
    std::vector<float> largest((*absmax.begin())->size(0));
    for (const at::Tensor* part : absmax) {
      const float* data = part->const_data_ptr<float>();
      for (int64_t i = 0; i < part->numel(); ++i) {
        float& most = largest[i / part->size(1)];
        if (!(data[i] <= most) && !std::isnan(most)) most = data[i];  // keeps NaN
      }
    }
    check_magnitudes(largest, what);
  }

  void update_statistics(const at::Tensor& k, const at::Tensor& v) override {
    key_stats_->update_absmax(keys_absmax_, k.size(0));
    value_stats_->update_absmax(values_absmax_, v.size(0));
  }

  void add_energy(const at::Tensor& q) override {
    energy_->replace_sums(energy_sums_.back(), q.size(0));
    energy_sums_.pop_back();
  }

  /// Packing arguments of a block of up to `rows` tokens; `blocks`: [kv_heads] on the device.
  cuda::BlockPackParams block_params(const at::Tensor& x, int64_t rows, uint8_t* const* blocks,
                                     unsigned long long* clipped) const {
    cuda::BlockPackParams p;
    p.input = activation(x);
    p.dtype = kernel_dtype(x.scalar_type());
    p.tokens = static_cast<int32_t>(x.size(0));
    p.block_size = static_cast<int32_t>(rows);
    p.head_dim = static_cast<int32_t>(geometry_.head_dim);
    p.blocks = blocks;
    p.clipped = clipped;
    return p;
  }

  int kv_heads() const { return static_cast<int>(geometry_.kv_heads); }

  void pack_sinks(const at::Tensor& x, int64_t bits, at::Tensor& sinks) override {
    cuda::PackTokensParams p;
    p.block =
        block_params(x, config_.attention_sink_size,
                     sink_pointers_.row<uint8_t*>(sinks.is_same(sink_keys_) ? 0 : 1), nullptr);
    p.bits = static_cast<int32_t>(bits);
    p.first_row = static_cast<int32_t>(length_);
    cuda::pack_tokens_symmetric(backend_.queue(), p, kv_heads());
  }

  /// Enters a block's pointers in the tables. The device reads them from there when it packs, too.
  void enter(int64_t index, const SealedBlock& block) {
    key_pointers_.set_pointers(index, block.keys);
    value_pointers_.set_pointers(index, block.values);
    clipped_.ensure(index + 1);
  }
  /// Where the block's clipped codes are counted: a provisional block's are not.
  unsigned long long* counter(int64_t index, bool values, bool keep) const {
    return keep ? clipped_.row<unsigned long long>(index) + (values ? 1 : 0) : nullptr;
  }

  std::shared_ptr<SealedBlock> seal_adaptive(int64_t index, const at::Tensor& keys,
                                             const at::Tensor& values, const at::Tensor& energy,
                                             bool keep) override {
    auto block = allocate_block(keys.size(0), quantizer_->adaptive_key_bytes(),
                                quantizer_->adaptive_value_bytes(), allocator());
    enter(index, *block);
    const at::Tensor energies = upload(energy.const_data_ptr<float>(), energy.numel(), at::kFloat);
    cuda::PackChannelsAffineParams k;
    k.block = block_params(keys, config_.block_size, key_pointers_.row<uint8_t*>(index), nullptr);
    k.energy = energies.const_data_ptr<float>();
    k.class_count = static_cast<int32_t>(quantizer_->classes().size());
    std::copy(quantizer_->classes().begin(), quantizer_->classes().end(), k.classes);
    k.increments = quantizer_->increments();
    cuda::pack_channels_affine(backend_.queue(), k, kv_heads());
    cuda::PackTokensParams v;
    v.block = block_params(values, config_.block_size, value_pointers_.row<uint8_t*>(index),
                           counter(index, true, keep));
    v.groups = static_cast<int32_t>(quantizer_->value_groups());
    v.bits = static_cast<int32_t>(config_.value_bits);
    cuda::pack_tokens_affine(backend_.queue(), v, kv_heads());
    return block;
  }

  std::shared_ptr<SealedBlock> seal_ema(int64_t index, const at::Tensor& keys,
                                        const at::Tensor& values, const EmaSide& key_side,
                                        const EmaSide& value_side, bool keep) override {
    const ChannelWidths key_widths = ema_widths(key_side.outliers, config_.key_bits_normal,
                                                config_.key_bits_sink_outlier, config_.block_size);
    const ChannelWidths value_widths =
        ema_widths(value_side.outliers, config_.value_bits_normal, config_.value_bits_sink_outlier,
                   config_.block_size);
    auto block = allocate_block(keys.size(0), key_widths.bytes, value_widths.bytes, allocator());
    enter(index, *block);
    const auto pack = [&](const at::Tensor& x, const EmaSide& side, const ChannelWidths& widths,
                          const DeviceTable& table, unsigned long long* clipped) {
      const at::Tensor stored =
          upload(widths.stored.data(), static_cast<int64_t>(widths.stored.size()), at::kByte);
      const at::Tensor absmax = side.absmax.contiguous();
      const at::Tensor device_absmax =
          upload(absmax.const_data_ptr<float>(), absmax.numel(), at::kFloat);
      cuda::PackChannelsSymmetricParams p;
      p.block = block_params(x, config_.block_size, table.row<uint8_t*>(index), clipped);
      p.absmax = device_absmax.const_data_ptr<float>();
      p.widths = stored.const_data_ptr<uint8_t>();
      cuda::pack_channels_symmetric(backend_.queue(), p, kv_heads());
    };
    pack(keys, key_side, key_widths, key_pointers_, counter(index, false, keep));
    pack(values, value_side, value_widths, value_pointers_, counter(index, true, keep));
    block->tally = ema_tally(key_widths, value_widths, quantizer_->options(),
                             key_side.outliers.sum().item<int64_t>(),
                             value_side.outliers.sum().item<int64_t>());
    return block;
  }

  void settle() const override {
    const int64_t count = static_cast<int64_t>(blocks_.size()), first = settled_;
    if (first == count) return;
    const at::Tensor clipped = clipped_.rows().slice(0, first, count).cpu().contiguous();
    const int64_t* counts = clipped.const_data_ptr<int64_t>();
    at::Tensor widths;  // [blocks, kv_heads, head_dim / 2]
    if (!ema_) {
      const int dim = static_cast<int>(geometry_.head_dim);
      std::vector<at::Tensor> parts;
      for (int64_t n = first; n < count; ++n) {
        parts.push_back(blocks_[n]
                            ->storage.slice(0, 0, blocks_[n]->key_bytes)
                            .view({geometry_.kv_heads, -1})
                            .narrow(1,
                                    static_cast<int64_t>(format::channel_widths_offset(dim, false)),
                                    dim / 2));
      }
      widths = at::stack(parts).cpu();
    }
    for (int64_t n = first; n < count; ++n) {
      const int64_t* of_block = counts + 2 * (n - first);
      BlockTally& tally = blocks_[n]->tally;
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

  const uint8_t* const* key_table() const override { return key_pointers_.row<const uint8_t*>(0); }
  const uint8_t* const* value_table() const override {
    return value_pointers_.row<const uint8_t*>(0);
  }

  void run(const kernels::AttentionParams& params) override {
    const size_t bytes = cuda::attention_workspace_bytes(backend_.queue(), &params, 1);
    const at::Tensor workspace = at::empty({static_cast<int64_t>(bytes)}, options(at::kByte));
    cuda::attend(backend_.queue(), &params, 1, workspace.mutable_data_ptr(), bytes);
  }

  CudaBackend& backend_;
  DeviceTable key_pointers_, value_pointers_;  // [blocks, kv_heads]
  DeviceTable sink_pointers_;                  // [2, kv_heads]: keys, values
  DeviceTable clipped_;                        // [blocks, 2]: clipped codes of keys, of values
  mutable int64_t settled_ = 0;                // blocks whose tally is complete
  // What `measure` found in the chunk, on the CPU, [kv_heads or heads, head_dim].
  at::Tensor sink_keys_absmax_, keys_absmax_, sink_values_absmax_, values_absmax_, queries_absmax_;
  std::vector<at::Tensor> energy_sums_;
};

}  // namespace

std::unique_ptr<LayerCache> make_cuda_layer(const CacheGeometry& geometry, Quantizer quantizer,
                                            at::ScalarType dtype, CacheProtocol protocol,
                                            RotationTable& rotations, CudaBackend& backend) {
  return std::make_unique<CudaLayerCache>(geometry, std::move(quantizer), dtype, protocol,
                                          rotations, backend);
}

}  // namespace rillkv
