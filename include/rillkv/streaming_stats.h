// Online statistics of policy "ema": how the original system finds its scales and outliers.
#pragma once

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

#include <cstdint>
#include <optional>

namespace rillkv {

struct StatisticsAccess;

struct StreamingStatsOptions {
  int64_t kv_heads = 1;
  int64_t head_dim = 64;
  int64_t groups = -1;  ///< -1: a statistic per channel; n: per group of head_dim / n channels
  int64_t chunk_size = 256;
  double decay = 0.99;  ///< of the EMA, a full chunk
  std::optional<double> threshold_abs = 6.0;
  std::optional<double> threshold_relative = 5.0;
};

/// EMA of the absmax of each channel (or group) of one layer of one sequence, with outlier flags.
///
/// For a chunk of T non-sink tokens, now = max |x|. The first chunk sets ema = now; later
/// ema = d * ema + (1 - d) * now with d = decay^(T / chunk_size). A channel is an outlier of the
/// chunk if now > threshold_abs or, from the second chunk on, now > threshold_relative * (ema
/// before the update). A channel is an outlier of a block if any chunk that fed tokens to the block
/// flagged it.
///
/// State lives in buffers, so torch::save and torch::load work as for any module. Not thread-safe.
/// Follows KVQuant's per-channel keys (arXiv 2401.18079, section 3.1), with the scales found
/// online.
class StreamingStatsImpl : public torch::nn::Module {
 public:
  explicit StreamingStatsImpl(const StreamingStatsOptions& options);

  /// x: [kv_heads, T, head_dim], any floating dtype, on the CPU, the chunk's non-sink tokens. T = 0
  /// changes nothing. Throws Error on a wrong shape or a non-finite value, before any state
  /// changes.
  void update(const at::Tensor& x);

  bool empty() const { return !seen_.item<bool>(); }
  /// [kv_heads, channels or groups] f32, floored at 1e-5. Throws Error before the first chunk.
  at::Tensor ema() const;
  /// The latest chunk's flags, [kv_heads, channels or groups] bool.
  at::Tensor outliers() const;
  /// Flags of the next `tokens` unsealed tokens, or of the oldest chunks that feed them: the OR
  /// over chunks. Throws Error for a negative number.
  at::Tensor block_outliers(int64_t tokens) const;
  /// `tokens` tokens have been sealed into a block. Throws Error unless as many are unsealed.
  void consume(int64_t tokens);
  /// A statistic per channel expanded from groups: [kv_heads, channels or groups] -> [kv_heads,
  /// head_dim]. Throws Error for another shape.
  at::Tensor per_channel(const at::Tensor& statistic) const;

  /// Forgets everything, as if no chunk had been seen.
  void reset();
  const StreamingStatsOptions& options() const { return options_; }

  /// Smallest ema handed out, so that a silent channel still has a scale.
  static constexpr double kFloor = 1e-5;

 private:
  friend struct StatisticsAccess;

  int64_t columns() const;
  void take(const at::Tensor& absmax, int64_t tokens);

  StreamingStatsOptions options_;
  at::Tensor ema_;             // [kv_heads, columns] f32
  at::Tensor seen_;            // bool scalar: a chunk has been seen
  at::Tensor outliers_;        // [kv_heads, columns] bool, of the latest chunk
  at::Tensor pending_tokens_;  // [chunks] i64: unsealed tokens of each chunk, oldest first
  at::Tensor pending_flags_;   // [chunks, kv_heads, columns] bool
};
TORCH_MODULE(StreamingStats);

}  // namespace rillkv
