// Bit widths of the key channels (policies "adaptive" and "trellis").
//
// RoPE mixes the channels of a pair, so a pair shares one width w. A uniform quantiser's error is
// proportional to spread / (2^w - 1)^2, where spread is the square of the range or of the standard
// deviation, and a query of energy e = E[q^2] turns it into a logit error of
//   error(w) = (spread_c + spread_c') (energy_c + energy_c') / (2^w - 1)^2.
// Each increment lifts one pair to the next class; the one that removes most error comes first. The
// gains of a pair shrink from class to class, so "greedy" is "the largest `increments` of all
// gains".
#include <algorithm>
#include <vector>

#include "kernels/cpu/kernels.h"
#include "kernels/packed_format.h"
#include "kernels/trellis.h"

namespace rillkv::kernels::cpu {

namespace {

/// errors: [class_count] what each class leaves at unit score, in double.
void allocate(const float* spread, const float* energy, int head_dim, const int* classes,
              const double* errors, int class_count, int increments, uint8_t* widths) {
  struct Increment {
    float gain;
    int step, pair;
  };
  const int pairs = head_dim / 2;
  const int steps = class_count - 1;
  std::vector<Increment> all;
  all.reserve(static_cast<size_t>(pairs) * static_cast<size_t>(std::max(steps, 0)));
  for (int s = 0; s < steps; ++s) {
    const float drop = static_cast<float>(errors[s] - errors[s + 1]);
    for (int p = 0; p < pairs; ++p) {
      const int q = p + pairs;
      const float score = (spread[p] + spread[q]) * (energy[p] + energy[q]);
      all.push_back({score * drop, s, p});
    }
  }
  const auto count = static_cast<size_t>(std::clamp(increments, 0, static_cast<int>(all.size())));
  std::nth_element(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(count), all.end(),
                   [](const Increment& a, const Increment& b) {
                     if (a.gain != b.gain) return a.gain > b.gain;
                     return a.step != b.step ? a.step < b.step : a.pair < b.pair;
                   });
  std::vector<int> level(static_cast<size_t>(pairs), 0);
  for (size_t i = 0; i < count; ++i) ++level[static_cast<size_t>(all[i].pair)];
  for (int p = 0; p < pairs; ++p) {
    const int width = classes[level[static_cast<size_t>(p)]];
    widths[p] = format::pair_widths(width, width);
  }
}

}  // namespace

void allocate_widths(const float* spread, const float* energy, int head_dim, const int* classes,
                     int class_count, int increments, uint8_t* widths) {
  double errors[format::kMaxWidth];
  for (int i = 0; i < class_count; ++i) {
    const double top = static_cast<double>((1 << classes[i]) - 1);
    errors[i] = 1.0 / (top * top);
  }
  allocate(spread, energy, head_dim, classes, errors, class_count, increments, widths);
}

void allocate_trellis_widths(const float* spread, const float* energy, int head_dim, int increments,
                             uint8_t* widths) {
  int classes[format::kMaxTrellisWidth];
  double errors[format::kMaxTrellisWidth];
  for (int i = 0; i < format::kMaxTrellisWidth; ++i) {
    classes[i] = i + 1;
    errors[i] = trellis_error(i + 1);
  }
  allocate(spread, energy, head_dim, classes, errors, format::kMaxTrellisWidth, increments, widths);
}

}  // namespace rillkv::kernels::cpu
