#include "rillkv/quantizer.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "core/kernel_views.h"
#include "core/parallel.h"
#include "kernels/cpu/kernels.h"
#include "kernels/packed_format.h"
#include "rillkv/error.h"

namespace rillkv {
namespace {

bool is_power_of_two(int64_t n) { return n > 0 && (n & (n - 1)) == 0; }

int width_sum(const uint8_t* widths, int64_t head_dim) {
  int sum = 0;
  for (int c = 0; c < head_dim; ++c) {
    sum += format::channel_width(widths, c, static_cast<int>(head_dim));
  }
  return sum;
}

/// Widths of one head under "ema": `outlier_bits` where flagged.
void choose_widths(const bool* outliers, int64_t head_dim, int64_t bits, int64_t outlier_bits,
                   uint8_t* widths) {
  const int64_t half = head_dim / 2;
  for (int64_t p = 0; p < half; ++p) {
    const int64_t low = outliers[p] ? outlier_bits : bits;
    const int64_t high = outliers[p + half] ? outlier_bits : bits;
    widths[p] = static_cast<uint8_t>(low | high << 4);
  }
}

void count_widths(const uint8_t* widths, int64_t head_dim, std::array<int64_t, 9>& counts) {
  for (int c = 0; c < head_dim; ++c) {
    ++counts[format::channel_width(widths, c, static_cast<int>(head_dim))];
  }
}

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
  // DESIGN section 3: every head spends the same whole number of increments, so that every key
  // block has the same size; 1e-6 forgives a mean that is not exact in binary.
  const double pairs = static_cast<double>(options.head_dim / 2);
  const int spacing = classes_[1] - classes_[0];
  const double wanted = (c.key_bits_mean - classes_.front()) * pairs / spacing + 1e-6;
  increments_ = std::min(static_cast<int>(wanted),
                         static_cast<int>(pairs) * (static_cast<int>(classes_.size()) - 1));
}

double QuantizerImpl::key_bits_mean() const {
  const double pairs = static_cast<double>(options_.head_dim / 2);
  return classes_.front() + increments_ * (classes_[1] - classes_[0]) / pairs;
}

std::shared_ptr<SealedBlock> QuantizerImpl::allocate(int64_t tokens,
                                                     const std::vector<size_t>& key_bytes,
                                                     const std::vector<size_t>& value_bytes) const {
  auto block = std::make_shared<SealedBlock>();
  block->tokens = tokens;
  for (size_t bytes : key_bytes) block->key_bytes += static_cast<int64_t>(bytes);
  for (size_t bytes : value_bytes) block->value_bytes += static_cast<int64_t>(bytes);
  block->storage = at::zeros({block->key_bytes + block->value_bytes}, at::kByte);
  const uint8_t* at = block->storage.const_data_ptr<uint8_t>();
  for (size_t bytes : key_bytes) {
    block->keys.push_back(at);
    at += bytes;
  }
  for (size_t bytes : value_bytes) {
    block->values.push_back(at);
    at += bytes;
  }
  return block;
}

std::shared_ptr<const SealedBlock> QuantizerImpl::seal_adaptive(const at::Tensor& keys,
                                                                const at::Tensor& values,
                                                                const at::Tensor& energy) const {
  const CompressionConfig& config = options_.config;
  const int64_t heads = options_.kv_heads, dim = options_.head_dim;
  const int idim = static_cast<int>(dim);
  const int block_size = static_cast<int>(config.block_size);
  const int bits = static_cast<int>(config.value_bits), groups = static_cast<int>(value_groups_);
  const int total = classes_.front() * idim + 2 * increments_ * (classes_[1] - classes_[0]);
  auto block = allocate(
      keys.size(0),
      std::vector<size_t>(heads, format::channel_block_bytes(idim, block_size, false, total)),
      std::vector<size_t>(heads, format::token_block_bytes(block_size, idim, groups, false, bits)));

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

  BlockTally& tally = block->tally;
  const int64_t mean_up = static_cast<int64_t>(std::ceil(config.key_bits_mean));
  for (int64_t head = 0; head < heads; ++head) {
    count_widths(widths.data() + head * dim / 2, dim, tally.key_widths);
    tally.value_clipped += clipped[head];
  }
  tally.value_widths[bits] = heads * dim;
  for (int64_t w = mean_up + 1; w <= 8; ++w) tally.key_outliers += tally.key_widths[w];
  return block;
}

std::shared_ptr<const SealedBlock> QuantizerImpl::seal_ema(const at::Tensor& keys,
                                                           const at::Tensor& values,
                                                           const at::Tensor& key_absmax,
                                                           const at::Tensor& key_outliers,
                                                           const at::Tensor& value_absmax,
                                                           const at::Tensor& value_outliers) const {
  const CompressionConfig& config = options_.config;
  const int64_t heads = options_.kv_heads, dim = options_.head_dim;
  const int64_t block_size = config.block_size;
  struct Side {
    const at::Tensor& x;
    at::Tensor absmax, outliers;
    int64_t bits, outlier_bits;
    std::vector<uint8_t> widths;
    std::vector<size_t> bytes;
    std::vector<int64_t> clipped;
  };
  Side sides[2] = {{keys,
                    key_absmax.contiguous(),
                    key_outliers.contiguous(),
                    config.key_bits_normal,
                    config.key_bits_sink_outlier,
                    {},
                    {},
                    {}},
                   {values,
                    value_absmax.contiguous(),
                    value_outliers.contiguous(),
                    config.value_bits_normal,
                    config.value_bits_sink_outlier,
                    {},
                    {},
                    {}}};
  for (Side& side : sides) {
    side.widths.resize(heads * dim / 2);
    side.clipped.resize(heads);
    for (int64_t head = 0; head < heads; ++head) {
      uint8_t* widths = side.widths.data() + head * dim / 2;
      choose_widths(side.outliers.const_data_ptr<bool>() + head * dim, dim, side.bits,
                    side.outlier_bits, widths);
      side.bytes.push_back(format::channel_block_bytes(
          static_cast<int>(dim), static_cast<int>(block_size), true, width_sum(widths, dim)));
    }
  }
  auto block = allocate(keys.size(0), sides[0].bytes, sides[1].bytes);
  const auto& kernel = kernels::cpu::kernels();
  parallel_tasks(2 * heads, [&](int64_t task) {
    const int64_t head = task / 2;
    Side& side = sides[task % 2];
    const auto& pointers = task % 2 == 0 ? block->keys : block->values;
    side.clipped[head] = kernel.pack_channels_symmetric(
        pack_params(side.x, head, block_size), side.absmax.const_data_ptr<float>() + head * dim,
        side.widths.data() + head * dim / 2, const_cast<uint8_t*>(pointers[head]));
  });

  BlockTally& tally = block->tally;
  for (int64_t head = 0; head < heads; ++head) {
    count_widths(sides[0].widths.data() + head * dim / 2, dim, tally.key_widths);
    count_widths(sides[1].widths.data() + head * dim / 2, dim, tally.value_widths);
    tally.key_clipped += sides[0].clipped[head];
    tally.value_clipped += sides[1].clipped[head];
  }
  tally.key_outliers = key_outliers.sum().item<int64_t>();
  tally.value_outliers = value_outliers.sum().item<int64_t>();
  return block;
}

QuantizerImpl::Dequantized QuantizerImpl::dequantize(const SealedBlock& block) const {
  const CompressionConfig& config = options_.config;
  const int64_t heads = options_.kv_heads, dim = options_.head_dim, tokens = block.tokens;
  const int block_size = static_cast<int>(config.block_size), idim = static_cast<int>(dim);
  const bool ema = config.policy == Policy::kEma;
  at::Tensor keys = at::empty({heads, tokens, dim}), values = at::empty({heads, tokens, dim});
  for (int64_t head = 0; head < heads; ++head) {
    float* k = keys.mutable_data_ptr<float>() + head * tokens * dim;
    float* v = values.mutable_data_ptr<float>() + head * tokens * dim;
    kernels::cpu::unpack_channels(block.keys[head], static_cast<int>(tokens), block_size, idim, ema,
                                  k);
    if (ema) {
      kernels::cpu::unpack_channels(block.values[head], static_cast<int>(tokens), block_size, idim,
                                    true, v);
    } else {
      kernels::cpu::unpack_tokens(block.values[head], static_cast<int>(tokens), block_size, idim,
                                  static_cast<int>(value_groups_), false,
                                  static_cast<int>(config.value_bits), v);
    }
  }
  return {keys.transpose(0, 1), values.transpose(0, 1)};
}

void QuantizerImpl::check_representable(const at::Tensor& x, const char* what) const {
  if (x.size(0) == 0) return;
  const int64_t heads = x.size(1), dim = x.size(2);
  std::vector<float> largest(heads);
  const auto check = [&](int64_t head) {
    std::vector<float> absmax(dim);
    kernels::cpu::kernels().absmax(pack_params(x, head, x.size(0)), absmax.data());
    float most = 0;
    for (float value : absmax) {
      if (!(value <= most)) most = value;  // keeps NaN
      if (std::isnan(most)) break;
    }
    largest[head] = most;
  };
  if (x.size(0) == 1) {
    for (int64_t head = 0; head < heads; ++head) check(head);
  } else {
    parallel_tasks(heads, check);
  }
  for (int64_t head = 0; head < heads; ++head) {
    RILLKV_CHECK(largest[head] <= format::kMaxMagnitude, "expected finite ", what,
                 " of magnitude at most ", format::kMaxMagnitude, ", got ", largest[head],
                 " in head ", head);
  }
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
