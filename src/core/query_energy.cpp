#include "rillkv/query_energy.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "core/assert.h"
#include "core/check_tensor.h"
#include "core/cpu_kernels.h"
#include "core/kernel_views.h"
#include "core/parallel.h"
#include "core/statistics_access.h"
#include "rillkv/error.h"

namespace rillkv {

QueryEnergyImpl::QueryEnergyImpl(const QueryEnergyOptions& options) : options_(options) {
  RILLKV_CHECK(options.kv_heads >= 1 && options.heads >= 1 && options.heads % options.kv_heads == 0,
               "QueryEnergy: expected heads to be a multiple of kv_heads, got ", options.heads,
               " and ", options.kv_heads);
  RILLKV_CHECK(options.head_dim >= 1, "QueryEnergy: expected head_dim >= 1, got ",
               options.head_dim);
  RILLKV_CHECK(options.decay >= 0 && options.decay < 1,
               "QueryEnergy: expected 0 <= decay < 1, got ", options.decay);
  sums_ = register_buffer("sums", at::zeros({options.heads, options.head_dim}));
  tokens_ = register_buffer("tokens", at::zeros({}, at::kLong));
  ema_ = register_buffer("ema", at::zeros({options.kv_heads, options.head_dim}));
  seen_ = register_buffer("seen", at::zeros({}, at::kBool));
}

void QueryEnergyImpl::accumulate(const at::Tensor& queries) {
  check_activation(queries, options_.heads, options_.head_dim, "QueryEnergy::accumulate",
                   "queries");
  if (queries.size(0) == 0) return;
  const kernels::cpu::PackParams all = pack_params(queries, 0, queries.size(0));
  float* sums = sums_.mutable_data_ptr<float>();
  const auto add = [&](int64_t head) {
    kernels::cpu::PackParams one = all;
    one.kv_head = static_cast<int32_t>(head);
    cpu_kernels().add_squares(one, sums + head * options_.head_dim);
  };
  for_each_head(queries.size(0), options_.heads, add);
  *tokens_.mutable_data_ptr<int64_t>() += queries.size(0);
}

void StatisticsAccess::replace_sums(QueryEnergyImpl& energy, const at::Tensor& sums,
                                    int64_t tokens) {
  RILLKV_ASSERT(tokens > 0 && sums.numel() == energy.sums_.numel());
  energy.sums_.copy_(sums);
  *energy.tokens_.mutable_data_ptr<int64_t>() += tokens;
}

at::Tensor QueryEnergyImpl::preview() const {
  const int64_t tokens = *tokens_.const_data_ptr<int64_t>();
  RILLKV_CHECK(tokens > 0, "QueryEnergy: expected queries of the open block, got none");
  const int64_t group = options_.heads / options_.kv_heads, dim = options_.head_dim;
  const float count = static_cast<float>(tokens * group);
  const bool seen = *seen_.const_data_ptr<bool>();
  const float keep = static_cast<float>(options_.decay);
  const float take = static_cast<float>(1 - options_.decay);
  at::Tensor energy = at::empty_like(ema_);
  const float* sums = sums_.const_data_ptr<float>();
  const float* ema = ema_.const_data_ptr<float>();
  float* out = energy.mutable_data_ptr<float>();
  for (int64_t kv_head = 0; kv_head < options_.kv_heads; ++kv_head) {
    for (int64_t c = 0; c < dim; ++c) {
      float sum = 0;
      for (int64_t g = 0; g < group; ++g) sum += sums[(kv_head * group + g) * dim + c];
      const float now = sum / count;
      const int64_t i = kv_head * dim + c;
      const float kept = keep * ema[i], taken = take * now;
      out[i] = seen ? kept + taken : now;
    }
  }
  return energy;
}

// Through pointers: a dispatched operation on so few numbers costs more than all of this.
at::Tensor QueryEnergyImpl::seal() {
  const at::Tensor now = preview();
  std::copy_n(now.const_data_ptr<float>(), now.numel(), ema_.mutable_data_ptr<float>());
  std::fill_n(sums_.mutable_data_ptr<float>(), sums_.numel(), 0.0f);
  *seen_.mutable_data_ptr<bool>() = true;
  *tokens_.mutable_data_ptr<int64_t>() = 0;
  return ema_;
}

void QueryEnergyImpl::reset() {
  sums_.zero_();
  tokens_.zero_();
  ema_.zero_();
  seen_.zero_();
}

}  // namespace rillkv
