// Partial attention results of one kv head, merged by log-sum-exp (OnlineSoftmax::merge).
#include <cstdint>
#include <vector>

#include "kernels/cpu/generic/online_softmax.h"
#include "kernels/cpu/generic/output.h"
#include "kernels/cpu/kernels.h"

namespace rillkv::kernels::cpu {

void merge_partials(const AttentionParams& p, int32_t kv_head, int32_t query_begin,
                    int32_t query_end, const float* partials, int32_t parts) {
  const int D = p.head_dim, group = p.heads / p.kv_heads;
  const int64_t rows = static_cast<int64_t>(query_end - query_begin) * group;
  std::vector<float> sums(static_cast<size_t>(D));
  for (int64_t r = 0; r < rows; ++r) {
    for (float& sum : sums) sum = 0.0f;
    OnlineSoftmax row = OnlineSoftmax::empty(sums.data());
    for (int part = 0; part < parts; ++part) row.merge(partials + (part * rows + r) * (D + 2), D);
    finish_row(p, row, query_begin + r / group, kv_head * group + r % group);
  }
}

}  // namespace rillkv::kernels::cpu
