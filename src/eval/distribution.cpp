#include "rillkv/eval/distribution.h"

#include <algorithm>
#include <cmath>

#include "rillkv/error.h"

namespace rillkv::eval {

Distribution::Distribution(std::span<const float> logits) : logits_(logits) {
  RILLKV_CHECK(!logits.empty(), "expected logits of at least one token, got none");
  best_ = std::max_element(logits.begin(), logits.end()) - logits.begin();
  const double largest = logits[static_cast<size_t>(best_)];
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - largest);
  log_normaliser_ = largest + std::log(sum);
  // NaN and +inf reach the sum, and so does a row of nothing but -inf.
  RILLKV_CHECK(std::isfinite(log_normaliser_),
               "expected finite logits, or -inf beside some, got NaN, +inf or nothing but -inf");
}

double kl_divergence(const Distribution& p, const Distribution& q) {
  RILLKV_CHECK(p.vocab() == q.vocab(), "KL: expected one vocabulary, got ", p.vocab(), " and ",
               q.vocab(), " tokens");
  double sum = 0;
  for (int64_t token = 0; token < p.vocab(); ++token) {
    const double log_p = p.log_prob(token), probability = std::exp(log_p);
    if (probability > 0) sum += probability * (log_p - q.log_prob(token));  // 0 log 0 = 0
  }
  return sum;
}

double agreement(const std::vector<int64_t>& a, const std::vector<int64_t>& b) {
  RILLKV_CHECK(a.size() == b.size(), "agreement: expected as many tokens on both sides, got ",
               a.size(), " and ", b.size());
  int64_t same = 0;
  for (size_t i = 0; i < a.size(); ++i) same += a[i] == b[i];
  return static_cast<double>(same) / static_cast<double>(a.size());
}

}  // namespace rillkv::eval
