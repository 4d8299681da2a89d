// Online statistics of keys with error feedback: where the queries look, and with what they look
// together.
#pragma once

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

#include <cstdint>

namespace rillkv {

struct StatisticsAccess;

struct QueryMomentOptions {
  int64_t heads = 1;
  int64_t kv_heads = 1;  ///< divides heads
  int64_t head_dim = 64;
  double decay = 0.9;  ///< a block
};

/// Decaying sum over tokens of q q^T of each kv head, before RoPE: the second moment of recent
/// queries up to a factor, which is the Hessian of the squared logit error with respect to a key's
/// error (GPTQ, arXiv 2210.17323, section 3, with the queries as the calibration data that never
/// had to be collected).
///
/// Sums run over tokens in ascending order and, for each, over the kv head's query heads in
/// ascending order, in f32 with fused multiply-add: the result depends neither on how the tokens
/// were chunked nor on the instruction set. Ending a block multiplies it by `decay`. State lives in
/// buffers, so torch::save and torch::load work as for any module. Not thread-safe.
class QueryMomentImpl : public torch::nn::Module {
 public:
  /// Throws Error for an unusable shape or a decay outside [0, 1).
  explicit QueryMomentImpl(const QueryMomentOptions& options);

  /// Adds queries [T, heads, head_dim] before RoPE (f32, bf16 or f16 on the CPU, channels
  /// contiguous) to the open block. Throws Error for anything else.
  void accumulate(const at::Tensor& queries);
  /// [kv_heads, floats] f32 on the CPU, each the lower triangle of a head's moment in tiles of 16 x
  /// 16 (kernels/moment_layout.h).
  const at::Tensor& moments() const { return moments_; }
  /// The same in full, [kv_heads, head_dim, head_dim] f32.
  at::Tensor matrices() const;
  /// Ends the open block. Throws Error if it has no tokens.
  void seal();
  /// Tokens in the open block.
  int64_t pending() const { return tokens_.item<int64_t>(); }
  /// Forgets everything.
  void reset();

 private:
  friend struct StatisticsAccess;

  QueryMomentOptions options_;
  at::Tensor moments_;  // [kv_heads, moment_floats(head_dim)] f32
  at::Tensor tokens_;   // i64 scalar, tokens of the open block
};
TORCH_MODULE(QueryMoment);

}  // namespace rillkv
