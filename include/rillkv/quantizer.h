// The mixed-precision quantiser: blocks of keys and values to packed bytes and back.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "rillkv/compression_config.h"
#include "rillkv/sealed_block.h"

namespace rillkv {

struct AdaptiveLayout;

struct QuantizerOptions {
  int64_t kv_heads = 1;
  int64_t head_dim = 64;  ///< even
  CompressionConfig config;
  /// Of RoPE, [head_dim / 2]; with error feedback only.
  std::vector<double> inverse_frequencies = {};
};

/// Quantises blocks for one model shape and configuration, on the CPU (a cache on a CUDA device
/// seals there, to the same bytes). Stateless and const: one may serve every layer, sequence and
/// thread. Statistics come from StreamingStats ("ema"), QueryEnergy ("adaptive") and QueryMoment
/// (with error feedback).
///
/// Keys are quantised before RoPE, per channel (KVQuant, arXiv 2401.18079, section 3.1); values per
/// token and group after a Walsh-Hadamard rotation ("adaptive"; QuaRot, arXiv 2404.00456) or per
/// channel ("ema").
class QuantizerImpl : public torch::nn::Module {
 public:
  /// Throws Error for an unusable shape, UsageError for a configuration that does not fit it.
  explicit QuantizerImpl(const QuantizerOptions& options);

  /// Policies "adaptive" and "trellis". keys, values: [tokens, kv_heads, head_dim] f32, bf16 or f16
  /// on the CPU, 1 to block_size tokens, keys before RoPE, values already rotated where
  /// `rotates_values`; statistics: QueryEnergy's energies, [kv_heads, head_dim] f32, none negative,
  /// or with error feedback QueryMoment's moments. Throws Error for anything else, and for keys and
  /// values that `check_representable` refuses.
  std::shared_ptr<SealedBlock> seal_adaptive(const at::Tensor& keys, const at::Tensor& values,
                                             const at::Tensor& statistics) const;
  /// Policy "ema". keys, values: as above. absmax: [kv_heads, head_dim] f32 in 0..32752, of which
  /// the scales are made; outliers: the same shape, bool. Throws Error as above.
  std::shared_ptr<SealedBlock> seal_ema(const at::Tensor& keys, const at::Tensor& values,
                                        const at::Tensor& key_absmax,
                                        const at::Tensor& key_outliers,
                                        const at::Tensor& value_absmax,
                                        const at::Tensor& value_outliers) const;

  struct Dequantized {
    at::Tensor keys;    ///< [tokens, kv_heads, head_dim] f32, before RoPE
    at::Tensor values;  ///< the same shape; still rotated where `rotates_values`
  };
  /// On the CPU, wherever the block is. Throws Error for a block that a quantiser of these options
  /// cannot have sealed.
  Dequantized dequantize(const SealedBlock& block) const;

  /// Throws Error unless every element of x [tokens, heads, head_dim], on the CPU, is finite and of
  /// magnitude at most 32752, what the format's fp16 scales can cover; `what` names x in the
  /// message.
  void check_representable(const at::Tensor& x, const char* what) const;

  /// y = H x / sqrt(head_dim) for every token and head; its own inverse. x: [tokens, heads,
  /// head_dim] on the CPU. Throws Error unless head_dim is a power of two.
  at::Tensor rotate_values(const at::Tensor& x) const;
  /// Whether values are rotated: policy "adaptive" or "trellis", asked for, and head_dim a power of
  /// two.
  bool rotates_values() const { return rotates_values_; }
  /// Whether value blocks are channel-major (policy "ema") rather than token-major.
  bool channel_major_values() const { return options_.config.policy == Policy::kEma; }
  /// Policy "adaptive": groups of channels that share a value scale, a head.
  int64_t value_groups() const;
  /// Policies "adaptive" and "trellis": the mean width that every key block has, `key_bits_mean`
  /// rounded down to whole increments a head.
  double key_bits_mean() const;
  /// How its blocks are laid out under those policies.
  const AdaptiveLayout& layout() const { return *layout_; }
  const QuantizerOptions& options() const { return options_; }

 private:
  QuantizerOptions options_;
  bool rotates_values_ = false;
  std::shared_ptr<const AdaptiveLayout> layout_;
};
TORCH_MODULE(Quantizer);

}  // namespace rillkv
