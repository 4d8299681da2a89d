// What a row of logits says of the next token, and how far two such rows are apart.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace rillkv::eval {

/// softmax(logits) over a vocabulary, sums in double. A view: the logits must outlive it.
class Distribution {
 public:
  /// logits: [vocab]; -inf is a probability of 0. Throws Error if there are none, for NaN and +inf,
  /// and for nothing but -inf.
  explicit Distribution(std::span<const float> logits);

  /// log p(token), nats; `token` in 0..vocab - 1 is not checked.
  double log_prob(int64_t token) const {
    return logits_[static_cast<size_t>(token)] - log_normaliser_;
  }
  /// The most likely token, the lowest id among equals.
  int64_t best() const { return best_; }
  int64_t vocab() const { return static_cast<int64_t>(logits_.size()); }

 private:
  std::span<const float> logits_;
  int64_t best_;
  double log_normaliser_;  // log sum exp, so that log p(v) = logit(v) - log_normaliser
};

/// KL(p || q), nats; infinite where q rules out what p does not. Throws Error if the vocabularies
/// differ.
double kl_divergence(const Distribution& p, const Distribution& q);

/// The share of positions at which two lists hold the same token; not-a-number for empty ones.
/// Throws Error if their lengths differ.
double agreement(const std::vector<int64_t>& a, const std::vector<int64_t>& b);

}  // namespace rillkv::eval
