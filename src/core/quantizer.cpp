#include "rillkv/quantizer.h"

#include <ATen/ATen.h>

#include <cmath>
#include <limits>
#include <vector>

#include "core/adaptive_layout.h"
#include "core/block_layout.h"
#include "core/check_tensor.h"
#include "core/cpu_kernels.h"
#include "core/cpu_sealing.h"
#include "core/kernel_views.h"
#include "core/parallel.h"
#include "kernels/moment_layout.h"
#include "kernels/packed_format.h"
#include "rillkv/error.h"

namespace rillkv {
namespace {

bool is_power_of_two(int64_t n) { return n > 0 && (n & (n - 1)) == 0; }

void check_policy(const QuantizerOptions& options, Policy policy, const char* function) {
  RILLKV_CHECK(options.config.policy == policy, function, ": expected a quantizer of policy '",
               to_string(policy), "', got '", to_string(options.config.policy), "'");
}

/// What both policies want of a block's keys and values.
void check_block(const QuantizerOptions& options, const at::Tensor& keys, const at::Tensor& values,
                 const char* function) {
  check_activation(keys, options.kv_heads, options.head_dim, function, "keys");
  check_activation(values, options.kv_heads, options.head_dim, function, "values");
  RILLKV_CHECK(keys.size(0) == values.size(0), function, ": expected as many values as keys, got ",
               values.size(0), " and ", keys.size(0));
  RILLKV_CHECK(keys.size(0) >= 1 && keys.size(0) <= options.config.block_size, function,
               ": expected 1..", options.config.block_size, " tokens, got ", keys.size(0));
}

/// Bytes of a symmetric channel block by the widths stored in it; `bytes`: how many there are.
size_t channel_bytes_of(const uint8_t* block, size_t bytes, int head_dim, int block_size) {
  if (bytes < format::channel_codes_offset(head_dim, /*symmetric=*/true)) return 0;
  const uint8_t* widths = block + format::channel_widths_offset(head_dim, /*symmetric=*/true);
  int sum = 0;
  for (int c = 0; c < head_dim; ++c) sum += format::channel_width(widths, c, head_dim);
  return format::channel_block_bytes(head_dim, block_size, /*symmetric=*/true, sum);
}

}  // namespace

QuantizerImpl::QuantizerImpl(const QuantizerOptions& options) : options_(options) {
  RILLKV_CHECK(options.kv_heads >= 1, "Quantizer: expected kv_heads >= 1, got ", options.kv_heads);
  RILLKV_CHECK(options.head_dim >= 2 && options.head_dim % 2 == 0,
               "Quantizer: expected an even head_dim, got ", options.head_dim);
  options.config.validate_for(options.head_dim);
  RILLKV_CHECK(!options.config.feeds_back() ||
                   static_cast<int64_t>(options.inverse_frequencies.size()) == options.head_dim / 2,
               "Quantizer: expected ", options.head_dim / 2,
               " inverse frequencies for error feedback, got ", options.inverse_frequencies.size());
  const CompressionConfig& c = options_.config;
  rotates_values_ = c.follows_queries() && c.value_rotation && is_power_of_two(options.head_dim);
  layout_ = std::make_shared<const AdaptiveLayout>(options_);
}

int64_t QuantizerImpl::value_groups() const { return layout_->value_groups; }

double QuantizerImpl::key_bits_mean() const { return layout_->key_bits_mean(); }

std::shared_ptr<SealedBlock> QuantizerImpl::seal_adaptive(const at::Tensor& keys,
                                                          const at::Tensor& values,
                                                          const at::Tensor& statistics) const {
  constexpr const char* kName = "Quantizer::seal_adaptive";
  if (options_.config.policy != Policy::kTrellis) {
    check_policy(options_, Policy::kAdaptive, kName);
  }
  check_block(options_, keys, values, kName);
  if (options_.config.feeds_back()) {
    const int64_t floats = kernels::moment_floats(static_cast<int>(options_.head_dim));
    check_matrix(statistics, options_.kv_heads, floats, at::kFloat, kName, "moments");
    RILLKV_CHECK(at::isfinite(statistics).all().item<bool>(), kName,
                 ": expected finite moments, got NaN or infinity");
  } else {
    check_matrix(statistics, options_.kv_heads, options_.head_dim, at::kFloat, kName, "energy");
    check_range(statistics, std::numeric_limits<float>::max(), kName, "energy");
  }
  check_representable(keys, "keys");
  check_representable(values, "values");
  return seal_adaptive_on_cpu(options_, *layout_, keys, values, statistics, allocate_zeros);
}

std::shared_ptr<SealedBlock> QuantizerImpl::seal_ema(const at::Tensor& keys,
                                                     const at::Tensor& values,
                                                     const at::Tensor& key_absmax,
                                                     const at::Tensor& key_outliers,
                                                     const at::Tensor& value_absmax,
                                                     const at::Tensor& value_outliers) const {
  constexpr const char* kName = "Quantizer::seal_ema";
  check_policy(options_, Policy::kEma, kName);
  check_block(options_, keys, values, kName);
  const auto check = [&](const at::Tensor& x, at::ScalarType dtype, const char* name) {
    check_matrix(x, options_.kv_heads, options_.head_dim, dtype, kName, name);
    if (dtype == at::kFloat) check_range(x, format::kMaxMagnitude, kName, name);
  };
  check(key_absmax, at::kFloat, "key_absmax");
  check(key_outliers, at::kBool, "key_outliers");
  check(value_absmax, at::kFloat, "value_absmax");
  check(value_outliers, at::kBool, "value_outliers");
  check_representable(keys, "keys");
  check_representable(values, "values");
  return seal_ema_on_cpu(options_, keys, values, {key_absmax, key_outliers},
                         {value_absmax, value_outliers}, allocate_zeros);
}

QuantizerImpl::Dequantized QuantizerImpl::dequantize(const SealedBlock& block) const {
  const CompressionConfig& config = options_.config;
  const int64_t heads = options_.kv_heads, dim = options_.head_dim, tokens = block.tokens;
  const int block_size = static_cast<int>(config.block_size), idim = static_cast<int>(dim);
  RILLKV_CHECK(config.policy != Policy::kDense,
               "Quantizer::dequantize: expected a quantizer of a policy that seals, got 'dense'");
  const bool ema = config.policy == Policy::kEma;
  RILLKV_CHECK(tokens >= 1 && tokens <= config.block_size,
               "Quantizer::dequantize: expected a block of 1..", config.block_size, " tokens, got ",
               tokens);
  RILLKV_CHECK(block.keys.size() == static_cast<size_t>(heads) &&
                   block.values.size() == static_cast<size_t>(heads),
               "Quantizer::dequantize: expected a block of ", heads, " kv heads, got ",
               block.keys.size(), " of keys and ", block.values.size(), " of values");
  RILLKV_CHECK(block.storage.defined() && block.storage.scalar_type() == at::kByte &&
                   block.storage.is_contiguous(),
               "Quantizer::dequantize: expected contiguous storage of bytes, got ",
               describe(block.storage));
  const at::Tensor bytes = block.storage.cpu();
  const uint8_t* device_begin = block.storage.const_data_ptr<uint8_t>();
  const uint8_t* host_begin = bytes.const_data_ptr<uint8_t>();
  const uint8_t* device_end = device_begin + bytes.numel();
  // Heads follow each other: keys, then values. Every part must be as long as this quantiser's are.
  const auto host = [&](int64_t part) {
    const auto pointer = [&](int64_t i) {
      return i < heads ? block.keys[i] : i < 2 * heads ? block.values[i - heads] : device_end;
    };
    const uint8_t *begin = pointer(part), *end = pointer(part + 1);
    RILLKV_CHECK(device_begin <= begin && begin < end && end <= device_end,
                 "Quantizer::dequantize: expected kv heads one after the other in the storage, "
                 "got another order");
    const auto found = static_cast<size_t>(end - begin);
    const uint8_t* data = host_begin + (begin - device_begin);
    const size_t expected = ema            ? channel_bytes_of(data, found, idim, block_size)
                            : part < heads ? layout_->key_bytes()
                                           : layout_->value_bytes();
    RILLKV_CHECK(found == expected,
                 "Quantizer::dequantize: expected a block of this quantizer's configuration, got "
                 "one with ",
                 found, " bytes of ", part < heads ? "keys" : "values", " a head");
    return data;
  };
  at::Tensor keys = at::empty({heads, tokens, dim}), values = at::empty({heads, tokens, dim});
  for (int64_t head = 0; head < heads; ++head) {
    float* k = keys.mutable_data_ptr<float>() + head * tokens * dim;
    float* v = values.mutable_data_ptr<float>() + head * tokens * dim;
    if (layout_->trellis) {
      kernels::cpu::unpack_trellis_keys(host(head), static_cast<int>(tokens), block_size, idim, k);
      kernels::cpu::unpack_trellis_values(host(heads + head), static_cast<int>(tokens), block_size,
                                          idim, layout_->value_bits, layout_->wide_pairs, v);
      continue;
    }
    kernels::cpu::unpack_channels(host(head), static_cast<int>(tokens), block_size, idim, ema, k);
    if (ema) {
      kernels::cpu::unpack_channels(host(heads + head), static_cast<int>(tokens), block_size, idim,
                                    true, v);
    } else {
      kernels::cpu::unpack_tokens(host(heads + head), static_cast<int>(tokens), block_size, idim,
                                  layout_->value_groups, false, layout_->value_bits, v);
    }
  }
  return {keys.transpose(0, 1), values.transpose(0, 1)};
}

void QuantizerImpl::check_representable(const at::Tensor& x, const char* what) const {
  RILLKV_CHECK(x.defined() && x.dim() == 3,
               "Quantizer::check_representable: expected [tokens, heads, head_dim], got ",
               describe(x));
  check_activation(x, x.size(1), options_.head_dim, "Quantizer::check_representable", what);
  if (x.size(0) == 0) return;
  const int64_t heads = x.size(1), dim = x.size(2);
  std::vector<float> largest(heads);
  const auto check = [&](int64_t head, std::vector<float>& absmax) {
    cpu_kernels().absmax(pack_params(x, head, x.size(0)), absmax.data());
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
  constexpr const char* kName = "Quantizer::rotate_values";
  RILLKV_CHECK(is_power_of_two(options_.head_dim), kName,
               ": expected a head_dim that is a power of two, got ", options_.head_dim);
  RILLKV_CHECK(x.defined() && x.dim() == 3, kName, ": expected [tokens, heads, head_dim], got ",
               describe(x));
  check_activation(x, x.size(1), options_.head_dim, kName, "values");
  at::Tensor out = at::empty({x.size(0), x.size(1), x.size(2)}, x.options());
  if (x.size(0) == 0) return out;
  const kernels::MutableActivation target = mutable_activation(out);
  const auto rotate = [&](int64_t head) {
    cpu_kernels().hadamard(pack_params(x, head, x.size(0)), target);
  };
  for_each_head(x.size(0), x.size(1), rotate);
  return out;
}

}  // namespace rillkv
