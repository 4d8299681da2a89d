// The search of trellis.h in portable C++, and the sums whose order it fixes. Internal linkage, as
// rows.h explains.
#pragma once

#include <cstdint>

#include "kernels/cpu/generic/scales.h"
#include "kernels/trellis.h"

namespace rillkv::kernels::cpu {
namespace {

/// 16 accumulators and their fold.
class Sum16 {
 public:
  void add(int i, float x) { sums_[i % 16] += x; }
  void add_square(int i, float x) { sums_[i % 16] = __builtin_fmaf(x, x, sums_[i % 16]); }
  float fold() {
    for (int span = 8; span > 0; span /= 2) {
      for (int l = 0; l < span; ++l) sums_[l] += sums_[l + span];
    }
    return sums_[0];
  }

 private:
  float sums_[16] = {};
};

inline float clamped(float x, float least, float most) {
  x = x > least ? x : least;
  return x < most ? x : most;
}

/// z_j: the level of subset `subset` that is nearest to v is 4 z + subset. top: 2^(w-1) - 1.
inline float nearest_of_subset(float v, int subset, float top) {
  return clamped(round_to_integer((v - static_cast<float>(subset)) * 0.25f), 0.0f, top);
}

/// The subset by which state n (after a token) is reached from its predecessor `from`.
inline int subset_between(int from, int n) {
  return 2 * ((n ^ from ^ from >> 2) & 1) + (from >> 1 & 1);
}

/// v: [count], count <= kMaxBlockSize; weights: [count] or null. path, b: [count] out, u and b of
/// every token.
inline void search_trellis(const float* v, const float* weights, int count, int width,
                           uint8_t* path, uint8_t* b) {
  const float top = max_code(width - 1);
  uint8_t second[kMaxBlockSize];  // bit n: state n is best reached from n / 2 + 4
  float metrics[kTrellisStates];
  for (int s = 0; s < kTrellisStates; ++s) metrics[s] = s == 0 ? 0.0f : kUnreached;
  for (int t = 0; t < count; ++t) {
    float distances[4];
    for (int j = 0; j < 4; ++j) {
      const float z = nearest_of_subset(v[t], j, top);
      const float error = v[t] - (4.0f * z + static_cast<float>(j));
      distances[j] = error * error;
      if (weights != nullptr) distances[j] = distances[j] * weights[t];
    }
    float next[kTrellisStates];
    int chosen = 0;
    for (int n = 0; n < kTrellisStates; ++n) {
      const int from = n / 2, other = n / 2 + 4;
      const float here = metrics[from] + distances[subset_between(from, n)];
      const float there = metrics[other] + distances[subset_between(other, n)];
      next[n] = there < here ? there : here;
      chosen |= there < here ? 1 << n : 0;
    }
    for (int n = 0; n < kTrellisStates; ++n) metrics[n] = next[n];
    second[t] = static_cast<uint8_t>(chosen);
  }
  int state = 0;
  for (int s = 1; s < kTrellisStates; ++s) state = metrics[s] < metrics[state] ? s : state;
  for (int t = count - 1; t >= 0; --t) {
    const int from = state / 2 + 4 * (second[t] >> state & 1);
    path[t] = static_cast<uint8_t>(state & 1);
    b[t] = static_cast<uint8_t>(
        static_cast<int32_t>(nearest_of_subset(v[t], subset_between(from, state), top)));
    state = from;
  }
}

}  // namespace
}  // namespace rillkv::kernels::cpu
