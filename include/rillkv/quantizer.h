// The mixed-precision quantiser: blocks of keys and values to packed bytes and back.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "rillkv/compression_config.h"
#include "rillkv/sealed_block.h"

namespace rillkv {

/// Where the bytes of a block come from: returns u8 [bytes], 64-byte aligned, all zero.
using BlockAllocator = std::function<at::Tensor(int64_t bytes)>;
/// An allocation of the CPU's own for every block.
at::Tensor allocate_zeros(int64_t bytes);

struct QuantizerOptions {
  int64_t kv_heads = 1;
  int64_t head_dim = 64;  ///< even
  CompressionConfig config;
};

/// Quantises blocks for one model shape and configuration, on the CPU (a cache on a CUDA device
/// seals there, to the same bytes). Stateless and const: one may serve every layer, sequence and
/// thread. Statistics come from StreamingStats ("ema") and QueryEnergy
/// ("adaptive").
///
/// Keys are quantised before RoPE, per channel (KVQuant, arXiv 2401.18079, section 3.1); values per
/// token and group after a Walsh-Hadamard rotation ("adaptive"; QuaRot, arXiv 2404.00456) or per
/// channel ("ema").
class QuantizerImpl : public torch::nn::Module {
 public:
  explicit QuantizerImpl(const QuantizerOptions& options);

  /// Policy "adaptive". keys, values: [tokens, kv_heads, head_dim] f32, bf16 or f16, tokens <=
  /// block_size, keys before RoPE, values already rotated where `rotates_values`; energy:
  /// [kv_heads, head_dim] f32.
  std::shared_ptr<SealedBlock> seal_adaptive(const at::Tensor& keys, const at::Tensor& values,
                                             const at::Tensor& energy,
                                             const BlockAllocator& allocate = allocate_zeros) const;
  /// Policy "ema". absmax: [kv_heads, head_dim] f32; outliers: the same shape, bool.
  std::shared_ptr<SealedBlock> seal_ema(const at::Tensor& keys, const at::Tensor& values,
                                        const at::Tensor& key_absmax,
                                        const at::Tensor& key_outliers,
                                        const at::Tensor& value_absmax,
                                        const at::Tensor& value_outliers,
                                        const BlockAllocator& allocate = allocate_zeros) const;

  struct Dequantized {
    at::Tensor keys;    ///< [tokens, kv_heads, head_dim] f32, before RoPE
    at::Tensor values;  ///< the same shape; still rotated where `rotates_values`
  };
  /// On the CPU, wherever the block is.
  Dequantized dequantize(const SealedBlock& block) const;

  /// Throws Error unless every element of x [tokens, heads, head_dim] is finite and within what
  /// fp16 metadata can represent; `what` names x in the message.
  void check_representable(const at::Tensor& x, const char* what) const;

  /// y = H x / sqrt(head_dim) for every token and head; its own inverse. x: [tokens, heads,
  /// head_dim].
  at::Tensor rotate_values(const at::Tensor& x) const;
  /// Whether values are rotated: policy "adaptive", asked for, and head_dim a power of two.
  bool rotates_values() const { return rotates_values_; }
  /// Whether value blocks are channel-major (policy "ema") rather than token-major.
  bool channel_major_values() const { return options_.config.policy == Policy::kEma; }
  int64_t value_groups() const { return value_groups_; }
  /// Policy "adaptive": the mean width that every key block has, `key_bits_mean` rounded down to
  /// whole increments a head.
  double key_bits_mean() const;
  const QuantizerOptions& options() const { return options_; }

  /// Policy "adaptive": bytes of every kv head's block of keys, and of values; all the same.
  std::vector<size_t> adaptive_key_bytes() const;
  std::vector<size_t> adaptive_value_bytes() const;
  /// Policy "adaptive": widths a channel pair may take, and the steps from one to the next that
  /// every head spends on its pairs.
  const std::vector<int>& classes() const { return classes_; }
  int increments() const { return increments_; }

 private:
  QuantizerOptions options_;
  bool rotates_values_ = false;
  int64_t value_groups_ = 1;
  std::vector<int> classes_;
  int increments_ = 0;  // steps to the next class that every head spends
};
TORCH_MODULE(Quantizer);

}  // namespace rillkv
