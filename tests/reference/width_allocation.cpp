#include "tests/reference/width_allocation.h"

#include <cmath>
#include <limits>

namespace rillkv::reference {
namespace {

double error_at(int width) { return std::pow(std::pow(2.0, width) - 1.0, -2.0); }

}  // namespace

std::vector<int> allocate_widths(const std::vector<double>& scores, const std::vector<int>& classes,
                                 int increments) {
  std::vector<size_t> level(scores.size(), 0);
  for (int i = 0; i < increments; ++i) {
    size_t best = scores.size();
    double best_gain = 0;
    for (size_t p = 0; p < scores.size(); ++p) {
      if (level[p] + 1 >= classes.size()) continue;
      const double gain =
          scores[p] * (error_at(classes[level[p]]) - error_at(classes[level[p] + 1]));
      if (best == scores.size() || gain > best_gain ||
          (gain == best_gain && level[p] < level[best])) {
        best = p;
        best_gain = gain;
      }
    }
    if (best == scores.size()) break;
    ++level[best];
  }
  std::vector<int> widths;
  for (size_t l : level) widths.push_back(classes[l]);
  return widths;
}

double logit_error(const std::vector<double>& scores, const std::vector<int>& widths) {
  double sum = 0;
  for (size_t p = 0; p < scores.size(); ++p) sum += scores[p] * error_at(widths[p]);
  return sum;
}

double least_logit_error(const std::vector<double>& scores, const std::vector<int>& classes,
                         int increments) {
  std::vector<size_t> level(scores.size(), 0);
  double least = std::numeric_limits<double>::infinity();
  for (;;) {
    int spent = 0;
    std::vector<int> widths;
    for (size_t l : level) {
      spent += static_cast<int>(l);
      widths.push_back(classes[l]);
    }
    if (spent == increments) least = std::fmin(least, logit_error(scores, widths));
    size_t p = 0;
    while (p < level.size() && ++level[p] == classes.size()) level[p++] = 0;
    if (p == level.size()) return least;
  }
}

}  // namespace rillkv::reference
