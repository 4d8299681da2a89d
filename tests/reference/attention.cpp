#include "tests/reference/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "tests/reference/half.h"

namespace rillkv::reference {

namespace {

template <typename Real>
Vector rotate_in(const Vector& x, int64_t position, const Vector& inv_freq) {
  const size_t half = x.size() / 2;
  Vector y(x.size());
  for (size_t c = 0; c < half; ++c) {
    const double angle = static_cast<double>(position) * inv_freq[c];
    const auto cosine = static_cast<Real>(std::cos(angle));
    const auto sine = static_cast<Real>(std::sin(angle));
    const auto a = static_cast<Real>(x[c]), b = static_cast<Real>(x[c + half]);
    y[c] = static_cast<double>(a * cosine - b * sine);
    y[c + half] = static_cast<double>(b * cosine + a * sine);
  }
  return y;
}

/// Naive attention in the arithmetic of Real; `round` on the weights alone.
template <typename Real>
Vector attend_in(const Vector& rotated_query, int64_t index, const std::vector<Token>& rotated,
                 double scale, double (*round)(double)) {
  const std::vector<Real> q(rotated_query.begin(), rotated_query.end());
  std::vector<Real> scores;
  std::vector<const Token*> visible;
  for (const Token& token : rotated) {
    if (token.index > index) continue;
    Real score = 0;
    for (size_t c = 0; c < q.size(); ++c) score += q[c] * static_cast<Real>(token.key[c]);
    scores.push_back(static_cast<Real>(scale) * score);
    visible.push_back(&token);
  }
  Real most = -std::numeric_limits<Real>::infinity();
  for (Real score : scores) most = std::max(most, score);
  std::vector<Real> out(q.size(), Real{0});
  Real total = 0;
  for (size_t j = 0; j < visible.size(); ++j) {
    const Real weight = std::exp(scores[j] - most);
    total += weight;
    const auto rounded = static_cast<Real>(round(static_cast<double>(weight)));
    for (size_t c = 0; c < out.size(); ++c) {
      out[c] += rounded * static_cast<Real>(visible[j]->value[c]);
    }
  }
  Vector result;
  for (Real x : out) result.push_back(static_cast<double>(x / total));
  return result;
}

double exactly(double x) { return x; }

}  // namespace

Vector rotate(const Vector& x, int64_t position, const Vector& inv_freq) {
  return rotate_in<double>(x, position, inv_freq);
}

Vector hadamard(const Vector& x) {
  Vector y(x.size(), 0.0);
  for (size_t i = 0; i < x.size(); ++i) {
    for (size_t j = 0; j < x.size(); ++j) {
      int ones = 0;
      for (size_t common = i & j; common != 0; common >>= 1) ones += static_cast<int>(common & 1);
      y[i] += ones % 2 == 0 ? x[j] : -x[j];
    }
    y[i] /= std::sqrt(static_cast<double>(x.size()));
  }
  return y;
}

std::vector<Token> with_rotated_keys(std::vector<Token> tokens, const Vector& inv_freq,
                                     Precision precision) {
  for (Token& token : tokens) {
    token.key = precision == Precision::kFloat32
                    ? rotate_in<float>(token.key, token.position, inv_freq)
                    : rotate(token.key, token.position, inv_freq);
    if (precision != Precision::kBFloat16Tiles) continue;
    for (double& element : token.key) element = bfloat16_round(element);
    for (double& element : token.value) element = bfloat16_round(element);
  }
  return tokens;
}

Vector attend(const Query& query, const std::vector<Token>& rotated, const Vector& inv_freq,
              double scale, Precision precision) {
  if (precision == Precision::kFloat32) {
    const Vector q = rotate_in<float>(query.vector, query.position, inv_freq);
    return attend_in<float>(q, query.index, rotated, scale, exactly);
  }
  Vector q = rotate(query.vector, query.position, inv_freq);
  if (precision == Precision::kExact) {
    return attend_in<double>(q, query.index, rotated, scale, exactly);
  }
  for (double& element : q) element = bfloat16_round(element);
  return attend_in<double>(q, query.index, rotated, scale, bfloat16_round);
}

}  // namespace rillkv::reference
