#include "tests/reference/feedback.h"

#include <algorithm>
#include <cmath>
#include <complex>
#include <numeric>

#include "tests/reference/half.h"
#include "tests/reference/quantizer.h"

namespace rillkv::reference {
namespace {

constexpr int kDistances = 1024;
constexpr float kLargest = 32752.0f;  // the largest magnitude that is let into a block

/// R(n) x, in place.
void rotate(std::vector<double>& x, const std::vector<double>& frequencies, int n) {
  const size_t half = frequencies.size();
  for (size_t p = 0; p < half; ++p) {
    const double c = std::cos(n * frequencies[p]), s = std::sin(n * frequencies[p]);
    const double first = x[p], second = x[p + half];
    x[p] = first * c - second * s;
    x[p + half] = second * c + first * s;
  }
}

Matrix transposed(const Matrix& m) {
  Matrix t(m[0].size(), std::vector<double>(m.size()));
  for (size_t i = 0; i < m.size(); ++i) {
    for (size_t j = 0; j < m[i].size(); ++j) t[j][i] = m[i][j];
  }
  return t;
}

}  // namespace

std::vector<double> distance_weights() {
  std::vector<double> weights;
  for (int n = 0; n < kDistances; ++n) weights.push_back(1.0 / (n + 1));
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  for (double& w : weights) w /= sum;
  return weights;
}

Matrix rotated_moment(const Matrix& moment, const std::vector<double>& frequencies) {
  const auto probability = distance_weights();
  const size_t D = moment.size();
  Matrix result(D, std::vector<double>(D, 0.0));
  for (int n = 0; n < kDistances; ++n) {
    // Rows of S R^T, then of its transpose: R S R^T, which is symmetric.
    Matrix turned = moment;
    for (auto& row : turned) rotate(row, frequencies, n);
    turned = transposed(turned);
    for (auto& row : turned) rotate(row, frequencies, n);
    for (size_t i = 0; i < D; ++i) {
      for (size_t j = 0; j < D; ++j) result[i][j] += probability[size_t(n)] * turned[i][j];
    }
  }
  return result;
}

double expected_squared_logit(const Matrix& queries, const std::vector<double>& error,
                              const std::vector<double>& frequencies) {
  const auto probability = distance_weights();
  double sum = 0;
  for (int n = 0; n < kDistances; ++n) {
    for (const auto& query : queries) {
      std::vector<double> turned = query;
      rotate(turned, frequencies, n);
      const double logit = std::inner_product(turned.begin(), turned.end(), error.begin(), 0.0);
      sum += probability[size_t(n)] * logit * logit;
    }
  }
  return sum;
}

std::vector<float> distance_table(const std::vector<double>& frequencies) {
  const auto probability = distance_weights();
  const size_t half = frequencies.size();
  std::vector<std::vector<std::complex<double>>> turns(half);  // [D/2][distance]
  for (size_t p = 0; p < half; ++p) {
    for (int n = 0; n < kDistances; ++n) turns[p].push_back(std::polar(1.0, n * frequencies[p]));
  }
  std::vector<float> table;
  for (size_t a = 0; a < half; ++a) {
    for (size_t b = 0; b < half; ++b) {
      std::complex<double> difference = 0, sum = 0;
      for (size_t n = 0; n < kDistances; ++n) {
        difference += turns[a][n] * std::conj(turns[b][n]) * probability[n];
        sum += turns[a][n] * turns[b][n] * probability[n];
      }
      for (double x : {difference.real(), difference.imag(), sum.real(), sum.imag()}) {
        table.push_back(static_cast<float>(x));
      }
    }
  }
  return table;
}

ChannelPlan plan_channels(const Matrix& hessian) {
  const size_t D = hessian.size(), half = D / 2;
  std::vector<double> energy;
  for (size_t p = 0; p < half; ++p) {
    energy.push_back((hessian[p][p] + hessian[p + half][p + half]) / 2);
  }
  const double mean = std::accumulate(energy.begin(), energy.end(), 0.0) / double(half);
  std::vector<int> pairs(half);
  std::iota(pairs.begin(), pairs.end(), 0);
  std::stable_sort(pairs.begin(), pairs.end(),
                   [&](int a, int b) { return energy[size_t(a)] > energy[size_t(b)]; });
  ChannelPlan plan;
  for (int p : pairs) {
    plan.order.push_back(p);
    plan.order.push_back(p + int(half));
  }
  plan.hessian.assign(D, std::vector<double>(D));
  for (size_t i = 0; i < D; ++i) {
    const auto row = size_t(plan.order[i]);
    for (size_t j = 0; j < D; ++j) plan.hessian[i][j] = hessian[row][size_t(plan.order[j])];
    plan.hessian[i][i] += 0.02 * energy[row % half] + 2e-5 * mean;
  }
  // The conditional energies from the last position back: Schur complements.
  Matrix rest = plan.hessian;
  plan.sensitivities.assign(D, 0.0);
  plan.weights.assign(D, std::vector<double>(D, 0.0));
  for (size_t k = D; k-- > 0;) {
    plan.sensitivities[k] = rest[k][k];
    for (size_t j = 0; j < k; ++j) plan.weights[k][j] = rest[k][j] / rest[k][k];
    for (size_t i = 0; i < k; ++i) {
      for (size_t j = 0; j < k; ++j) rest[i][j] -= rest[k][i] * rest[k][j] / rest[k][k];
    }
  }
  return plan;
}

std::vector<double> round_by_inverse(const Matrix& hessian, std::vector<double> x, double& margin) {
  const size_t D = x.size();
  // Gauss-Jordan without pivoting: the matrix is positive definite.
  Matrix left = hessian, inverse(D, std::vector<double>(D, 0.0));
  for (size_t i = 0; i < D; ++i) inverse[i][i] = 1;
  for (size_t k = 0; k < D; ++k) {
    const double pivot = left[k][k];
    for (size_t j = 0; j < D; ++j) {
      left[k][j] /= pivot;
      inverse[k][j] /= pivot;
    }
    for (size_t i = 0; i < D; ++i) {
      const double factor = left[i][k];
      if (i == k) continue;
      for (size_t j = 0; j < D; ++j) {
        left[i][j] -= factor * left[k][j];
        inverse[i][j] -= factor * inverse[k][j];
      }
    }
  }
  std::vector<double> rounded;
  margin = 0.5;
  for (size_t k = 0; k < D; ++k) {
    rounded.push_back(std::nearbyint(x[k]));
    margin = std::min(margin, 0.5 - std::fabs(x[k] - rounded[k]));
    const double error = (x[k] - rounded[k]) / inverse[k][k];
    for (size_t j = k + 1; j < D; ++j) x[j] -= error * inverse[k][j];
    for (size_t i = k + 1; i < D; ++i) {
      for (size_t j = k + 1; j < D; ++j) {
        inverse[i][j] -= inverse[i][k] * inverse[k][j] / inverse[k][k];
      }
    }
  }
  return rounded;
}

double variance(const std::vector<float>& row) {
  double mean = 0, sum = 0;
  for (float x : row) mean += double(x) / double(row.size());
  for (float x : row) sum += (double(x) - mean) * (double(x) - mean);
  return sum / double(row.size());
}

PackedBlock feed_back(const std::vector<std::vector<float>>& keys, const std::vector<int>& order,
                      const std::vector<std::vector<float>>& weights,
                      const std::vector<int>& widths, int block_size, int64_t& clamped) {
  const size_t D = keys.size(), tokens = keys[0].size();
  PackedBlock block;
  block.widths = widths;
  block.lo.resize(D);
  block.step.resize(D);
  block.codes.resize(D);
  std::vector<std::vector<float>> errors;
  for (size_t k = 0; k < D; ++k) {
    const auto c = size_t(order[k]);
    std::vector<float> target = keys[c];
    for (size_t t = 0; t < tokens; ++t) {
      for (size_t j = 0; j < k; ++j) {
        target[t] = std::fma(weights[k][j], errors[j][t], target[t]);
      }
      if (std::fabs(target[t]) > kLargest) {
        target[t] = std::copysign(kLargest, target[t]);
        ++clamped;
      }
    }
    QuantizedRow row = quantize_affine(target, widths[c]);
    const auto lo = static_cast<float>(half_value(row.lo));
    const auto step = static_cast<float>(half_value(row.step));
    std::vector<float> error;
    for (size_t t = 0; t < tokens; ++t) {
      error.push_back(keys[c][t] - std::fma(step, static_cast<float>(row.codes[t]), lo));
    }
    errors.push_back(error);
    row.codes.resize(size_t(block_size), 0);
    block.lo[c] = row.lo;
    block.step[c] = row.step;
    block.codes[c] = row.codes;
  }
  return block;
}

}  // namespace rillkv::reference
