#include "tests/reference/quantizer.h"

#include <algorithm>
#include <cmath>

#include "tests/reference/half.h"

namespace rillkv::reference {
namespace {

float without_negative_zero(float x) { return x == 0.0f ? 0.0f : x; }

/// In fp32, 16 strided partial sums folded pairwise, as the kernels' interface prescribes.
float squared_error(const std::vector<float>& row, const QuantizedRow& q) {
  const auto lo = static_cast<float>(half_value(q.lo));
  const auto step = static_cast<float>(half_value(q.step));
  std::vector<float> partial(16, 0.0f);
  for (size_t i = 0; i < row.size(); ++i) {
    const float product = step * static_cast<float>(q.codes[i]);
    const float error = row[i] - (lo + product);
    const float square = error * error;
    partial[i % 16] += square;
  }
  while (partial.size() > 1) {
    const size_t half = partial.size() / 2;
    for (size_t l = 0; l < half; ++l) partial[l] += partial[l + half];
    partial.resize(half);
  }
  return partial[0];
}

}  // namespace

QuantizedRow quantize_affine(const std::vector<float>& row, int width) {
  const auto [lo, hi] = std::minmax_element(row.begin(), row.end());
  return quantize_affine(row, *lo, *hi, width);
}

QuantizedRow quantize_affine(const std::vector<float>& row, float lo, float hi, int width) {
  const int top = (1 << width) - 1;
  QuantizedRow q;
  q.lo = half_round(without_negative_zero(lo), Direction::kDown);
  const auto stored_lo = static_cast<float>(half_value(q.lo));
  const float exact_step = (hi - stored_lo) / static_cast<float>(top);
  q.step = exact_step > 0 ? half_round(exact_step, Direction::kUp) : uint16_t{0};
  const auto stored_step = static_cast<float>(half_value(q.step));
  for (float x : row) {
    int code = 0;
    if (stored_step != 0) {
      const float ratio = (x - stored_lo) / stored_step;
      const double rounded = std::nearbyint(static_cast<double>(ratio));  // ties to even
      q.clipped += rounded < 0 || rounded > top ? 1 : 0;
      code = static_cast<int>(std::clamp(rounded, 0.0, static_cast<double>(top)));
    }
    q.codes.push_back(code);
  }
  return q;
}

QuantizedRow quantize_affine_clipped(const std::vector<float>& row, int width) {
  const auto [lo, hi] = std::minmax_element(row.begin(), row.end());
  const float middle = (*lo + *hi) * 0.5f;
  const float radius = (*hi - *lo) * 0.5f;
  QuantizedRow best = quantize_affine(row, *lo, *hi, width);
  float least = squared_error(row, best);
  for (float factor : {.95f, .9f, .85f, .8f, .75f, .7f}) {
    const float reach = radius * factor;
    const QuantizedRow q = quantize_affine(row, middle - reach, middle + reach, width);
    const float error = squared_error(row, q);
    if (error < least) {
      least = error;
      best = q;
    }
  }
  return best;
}

QuantizedRow quantize_symmetric(const std::vector<float>& row, float absmax, int width) {
  const int half = 1 << (width - 1);
  QuantizedRow q;
  q.step = half_round(absmax / static_cast<float>(half - 1), Direction::kNearest);
  const auto step = static_cast<float>(half_value(q.step));
  for (float x : row) {
    int code = 0;
    if (step != 0) {
      const double rounded = std::nearbyint(static_cast<double>(x / step));
      q.clipped += rounded < -half || rounded > half - 1 ? 1 : 0;
      code = static_cast<int>(std::clamp(rounded, -double(half), double(half - 1)));
    }
    q.codes.push_back(code + half);
  }
  return q;
}

}  // namespace rillkv::reference
