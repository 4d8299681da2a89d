#include "rillkv/query_moment.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "core/assert.h"
#include "core/check_tensor.h"
#include "core/cpu_kernels.h"
#include "core/kernel_views.h"
#include "core/parallel.h"
#include "core/statistics_access.h"
#include "kernels/moment_layout.h"
#include "rillkv/error.h"

namespace rillkv {

QueryMomentImpl::QueryMomentImpl(const QueryMomentOptions& options) : options_(options) {
  RILLKV_CHECK(options.kv_heads >= 1 && options.heads >= 1 && options.heads % options.kv_heads == 0,
               "QueryMoment: expected heads to be a multiple of kv_heads, got ", options.heads,
               " and ", options.kv_heads);
  RILLKV_CHECK(options.head_dim >= 2 && options.head_dim % 2 == 0,
               "QueryMoment: expected an even head_dim, got ", options.head_dim);
  RILLKV_CHECK(options.decay >= 0 && options.decay < 1,
               "QueryMoment: expected 0 <= decay < 1, got ", options.decay);
  const int64_t floats = kernels::moment_floats(static_cast<int>(options.head_dim));
  moments_ = register_buffer("moments", at::zeros({options.kv_heads, floats}));
  tokens_ = register_buffer("tokens", at::zeros({}, at::kLong));
}

void QueryMomentImpl::accumulate(const at::Tensor& queries) {
  check_activation(queries, options_.heads, options_.head_dim, "QueryMoment::accumulate",
                   "queries");
  if (queries.size(0) == 0) return;
  const auto group = static_cast<int32_t>(options_.heads / options_.kv_heads);
  float* moments = moments_.mutable_data_ptr<float>();
  const auto add = [&](int64_t kv_head) {
    cpu_kernels().add_moment(pack_params(queries, kv_head, queries.size(0)), group,
                             moments + kv_head * moments_.size(1));
  };
  for_each_head(queries.size(0), options_.kv_heads, add);
  *tokens_.mutable_data_ptr<int64_t>() += queries.size(0);
}

void StatisticsAccess::replace_moments(QueryMomentImpl& moment, const at::Tensor& moments,
                                       int64_t tokens) {
  RILLKV_ASSERT(tokens > 0 && moments.sizes() == moment.moments_.sizes());
  std::copy_n(moments.const_data_ptr<float>(), moments.numel(),
              moment.moments_.mutable_data_ptr<float>());
  *moment.tokens_.mutable_data_ptr<int64_t>() += tokens;
}

at::Tensor QueryMomentImpl::matrices() const {
  const int64_t dim = options_.head_dim;
  at::Tensor full = at::empty({options_.kv_heads, dim, dim});
  for (int64_t head = 0; head < options_.kv_heads; ++head) {
    const float* from = moments_.const_data_ptr<float>() + head * moments_.size(1);
    float* to = full.mutable_data_ptr<float>() + head * dim * dim;
    for (int i = 0; i < dim; ++i) {
      for (int j = 0; j <= i; ++j) {
        to[i * dim + j] = to[j * dim + i] = from[kernels::moment_at(i, j)];
      }
    }
  }
  return full;
}

void QueryMomentImpl::seal() {
  RILLKV_CHECK(*tokens_.const_data_ptr<int64_t>() > 0,
               "QueryMoment: expected queries of the open block, got none");
  const auto decay = static_cast<float>(options_.decay);
  float* moments = moments_.mutable_data_ptr<float>();
  for (int64_t i = 0; i < moments_.numel(); ++i) moments[i] *= decay;
  *tokens_.mutable_data_ptr<int64_t>() = 0;
}

void QueryMomentImpl::reset() {
  moments_.zero_();
  tokens_.zero_();
}

}  // namespace rillkv
