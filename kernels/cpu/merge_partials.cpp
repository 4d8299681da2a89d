// Partial attention results of one kv head, merged by log-sum-exp:
//   m = max_i m_i,  out = sum_i e^(m_i - m) acc_i / sum_i e^(m_i - m) sum_i
#include <cmath>
#include <vector>

#include "kernels/cpu/common.h"
#include "kernels/cpu/kernels.h"

namespace rillkv::kernels::cpu {

void merge_partials(const AttentionParams& p, int32_t kv_head, int32_t query_begin,
                    int32_t query_end, const float* partials, int32_t parts) {
  const int D = p.head_dim, group = p.heads / p.kv_heads;
  const int64_t rows = static_cast<int64_t>(query_end - query_begin) * group;
  std::vector<float> sums(static_cast<size_t>(D));
  for (int64_t r = 0; r < rows; ++r) {
    const auto part = [&](int i) { return partials + (i * rows + r) * (D + 2); };
    // A part that saw no key has sum 0 and takes no part in the maximum, whatever its own is.
    bool any = false;
    float most = 0.0f;
    for (int i = 0; i < parts; ++i) {
      if (part(i)[1] == 0.0f) continue;
      most = any && most > part(i)[0] ? most : part(i)[0];
      any = true;
    }
    float total = 0.0f;
    for (float& sum : sums) sum = 0.0f;
    for (int i = 0; i < parts; ++i) {
      if (part(i)[1] == 0.0f) continue;
      const float weight = std::exp(part(i)[0] - most);
      total += weight * part(i)[1];
      for (int c = 0; c < D; ++c) sums[static_cast<size_t>(c)] += weight * part(i)[2 + c];
    }
    finish_row(p, sums.data(), total, query_begin + r / group, kv_head * group + r % group);
  }
}

}  // namespace rillkv::kernels::cpu
