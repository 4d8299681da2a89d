// The steps of feedback.h that every instruction set takes one number at a time: the Hessian of one
// pair of pairs, energies, order and damping. Internal linkage, as rows.h explains.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/feedback.h"
#include "kernels/moment_layout.h"

namespace rillkv::kernels::cpu {
namespace {

/// H of the channels (a, a + h) and (b, b + h), step 2.
struct PairHessian {
  float at[2][2];
};

/// moment: as moment_layout.h has it.
inline PairHessian hessian_of(const float* moment, const float* distances, int half, int a, int b) {
  const float* g =
      distances + 4 * (static_cast<size_t>(a) * static_cast<size_t>(half) + static_cast<size_t>(b));
  const float A = moment[moment_at(a, b)], B = moment[moment_at(a, b + half)];
  const float C = moment[moment_at(a + half, b)], E = moment[moment_at(a + half, b + half)];
  const float sum = A + E, dif = A - E, cross = C - B, both = C + B;
  const float ur = __builtin_fmaf(-cross, g[1], sum * g[0]);
  const float ui = __builtin_fmaf(cross, g[0], sum * g[1]);
  const float vr = __builtin_fmaf(-both, g[3], dif * g[2]);
  const float vi = __builtin_fmaf(both, g[2], dif * g[3]);
  return {{{0.5f * (ur + vr), 0.5f * (vi - ui)}, {0.5f * (ui + vi), 0.5f * (ur - vr)}}};
}

/// Steps 3 and 4. energies: [D/2] scratch; pairs: [D/2] the pair of each rank; order: [D];
/// damping: [D] by position. False: the Hessian is the identity.
inline bool order_channels(const float* moment, const float* distances, int head_dim,
                           float* energies, int32_t* pairs, uint16_t* order, float* damping) {
  const int half = head_dim / 2;
  float sum = 0.0f;
  for (int p = 0; p < half; ++p) {
    const PairHessian own = hessian_of(moment, distances, half, p, p);
    energies[p] = 0.5f * (own.at[0][0] + own.at[1][1]);
    sum += energies[p];
  }
  const float mean = sum / static_cast<float>(half);
  const bool usable = mean >= kLeastEnergy && mean <= kMostEnergy;
  for (int p = 0; p < half && !usable; ++p) energies[p] = 1.0f;
  for (int p = 0; p < half; ++p) {
    const float energy = energies[p];
    int32_t rank = 0;
    for (int q = 0; q < p; ++q) rank += energies[q] >= energy ? 1 : 0;
    for (int q = p + 1; q < half; ++q) rank += energies[q] > energy ? 1 : 0;
    pairs[rank] = p;
    order[2 * rank] = static_cast<uint16_t>(p);
    order[2 * rank + 1] = static_cast<uint16_t>(p + half);
    damping[2 * rank] = damping[2 * rank + 1] =
        usable ? __builtin_fmaf(kDampingShare, energy, kDampingFloor * mean) : 0.0f;
  }
  return usable;
}

}  // namespace
}  // namespace rillkv::kernels::cpu
