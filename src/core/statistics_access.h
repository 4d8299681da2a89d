// Statistics that were computed elsewhere than in their module: what CUDA reduced, put into
// QueryEnergy, QueryMoment and StreamingStats.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "rillkv/query_energy.h"
#include "rillkv/query_moment.h"
#include "rillkv/streaming_stats.h"

namespace rillkv {

struct StatisticsAccess {
  /// As QueryEnergy::accumulate of `tokens` tokens after which the sums, in the documented order,
  /// are `sums`: [heads, head_dim] f32 on the CPU.
  static void replace_sums(QueryEnergyImpl& energy, const at::Tensor& sums, int64_t tokens);
  /// As QueryMoment::accumulate of `tokens` tokens after which the moments are `moments`.
  static void replace_moments(QueryMomentImpl& moment, const at::Tensor& moments, int64_t tokens);
  /// As StreamingStats::update of `tokens` tokens whose largest magnitudes are `absmax`: [kv_heads,
  /// head_dim] f32 on the CPU.
  static void update_absmax(StreamingStatsImpl& stats, const at::Tensor& absmax, int64_t tokens);
};

}  // namespace rillkv
