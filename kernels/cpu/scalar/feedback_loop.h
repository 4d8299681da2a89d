// Step 7 of feedback.h in portable C++, whatever codes a channel.
#pragma once

#include "kernels/cpu/kernels.h"
#include "kernels/cpu/scalar/channels.h"
#include "kernels/packed_format.h"

namespace rillkv::kernels::cpu {
namespace {

/// Calls coder(c, x, y) for the channels in the plan's order, after what the roundings before it
/// ask for has been added to its keys. c: the channel; x: [tokens] what is to be coded, within
/// kMaxMagnitude; y: [tokens] out, what a reader of the codes will see.
template <class Coder>
void feed_back(const PackParams& p, const FeedbackPlan& plan, void* workspace, const Coder& coder) {
  const int D = p.head_dim, T = p.tokens;
  float* errors = static_cast<float*>(workspace);  // [D, T] by position
  float keys[kMaxBlockSize], x[kMaxBlockSize], y[kMaxBlockSize];
  for (int k = 0; k < D; ++k) {
    const int c = plan.order[k];
    const float* weights = plan.weights + static_cast<size_t>(k) * static_cast<size_t>(D);
    load_channel(p, c, keys);
    std::memcpy(x, keys, sizeof(float) * static_cast<size_t>(T));
    for (int j = 0; j < k; ++j) {
      const float* error = errors + static_cast<size_t>(j) * static_cast<size_t>(T);
      for (int t = 0; t < T; ++t) x[t] = __builtin_fmaf(weights[j], error[t], x[t]);
    }
    for (int t = 0; t < T; ++t) {
      const float above = x[t] > -format::kMaxMagnitude ? x[t] : -format::kMaxMagnitude;
      x[t] = above < format::kMaxMagnitude ? above : format::kMaxMagnitude;
    }
    coder(c, x, y);
    float* error = errors + static_cast<size_t>(k) * static_cast<size_t>(T);
    for (int t = 0; t < T; ++t) error[t] = keys[t] - y[t];
  }
}

}  // namespace
}  // namespace rillkv::kernels::cpu
