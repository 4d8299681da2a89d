// The online softmax (Milakov and Gimelshein, arXiv 1805.02867) with the sum of values that goes
// with it, of one query row.
#pragma once

#include "kernels/cpu/generic/inline.h"

namespace rillkv::kernels::cpu {

/// No key seen yet: finite, so that differences are.
inline constexpr float kLowest = -1.0e30f;

/// Of the keys j seen so far, with scores s_j and values v_j:
///
///   max = max_j s_j,   sum = sum_j e^(s_j - max),   accumulators[c] = sum_j e^(s_j - max) v_j[c]
///
/// The row's result is accumulators / sum. The base e is the scores': 2 where they are in log2
/// units.
struct OnlineSoftmax {
  float max;
  float sum;
  float* accumulators;  // [head_dim]

  static RILLKV_INLINE OnlineSoftmax empty(float* accumulators) {
    return {kLowest, 0.0f, accumulators};
  }

  /// Further keys come, whose largest score is `largest`. What has been summed up shrinks by e to
  /// the power that is returned (<= 0), the caller sees to the accumulators and to `add`; the new
  /// keys' weights are e^(s_j - max).
  RILLKV_INLINE float raise(float largest) {
    const float change = largest > max ? max - largest : 0.0f;
    if (largest > max) max = largest;
    return change;
  }
  RILLKV_INLINE void add(float shrink, float weights) { sum = sum * shrink + weights; }

  /// As a partial result (AttentionTask::partial): max in natural-log units, of which one of the
  /// row's is `unit`, sum, accumulators.
  RILLKV_INLINE void store(float* partial, int head_dim, float unit) const {
    partial[0] = max * unit;
    partial[1] = sum;
    for (int c = 0; c < head_dim; ++c) partial[2 + c] = accumulators[c];
  }
  /// Takes in a partial result; this row's scores are in natural-log units.
  RILLKV_INLINE void merge(const float* partial, int head_dim) {
    if (partial[1] == 0.0f) return;  // saw no key; its max means nothing
    const float shrink = __builtin_expf(raise(partial[0]));
    const float weight = __builtin_expf(partial[0] - max);
    add(shrink, weight * partial[1]);
    for (int c = 0; c < head_dim; ++c) {
      accumulators[c] = accumulators[c] * shrink + weight * partial[2 + c];
    }
  }
};

}  // namespace rillkv::kernels::cpu
