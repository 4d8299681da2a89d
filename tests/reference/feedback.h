// Error feedback as the design words it: in double precision where a number is what counts, and one
// fp32 operation after the other where bytes are.
#pragma once

#include <cstdint>
#include <vector>

#include "tests/reference/packed_block.h"

namespace rillkv::reference {

using Matrix = std::vector<std::vector<double>>;

/// How much each distance from a query to a key counts: 1 / (n + 1) for n < 1024, summing to 1.
std::vector<double> distance_weights();

/// E over distances n of R(n) S R(n)^T, where R(n) turns the channels (p, p + D/2) by n
/// frequencies[p]. The rotations are applied one after the other.
Matrix rotated_moment(const Matrix& moment, const std::vector<double>& frequencies);

/// E over distances of the squared logits of R(n) q against `error`, summed over the queries.
double expected_squared_logit(const Matrix& queries, const std::vector<double>& error,
                              const std::vector<double>& frequencies);

/// [D/2, D/2, 4]: E[exp(i n (f_a - f_b))] and E[exp(i n (f_a + f_b))], re and im, rounded once.
std::vector<float> distance_table(const std::vector<double>& frequencies);

struct ChannelPlan {
  std::vector<int> order;  // [D] the channel at a position
  Matrix hessian;          // [D, D] damped, by position
  std::vector<double> sensitivities;
  Matrix weights;  // B_kj, j < k
};
/// From the rotated moment.
ChannelPlan plan_channels(const Matrix& hessian);

/// The integers that one token's channels, given by position in units of a common step, are rounded
/// to as GPTQ words it: round a channel, then move all later ones by their column of the inverse
/// Hessian, and condition the inverse on what is left. `margin` becomes the least distance of a
/// number from a tie.
std::vector<double> round_by_inverse(const Matrix& hessian, std::vector<double> x, double& margin);

/// Mean of the squared distances from the mean.
double variance(const std::vector<float>& row);

/// keys: [D][tokens]; order, weights: as a back end made them; widths: by channel. Counts the
/// numbers that had to be clamped.
PackedBlock feed_back(const std::vector<std::vector<float>>& keys, const std::vector<int>& order,
                      const std::vector<std::vector<float>>& weights,
                      const std::vector<int>& widths, int block_size, int64_t& clamped);

}  // namespace rillkv::reference
