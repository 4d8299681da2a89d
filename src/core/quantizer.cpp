#include "rillkv/quantizer.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/block_layout.h"
#include "core/kernel_views.h"
#include "core/parallel.h"
#include "kernels/cpu/kernels.h"
#include "kernels/packed_format.h"
#include "rillkv/error.h"

namespace rillkv {
namespace {

bool is_power_of_two(int64_t n) { return n > 0 && (n & (n - 1)) == 0; }

}  // namespace

QuantizerImpl::QuantizerImpl(const QuantizerOptions& options) : options_(options) {
  RILLKV_CHECK(options.head_dim >= 2 && options.head_dim % 2 == 0,
               "Quantizer: expected an even head_dim, got ", options.head_dim);
  options.config.validate_for(options.head_dim);
  const CompressionConfig& c = options_.config;
  rotates_values_ =
      c.policy == Policy::kAdaptive && c.value_rotation && is_power_of_two(options.head_dim);
  value_groups_ = format::value_groups(static_cast<int>(options.head_dim),
                                       static_cast<int>(c.value_group_size));
  for (int64_t b : c.bit_classes) classes_.push_back(static_cast<int>(b));
  // docs/architecture.md: every head spends the same whole number of increments, so that every key
  // block has the same size; 1e-6 forgives a mean that is not exact in binary.
  const double pairs = static_cast<double>(options.head_dim) / 2;
  const int spacing = classes_[1] - classes_[0];
  const double wanted = (c.key_bits_mean - classes_.front()) * pairs / spacing + 1e-6;
  increments_ = std::min(static_cast<int>(wanted),
                         static_cast<int>(pairs) * (static_cast<int>(classes_.size()) - 1));
}

double QuantizerImpl::key_bits_mean() const {
  const double pairs = static_cast<double>(options_.head_dim) / 2;
  return classes_.front() + increments_ * (classes_[1] - classes_[0]) / pairs;
}

std::vector<size_t> QuantizerImpl::adaptive_key_bytes() const {
  const int dim = static_cast<int>(options_.head_dim);
  const int total = classes_.front() * dim + 2 * increments_ * (classes_[1] - classes_[0]);
  return std::vector<size_t>(
      options_.kv_heads,
      format::channel_block_bytes(dim, static_cast<int>(options_.config.block_size), false, total));
}

std::vector<size_t> QuantizerImpl::adaptive_value_bytes() const {
  return std::vector<size_t>(
      options_.kv_heads, format::token_block_bytes(static_cast<int>(options_.config.block_size),
                                                   static_cast<int>(options_.head_dim),
                                                   static_cast<int>(value_groups_), false,
                                                   static_cast<int>(options_.config.value_bits)));
}

std::shared_ptr<SealedBlock> QuantizerImpl::seal_adaptive(const at::Tensor& keys,
                                                          const at::Tensor& values,
                                                          const at::Tensor& energy,
                                                          const BlockAllocator& allocate) const {
  const CompressionConfig& config = options_.config;
  const int64_t heads = options_.kv_heads, dim = options_.head_dim;
  const int idim = static_cast<int>(dim);
  const int block_size = static_cast<int>(config.block_size);
  const int bits = static_cast<int>(config.value_bits), groups = static_cast<int>(value_groups_);
  auto block = allocate_block(keys.size(0), adaptive_key_bytes(), adaptive_value_bytes(), allocate);

  const auto& kernel = kernels::cpu::kernels();
  const at::Tensor energies = energy.contiguous();
  const float* energy_data = energies.const_data_ptr<float>();
  std::vector<uint8_t> widths(heads * dim / 2);
  std::vector<int64_t> clipped(heads);
  parallel_tasks(2 * heads, [&](int64_t task) {
    const int64_t head = task / 2;
    if (task % 2 == 0) {
      const kernels::PackParams params = pack_params(keys, head, block_size);
      std::vector<float> scratch(3 * dim);
      float *lo = scratch.data(), *hi = lo + dim, *range = hi + dim;
      kernel.min_max(params, lo, hi);
      for (int64_t c = 0; c < dim; ++c) range[c] = hi[c] - lo[c];
      uint8_t* head_widths = widths.data() + head * dim / 2;
      kernels::cpu::allocate_widths(range, energy_data + head * dim, idim, classes_.data(),
                                    static_cast<int>(classes_.size()), increments_, head_widths);
      kernel.pack_channels_affine(params, lo, hi, head_widths,
                                  const_cast<uint8_t*>(block->keys[head]));
    } else {
      clipped[head] = kernel.pack_tokens_affine(pack_params(values, head, block_size), groups, bits,
                                                const_cast<uint8_t*>(block->values[head]));
    }
  });

  block->tally = adaptive_tally(widths.data(), options_,
                                std::accumulate(clipped.begin(), clipped.end(), int64_t{0}));
  return block;
}

std::shared_ptr<SealedBlock> QuantizerImpl::seal_ema(
    const at::Tensor& keys, const at::Tensor& values, const at::Tensor& key_absmax,
    const at::Tensor& key_outliers, const at::Tensor& value_absmax,
    const at::Tensor& value_outliers, const BlockAllocator& allocate) const {
  const CompressionConfig& config = options_.config;
  const int64_t heads = options_.kv_heads, dim = options_.head_dim;
  const int64_t block_size = config.block_size;
  struct Side {
    const at::Tensor& x;
    at::Tensor absmax;
    ChannelWidths widths;
    std::vector<int64_t> clipped;
  };
  Side sides[2] = {
      {keys, key_absmax.contiguous(),
       ema_widths(key_outliers, config.key_bits_normal, config.key_bits_sink_outlier, block_size),
       std::vector<int64_t>(heads)},
      {values, value_absmax.contiguous(),
       ema_widths(value_outliers, config.value_bits_normal, config.value_bits_sink_outlier,
                  block_size),
       std::vector<int64_t>(heads)}};
  auto block = allocate_block(keys.size(0), sides[0].widths.bytes, sides[1].widths.bytes, allocate);
  const auto& kernel = kernels::cpu::kernels();
  parallel_tasks(2 * heads, [&](int64_t task) {
    const int64_t head = task / 2;
    Side& side = sides[task % 2];
    const auto& pointers = task % 2 == 0 ? block->keys : block->values;
    side.clipped[head] = kernel.pack_channels_symmetric(
        pack_params(side.x, head, block_size), side.absmax.const_data_ptr<float>() + head * dim,
        side.widths.stored.data() + head * dim / 2, const_cast<uint8_t*>(pointers[head]));
  });

  block->tally =
      ema_tally(sides[0].widths, sides[1].widths, options_, key_outliers.sum().item<int64_t>(),
                value_outliers.sum().item<int64_t>());
  for (int64_t head = 0; head < heads; ++head) {
    block->tally.key_clipped += sides[0].clipped[head];
    block->tally.value_clipped += sides[1].clipped[head];
  }
  return block;
}

QuantizerImpl::Dequantized QuantizerImpl::dequantize(const SealedBlock& block) const {
  const CompressionConfig& config = options_.config;
  const int64_t heads = options_.kv_heads, dim = options_.head_dim, tokens = block.tokens;
  const int block_size = static_cast<int>(config.block_size), idim = static_cast<int>(dim);
  const bool ema = config.policy == Policy::kEma;
  const at::Tensor bytes = block.storage.cpu();
  const auto host = [&](const uint8_t* part) {
    return bytes.const_data_ptr<uint8_t>() + (part - block.storage.const_data_ptr<uint8_t>());
  };
  at::Tensor keys = at::empty({heads, tokens, dim}), values = at::empty({heads, tokens, dim});
  for (int64_t head = 0; head < heads; ++head) {
    float* k = keys.mutable_data_ptr<float>() + head * tokens * dim;
    float* v = values.mutable_data_ptr<float>() + head * tokens * dim;
    kernels::cpu::unpack_channels(host(block.keys[head]), static_cast<int>(tokens), block_size,
                                  idim, ema, k);
    if (ema) {
      kernels::cpu::unpack_channels(host(block.values[head]), static_cast<int>(tokens), block_size,
                                    idim, true, v);
    } else {
      kernels::cpu::unpack_tokens(host(block.values[head]), static_cast<int>(tokens), block_size,
                                  idim, static_cast<int>(value_groups_), false,
                                  static_cast<int>(config.value_bits), v);
    }
  }
  return {keys.transpose(0, 1), values.transpose(0, 1)};
}

void QuantizerImpl::check_representable(const at::Tensor& x, const char* what) const {
  if (x.size(0) == 0) return;
  const int64_t heads = x.size(1), dim = x.size(2);
  std::vector<float> largest(heads);
  const auto check = [&](int64_t head, std::vector<float>& absmax) {
    kernels::cpu::kernels().absmax(pack_params(x, head, x.size(0)), absmax.data());
    float most = 0;
    for (float value : absmax) {
      if (!(value <= most)) most = value;  // keeps NaN
      if (std::isnan(most)) break;
    }
    largest[head] = most;
  };
  if (x.size(0) == 1) {
    std::vector<float> absmax(dim);
    for (int64_t head = 0; head < heads; ++head) check(head, absmax);
  } else {
    parallel_tasks(heads, [&](int64_t head) {
      std::vector<float> absmax(dim);
      check(head, absmax);
    });
  }
  check_magnitudes(largest, what);
}

at::Tensor QuantizerImpl::rotate_values(const at::Tensor& x) const {
  at::Tensor out = at::empty({x.size(0), x.size(1), x.size(2)}, x.options());
  if (x.size(0) == 0) return out;
  const kernels::MutableActivation target = mutable_activation(out);
  const auto rotate = [&](int64_t head) {
    kernels::cpu::kernels().hadamard(pack_params(x, head, x.size(0)), target);
  };
  if (x.size(0) == 1) {
    for (int64_t head = 0; head < x.size(1); ++head) rotate(head);
  } else {
    parallel_tasks(x.size(1), rotate);
  }
  return out;
}

}  // namespace rillkv
