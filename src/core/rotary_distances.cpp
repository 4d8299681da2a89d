#include "core/rotary_distances.h"

#include <cmath>
#include <complex>
#include <cstddef>
#include <map>
#include <mutex>

namespace rillkv {
namespace {

constexpr int kDistances = 1024;

/// p(d) up to a factor, and the factor.
struct Weights {
  double of[kDistances], total = 0;
  Weights() {
    for (int d = kDistances - 1; d >= 0; --d) total += of[d] = 1.0 / (d + 1);
  }
};

/// E[exp(i d x)] by Horner's rule over the distances: one multiplication each, whose roundings add
/// up to less than 1024 * 2^-52, far below a float's.
std::complex<double> expectation(const Weights& weights, double x) {
  const std::complex<double> turn(std::cos(x), std::sin(x));
  std::complex<double> sum = 0;
  for (int d = kDistances - 1; d >= 0; --d) {
    sum = std::complex<double>(sum.real() * turn.real() - sum.imag() * turn.imag() + weights.of[d],
                               sum.real() * turn.imag() + sum.imag() * turn.real());
  }
  return sum / weights.total;
}

std::vector<float> compute(const std::vector<double>& frequencies) {
  const size_t pairs = frequencies.size();
  const Weights weights;
  std::vector<float> table(pairs * pairs * 4);
  const auto put = [&](size_t a, size_t b, std::complex<double> apart,
                       std::complex<double> together) {
    float* out = table.data() + (a * pairs + b) * 4;
    out[0] = static_cast<float>(apart.real());
    out[1] = static_cast<float>(apart.imag());
    out[2] = static_cast<float>(together.real());
    out[3] = static_cast<float>(together.imag());
  };
  for (size_t a = 0; a < pairs; ++a) {
    for (size_t b = 0; b <= a; ++b) {
      const std::complex<double> apart = expectation(weights, frequencies[a] - frequencies[b]);
      const std::complex<double> together = expectation(weights, frequencies[a] + frequencies[b]);
      put(b, a, std::conj(apart), together);
      put(a, b, apart, together);  // last: on the diagonal +0 stays +0
    }
  }
  return table;
}

}  // namespace

std::shared_ptr<const std::vector<float>> rotary_distances(
    const std::vector<double>& inverse_frequencies) {
  static std::mutex mutex;
  static std::map<std::vector<double>, std::weak_ptr<const std::vector<float>>> tables;
  const std::lock_guard<std::mutex> lock(mutex);
  std::weak_ptr<const std::vector<float>>& kept = tables[inverse_frequencies];
  std::shared_ptr<const std::vector<float>> table = kept.lock();
  if (table == nullptr) {
    table = std::make_shared<const std::vector<float>>(compute(inverse_frequencies));
    kept = table;
  }
  return table;
}

}  // namespace rillkv
