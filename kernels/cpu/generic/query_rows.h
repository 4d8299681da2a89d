// The query rows of a task, from their activations to the rows of `out`: row r is query token
// query_begin + r / G and head r % G of the kv head's group of G.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/generic/output.h"
#include "kernels/cpu/generic/rows.h"
#include "kernels/cpu/generic/tiles.h"
#include "kernels/cpu/generic/workspace.h"

namespace rillkv::kernels::cpu::tiled {
namespace {

constexpr float kLog2E = 1.44269504f, kLn2 = 0.693147181f;

template <class S>
class QueryRows {
 public:
  QueryRows(const AttentionParams& params, const AttentionTask& task, const Workspace& workspace)
      : p_(params),
        task_(task),
        w_(workspace),
        D_(params.head_dim),
        group_(params.heads / params.kv_heads),
        count_((task.query_end - task.query_begin) * group_),
        steps_(static_cast<size_t>(D_ / S::kPack)),
        stride_(padded(D_)) {}

  int count() const { return count_; }
  int32_t token(int r) const { return task_.query_begin + r / group_; }
  /// q~ in the order of the products' left side.
  uint32_t* query(int r) const { return w_.queries + static_cast<size_t>(r) * steps_; }
  /// q~ in fp32; of at most kBlockRows rows.
  float* raw_query(int r) const { return w_.raw_queries + static_cast<size_t>(r) * stride_; }
  OnlineSoftmax& softmax(int r) const { return w_.rows[r]; }

  /// q~ = scale log2(e) R q of all rows, and nothing seen yet.
  void load() const {
    for (int r = 0; r < count_; ++r) {
      const int64_t t = token(r);
      const float *cosines = p_.query_cos + t * (D_ / 2), *sines = p_.query_sin + t * (D_ / 2);
      read_row<S>(row_of(p_.queries, p_.dtype, t, head(r)), p_.dtype, D_, w_.token_rows);
      const float factor = p_.scale * kLog2E;
      rotate_row<S>(w_.token_rows, cosines, sines, factor, D_, query(r));
      float* accumulators = w_.accumulators + static_cast<size_t>(r) * stride_;
      w_.rows[r] = OnlineSoftmax::empty(accumulators);
      clear_row<S>(accumulators, stride_);
      if (count_ <= kBlockRows) {
        clear_row<S>(raw_query(r), stride_);
        rotate_row<S, false, true>(w_.token_rows, cosines, sines, factor, D_,
                                   reinterpret_cast<uint32_t*>(raw_query(r)));
      }
    }
  }

  /// For the keys of a block that are rotated by R(j) alone: query(r) = R(-t0) q~.
  void turn_back(const float* block_rotation) const {
    for (int r = 0; r < count_; ++r) {
      rotate_row<S, true>(raw_query(r), block_rotation, block_rotation + D_ / 2, 1.0f, D_,
                          query(r));
    }
  }

  /// out = accumulators / sum, or the partial result.
  void finish() const {
    for (int r = 0; r < count_; ++r) {
      if (task_.partial == nullptr) {
        finish_row_simd<S>(p_, w_.rows[r], token(r), head(r));
      } else {
        w_.rows[r].store(task_.partial + static_cast<size_t>(r) * static_cast<size_t>(D_ + 2), D_,
                         kLn2);
      }
    }
  }

 private:
  int64_t head(int r) const { return task_.kv_head * group_ + r % group_; }

  const AttentionParams& p_;
  const AttentionTask& task_;
  const Workspace& w_;
  const int D_, group_, count_;
  const size_t steps_, stride_;
};

}  // namespace
}  // namespace rillkv::kernels::cpu::tiled
