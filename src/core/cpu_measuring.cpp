#include "core/cpu_measuring.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/assert.h"
#include "core/cpu_kernels.h"
#include "core/kernel_views.h"
#include "core/parallel.h"

namespace rillkv {
namespace {

/// Tokens of a task: keys and values of one are some microseconds' work, and stay in the
/// first-level cache from the rotation to the magnitudes.
constexpr int64_t kTaskTokens = 32;

/// The larger magnitude; NaN if one is.
float larger(float a, float b) { return std::isnan(a) || a >= b ? a : b; }

/// Heads of a tensor [tokens, heads, head_dim] as the kernels take them.
class Heads {
 public:
  explicit Heads(const at::Tensor& x)
      : all_(pack_params(x, 0, x.size(0))), element_bytes_(x.element_size()) {}

  kernels::cpu::PackParams rows(int64_t head, int64_t begin, int64_t end) const {
    kernels::cpu::PackParams p = all_;
    p.input.data = static_cast<const uint8_t*>(p.input.data) +
                   begin * p.input.token_stride * static_cast<int64_t>(element_bytes_);
    p.kv_head = static_cast<int32_t>(head);
    p.tokens = static_cast<int32_t>(end - begin);
    return p;
  }

  /// The largest magnitude in rows [begin, end) of a head; NaN if one is NaN.
  float largest(int64_t head, int64_t begin, int64_t end) const {
    std::vector<float> absmax(all_.head_dim);
    cpu_kernels().absmax(rows(head, begin, end), absmax.data());
    float most = 0;
    for (const float x : absmax) most = larger(x, most);
    return most;
  }

 private:
  kernels::cpu::PackParams all_;
  size_t element_bytes_;
};

/// found: [tasks, heads].
void check(const std::vector<float>& found, int64_t heads, const char* what) {
  std::vector<float> largest(heads);
  for (size_t i = 0; i < found.size(); ++i) {
    float& most = largest[i % static_cast<size_t>(heads)];
    most = larger(found[i], most);
  }
  check_magnitudes(largest, what);
}

}  // namespace

Measured measure_adaptive_on_cpu(const Quantizer& quantizer, const Chunk& chunk,
                                 const at::Tensor& query_sums) {
  const int64_t tokens = chunk.k.size(0), kv_heads = chunk.k.size(1), dim = chunk.k.size(2);
  const int64_t query_heads = chunk.q.size(1), spans = static_cast<int64_t>(chunk.blocks.size());
  const QuantizerOptions& options = quantizer->options();
  const bool feedback = options.config.feeds_back();
  // Energies are summed a query head, moments a kv head.
  const int64_t sum_heads = feedback ? kv_heads : query_heads;
  RILLKV_ASSERT(query_sums.is_contiguous() && query_sums.size(0) == sum_heads);
  const int64_t floats = query_sums.size(1);
  const bool rotates = quantizer->rotates_values();
  Measured measured;
  measured.values = rotates ? at::empty({tokens, kv_heads, dim}, chunk.v.options()) : chunk.v;
  const at::Tensor sums = at::empty({spans, sum_heads, floats}, at::kFloat);
  for (int64_t i = 0; i < spans; ++i) measured.query_sums.push_back(sums[i]);

  const Heads queries(chunk.q), keys(chunk.k), plain(chunk.v), values(measured.values);
  const int64_t row_tasks = (tokens + kTaskTokens - 1) / kTaskTokens;
  std::vector<float> largest_key(row_tasks * kv_heads), largest_value(row_tasks * kv_heads),
      largest_query(query_heads);

  const auto measure_rows = [&](int64_t task) {
    const int64_t begin = task * kTaskTokens, end = std::min(begin + kTaskTokens, tokens);
    for (int64_t head = 0; head < kv_heads; ++head) {
      if (rotates) {
        kernels::MutableActivation out;
        out.data = measured.values.mutable_data_ptr();
        out.token_stride = kv_heads * dim;
        out.head_stride = dim;
        out.data = static_cast<uint8_t*>(out.data) +
                   begin * out.token_stride * static_cast<int64_t>(chunk.v.element_size());
        cpu_kernels().hadamard(plain.rows(head, begin, end), out);
      }
      largest_key[task * kv_heads + head] = keys.largest(head, begin, end);
      largest_value[task * kv_heads + head] = values.largest(head, begin, end);
    }
  };
  float* const sums_data = sums.mutable_data_ptr<float>();
  const float* const open = query_sums.const_data_ptr<float>();
  const auto add_queries = [&](int64_t head) {
    for (int64_t i = 0; i < spans; ++i) {
      float* of_head = sums_data + (i * sum_heads + head) * floats;
      const Span& span = chunk.blocks[i];
      if (i == 0) {
        std::copy_n(open + head * floats, floats, of_head);
      } else if (feedback) {  // as QueryMoment::seal
        const auto decay = static_cast<float>(options.config.query_energy_decay);
        const float* before = of_head - sum_heads * floats;
        for (int64_t k = 0; k < floats; ++k) of_head[k] = before[k] * decay;
      } else {
        std::fill_n(of_head, floats, 0.0f);
      }
      const kernels::cpu::PackParams rows = queries.rows(head, span.begin, span.end);
      if (feedback) {
        cpu_kernels().add_moment(rows, static_cast<int32_t>(query_heads / kv_heads), of_head);
      } else {
        cpu_kernels().add_squares(rows, of_head);
      }
    }
  };
  parallel_tasks(sum_heads + row_tasks + query_heads, [&](int64_t task) {
    if (task < sum_heads) return add_queries(task);  // the longest first
    task -= sum_heads;
    if (task < row_tasks) return measure_rows(task);
    task -= row_tasks;
    largest_query[task] = queries.largest(task, 0, tokens);
  });
  check(largest_key, kv_heads, "keys");
  check(largest_value, kv_heads, "values");
  check(largest_query, query_heads, "queries");
  return measured;
}

}  // namespace rillkv
