#include "tests/reference/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace rillkv::reference {

Vector rotate(const Vector& x, int64_t position, const Vector& inv_freq) {
  const size_t half = x.size() / 2;
  Vector y(x.size());
  for (size_t c = 0; c < half; ++c) {
    const double angle = static_cast<double>(position) * inv_freq[c];
    y[c] = x[c] * std::cos(angle) - x[c + half] * std::sin(angle);
    y[c + half] = x[c + half] * std::cos(angle) + x[c] * std::sin(angle);
  }
  return y;
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

std::vector<Token> with_rotated_keys(std::vector<Token> tokens, const Vector& inv_freq) {
  for (Token& token : tokens) token.key = rotate(token.key, token.position, inv_freq);
  return tokens;
}

Vector attend(const Query& query, const std::vector<Token>& rotated, const Vector& inv_freq,
              double scale, const Precision& precision) {
  const auto round_all = [&](Vector x) {
    for (double& element : x) element = precision.round(element);
    return x;
  };
  const Vector q = round_all(rotate(query.vector, query.position, inv_freq));
  std::vector<double> scores;
  std::vector<const Token*> visible;
  for (const Token& token : rotated) {
    if (token.index > query.index) continue;
    double score = 0;
    for (size_t c = 0; c < q.size(); ++c) score += q[c] * precision.round(token.key[c]);
    scores.push_back(scale * score);
    visible.push_back(&token);
  }
  double most = -std::numeric_limits<double>::infinity();
  for (double score : scores) most = std::max(most, score);
  Vector out(query.vector.size(), 0.0);
  double total = 0;
  for (size_t j = 0; j < visible.size(); ++j) {
    const double weight = std::exp(scores[j] - most);
    total += weight;
    for (size_t c = 0; c < out.size(); ++c) {
      out[c] += precision.round(weight) * precision.round(visible[j]->value[c]);
    }
  }
  for (double& element : out) element /= total;
  return out;
}

}  // namespace rillkv::reference
