// Online statistics of policy "adaptive": where the queries look.
#pragma once

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

#include <cstdint>

namespace rillkv {

struct StatisticsAccess;

struct QueryEnergyOptions {
  int64_t heads = 1;
  int64_t kv_heads = 1;  ///< divides heads
  int64_t head_dim = 64;
  double decay = 0.9;  ///< of the EMA, a block
};

/// EMA over blocks of the mean squared query of each kv head and channel, before RoPE: the weight a
/// key channel's error has in the logits.
///
/// For a block, now = mean of q^2 over its tokens and the kv head's group of query heads. The first
/// seal sets ema = now; later ema = decay * ema + (1 - decay) * now. Sums run over tokens in
/// ascending order a query head, then over the group's heads in ascending order, all in f32 without
/// contraction: the result does not depend on how the tokens were chunked, nor on the instruction
/// set. State lives in buffers, so torch::save and torch::load work as for any module. Not
/// thread-safe.
class QueryEnergyImpl : public torch::nn::Module {
 public:
  explicit QueryEnergyImpl(const QueryEnergyOptions& options);

  /// Adds queries [T, heads, head_dim] before RoPE (f32, bf16 or f16 on the CPU, channels
  /// contiguous) to the open block. Throws Error for anything else.
  void accumulate(const at::Tensor& queries);
  /// Sums of squares over the open block's tokens, [heads, head_dim] f32.
  const at::Tensor& sums() const { return sums_; }
  /// The energies that sealing the open block now would give, [kv_heads, head_dim] f32; changes
  /// nothing. Throws Error if the block has no tokens.
  at::Tensor preview() const;
  /// Ends the open block: updates the EMA and returns it, [kv_heads, head_dim] f32. Throws Error if
  /// the block has no tokens.
  at::Tensor seal();
  /// Tokens in the open block.
  int64_t pending() const { return tokens_.item<int64_t>(); }
  /// Forgets everything.
  void reset();

 private:
  friend struct StatisticsAccess;

  QueryEnergyOptions options_;
  at::Tensor sums_;    // [heads, head_dim] f32, of the open block
  at::Tensor tokens_;  // i64 scalar, tokens of the open block
  at::Tensor ema_;     // [kv_heads, head_dim] f32
  at::Tensor seen_;    // bool scalar: a block has been sealed
};
TORCH_MODULE(QueryEnergy);

}  // namespace rillkv
