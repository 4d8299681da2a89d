// Bit widths by repeated choice of the best single step, in double.
#pragma once

#include <vector>

namespace rillkv::reference {

/// Widths of the channel pairs after `increments` greedy steps; scores: [pairs]. Equal gains: the
/// pair with the lower class first, then the lower pair.
std::vector<int> allocate_widths(const std::vector<double>& scores, const std::vector<int>& classes,
                                 int increments);

/// sum over pairs of score / (2^width - 1)^2.
double logit_error(const std::vector<double>& scores, const std::vector<int>& widths);

/// The least logit_error over all ways to spend exactly `increments` steps, by exhaustive search:
/// for a handful of pairs.
double least_logit_error(const std::vector<double>& scores, const std::vector<int>& classes,
                         int increments);

}  // namespace rillkv::reference
