#include "rillkv/streaming_stats.h"

#include <ATen/ATen.h>

#include <cmath>
#include <numeric>

#include "core/assert.h"
#include "core/check_tensor.h"
#include "core/statistics_access.h"
#include "rillkv/error.h"

namespace rillkv {

StreamingStatsImpl::StreamingStatsImpl(const StreamingStatsOptions& options) : options_(options) {
  RILLKV_CHECK(options.kv_heads >= 1 && options.head_dim >= 1,
               "StreamingStats: expected kv_heads >= 1 and head_dim >= 1, got ", options.kv_heads,
               " and ", options.head_dim);
  RILLKV_CHECK(
      options.groups == -1 || (options.groups >= 1 && options.head_dim % options.groups == 0),
      "StreamingStats: expected groups -1 or a divisor of head_dim ", options.head_dim, ", got ",
      options.groups);
  RILLKV_CHECK(options.decay > 0 && options.decay < 1,
               "StreamingStats: expected 0 < decay < 1, got ", options.decay);
  RILLKV_CHECK(options.chunk_size >= 1, "StreamingStats: expected chunk_size >= 1, got ",
               options.chunk_size);
  ema_ = register_buffer("ema", at::zeros({options.kv_heads, columns()}));
  seen_ = register_buffer("seen", at::zeros({}, at::kBool));
  outliers_ = register_buffer("outliers", at::zeros({options.kv_heads, columns()}, at::kBool));
  pending_tokens_ = register_buffer("pending_tokens", at::zeros({0}, at::kLong));
  pending_flags_ =
      register_buffer("pending_flags", at::zeros({0, options.kv_heads, columns()}, at::kBool));
}

int64_t StreamingStatsImpl::columns() const {
  return options_.groups == -1 ? options_.head_dim : options_.groups;
}

void StreamingStatsImpl::reset() {
  ema_.zero_();
  seen_.zero_();
  outliers_.zero_();
  pending_tokens_.resize_({0});
  pending_flags_.resize_({0, options_.kv_heads, columns()});
}

void StreamingStatsImpl::update(const at::Tensor& x) {
  RILLKV_CHECK(x.defined() && x.dim() == 3 && x.size(0) == options_.kv_heads &&
                   x.size(2) == options_.head_dim && x.is_floating_point() && x.is_cpu(),
               "StreamingStats::update: expected [", options_.kv_heads, ", tokens, ",
               options_.head_dim, "] of a floating dtype on the cpu, got ", describe(x));
  if (x.size(1) == 0) return;
  take(x.abs().amax(1).to(at::kFloat), x.size(1));
}

void StatisticsAccess::update_absmax(StreamingStatsImpl& stats, const at::Tensor& absmax,
                                     int64_t tokens) {
  RILLKV_ASSERT(tokens > 0 && absmax.size(0) == stats.options_.kv_heads &&
                absmax.size(1) == stats.options_.head_dim);
  stats.take(absmax, tokens);
}

/// absmax: [kv_heads, head_dim] f32 over `tokens` tokens.
void StreamingStatsImpl::take(const at::Tensor& absmax, int64_t tokens) {
  RILLKV_CHECK(at::isfinite(absmax).all().item<bool>(),
               "StreamingStats::update: expected finite values, got NaN or infinity");
  // A chunk of T tokens moves the EMA as far as T / chunk_size full chunks would.
  const at::Tensor now = options_.groups == -1
                             ? absmax
                             : absmax.view({options_.kv_heads, options_.groups, -1}).amax(2);
  at::Tensor outliers = at::zeros_like(now, at::kBool);
  if (options_.threshold_abs) outliers = outliers | (now > *options_.threshold_abs);
  if (empty()) {
    ema_.copy_(now);
    seen_.fill_(true);
  } else {
    if (options_.threshold_relative) {
      outliers = outliers | (now > ema_ * *options_.threshold_relative);
    }
    const double decay = std::pow(
        options_.decay, static_cast<double>(tokens) / static_cast<double>(options_.chunk_size));
    ema_.mul_(decay).add_(now * (1 - decay));
  }
  outliers_.copy_(outliers);
  // In place: the registered buffer must stay the same tensor.
  pending_tokens_.set_(
      at::cat({pending_tokens_, at::full({1}, tokens, pending_tokens_.options())}));
  pending_flags_.set_(at::cat({pending_flags_, outliers.unsqueeze(0)}));
}

at::Tensor StreamingStatsImpl::ema() const {
  RILLKV_CHECK(!empty(), "StreamingStats::ema: expected at least one chunk, got none");
  return ema_.clamp_min(kFloor);
}

at::Tensor StreamingStatsImpl::outliers() const { return outliers_.clone(); }

at::Tensor StreamingStatsImpl::block_outliers(int64_t tokens) const {
  RILLKV_CHECK(tokens >= 0, "StreamingStats::block_outliers: expected tokens >= 0, got ", tokens);
  at::Tensor flags = at::zeros_like(ema_, at::kBool);
  const int64_t* pending = pending_tokens_.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < pending_tokens_.size(0) && tokens > 0; tokens -= pending[i], ++i) {
    flags = flags | pending_flags_[i];
  }
  return flags;
}

void StreamingStatsImpl::consume(int64_t tokens) {
  int64_t* pending = pending_tokens_.data_ptr<int64_t>();
  const int64_t unsealed = std::accumulate(pending, pending + pending_tokens_.size(0), int64_t{0});
  RILLKV_CHECK(tokens >= 0 && tokens <= unsealed, "StreamingStats::consume: expected 0..", unsealed,
               " tokens, as many as are unsealed, got ", tokens);
  int64_t first = 0;
  for (; first < pending_tokens_.size(0) && tokens >= pending[first]; ++first) {
    tokens -= pending[first];
  }
  if (first < pending_tokens_.size(0)) pending[first] -= tokens;
  pending_tokens_.set_(pending_tokens_.slice(0, first).clone());
  pending_flags_.set_(pending_flags_.slice(0, first).clone());
}

at::Tensor StreamingStatsImpl::per_channel(const at::Tensor& statistic) const {
  RILLKV_CHECK(statistic.defined() && statistic.dim() == 2 &&
                   statistic.size(0) == options_.kv_heads && statistic.size(1) == columns(),
               "StreamingStats::per_channel: expected [", options_.kv_heads, ", ", columns(),
               "], got ", describe(statistic));
  return options_.groups == -1
             ? statistic
             : statistic.repeat_interleave(options_.head_dim / options_.groups, 1);
}

}  // namespace rillkv
