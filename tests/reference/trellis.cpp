#include "tests/reference/trellis.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>

namespace rillkv::reference {
namespace {

constexpr int kStates = 8;

/// A state before a token is (u_(t-3), u_(t-2), u_(t-1)); the level's last two bits for the next u.
int last_bits(int state, int u) {
  const int one_ago = state & 1, two_ago = state >> 1 & 1, three_ago = state >> 2 & 1;
  return 2 * ((u + one_ago + three_ago) % 2) + two_ago;
}

int64_t round_up(int64_t bytes) { return (bytes + 63) / 64 * 64; }

/// 1 - the squared error that is left of a unit Gaussian at so many bits.
double shrinkage(int width) {
  constexpr double kLeft[] = {1, .3255, .094, .0267, .00713, .00185, 4.7e-4, 1.2e-4};
  return 1 - kLeft[width];
}

/// Sizes of the planes of a number of `width` bits, from its most significant bits down.
std::vector<int> plane_sizes(int width) {
  switch (width) {
    case 0:
      return {};
    case 1:
      return {1};
    case 2:
      return {2};
    case 3:
      return {2, 1};
    case 4:
      return {4};
    case 5:
      return {4, 1};
    case 6:
      return {4, 2};
    default:
      return {4, 2, 1};
  }
}

/// Calls visit(channel, token, part of b or not, bit of the number, bit address) for every bit.
template <typename Visit>
void for_each_bit(int64_t begin, int tokens, const std::vector<int>& widths, const Visit& visit) {
  const int head_dim = static_cast<int>(widths.size());
  int64_t at = 8 * begin;
  const auto plane = [&](int channel, bool is_b, int element_bits, int lowest) {
    const int words = tokens * element_bits / 32;
    for (int t = 0; t < tokens; ++t) {
      for (int bit = 0; bit < element_bits; ++bit) {
        visit(static_cast<size_t>(channel), static_cast<size_t>(t), is_b, lowest + bit,
              at + 32 * (t % words) + element_bits * (t / words) + bit);
      }
    }
    at += tokens * element_bits;
  };
  std::vector<int> order;
  for (int p = 0; p < head_dim / 2; ++p) {
    order.push_back(p);
    order.push_back(p + head_dim / 2);
  }
  for (int c : order) plane(c, false, 1, 0);
  for (int size : {4, 2, 1}) {
    for (int c : order) {
      int lowest = widths[static_cast<size_t>(c)] - 1;
      for (int own : plane_sizes(widths[static_cast<size_t>(c)] - 1)) {
        lowest -= own;
        if (own == size) plane(c, true, size, lowest);
      }
    }
  }
}

void read_rows(const uint8_t* bytes, int64_t begin, int tokens, TrellisBlock& block) {
  const auto count = static_cast<size_t>(tokens);
  block.rows.assign(block.widths.size(), {std::vector<int>(count, 0), std::vector<int>(count, 0)});
  for_each_bit(begin, tokens, block.widths,
               [&](size_t c, size_t t, bool is_b, int bit, int64_t address) {
                 const int value = bytes[address / 8] >> (address % 8) & 1;
                 (is_b ? block.rows[c].b : block.rows[c].path)[t] |= value << bit;
               });
}

int sum(const std::vector<int>& x) {
  int total = 0;
  for (int each : x) total += each;
  return total;
}

/// The nearest integer, or two where x +- off may be on either side of a half.
std::vector<double> roundings(double x, double off) {
  const double below = std::floor(x), fraction = x - below;
  if (std::fabs(fraction - 0.5) < off) return {below, below + 1};
  return {fraction < 0.5 ? below : below + 1};
}

}  // namespace

double trellis_gain(int width) { return 1 / shrinkage(width); }

double step8(int i) { return std::exp2((i - 136) / 8.0); }

int nearest8(double x) {
  if (!(x > 0)) return 0;
  const double i = std::floor(8 * std::log2(x) + 136 + 0.5);
  return static_cast<int>(std::clamp(i, 0.0, 255.0));
}

std::vector<int> trellis_levels(const TrellisRow& row) {
  std::vector<int> levels;
  for (size_t t = 0; t < row.path.size(); ++t) {
    const auto u = [&](size_t ago) { return ago <= t ? row.path[t - ago] : 0; };
    levels.push_back(4 * row.b[t] + 2 * ((u(0) + u(1) + u(3)) % 2) + u(2));
  }
  return levels;
}

double trellis_cost(const std::vector<double>& v, const std::vector<double>& weights,
                    const std::vector<int>& levels) {
  double cost = 0;
  for (size_t t = 0; t < v.size(); ++t) {
    cost += weights[t] * (v[t] - levels[t]) * (v[t] - levels[t]);
  }
  return cost;
}

double least_cost_of_all_paths(const std::vector<double>& v, const std::vector<double>& weights,
                               int width) {
  const auto count = static_cast<int>(v.size());
  double least = std::numeric_limits<double>::infinity();
  for (int path = 0; path < 1 << count; ++path) {
    double cost = 0;
    for (int t = 0; t < count; ++t) {
      const auto u = [&](int ago) { return ago <= t ? path >> (t - ago) & 1 : 0; };
      double nearest = std::numeric_limits<double>::infinity();
      for (int b = 0; b < 1 << (width - 1); ++b) {
        const int level = 4 * b + 2 * ((u(0) + u(1) + u(3)) % 2) + u(2);
        const double error = v[static_cast<size_t>(t)] - level;
        nearest = std::min(nearest, error * error);
      }
      cost += weights[static_cast<size_t>(t)] * nearest;
    }
    least = std::min(least, cost);
  }
  return least;
}

double least_trellis_cost(const std::vector<double>& v, const std::vector<double>& weights,
                          int width) {
  constexpr double kNever = std::numeric_limits<double>::infinity();
  std::vector<double> cost(kStates, kNever);
  cost[0] = 0;
  for (size_t t = 0; t < v.size(); ++t) {
    std::vector<double> next(kStates, kNever);
    for (int s = 0; s < kStates; ++s) {
      for (int u = 0; u < 2; ++u) {
        double nearest = kNever;
        for (int b = 0; b < 1 << (width - 1); ++b) {
          const double error = v[t] - (4 * b + last_bits(s, u));
          nearest = std::min(nearest, error * error);
        }
        double& to = next[static_cast<size_t>((2 * s + u) % kStates)];
        to = std::min(to, cost[static_cast<size_t>(s)] + weights[t] * nearest);
      }
    }
    cost = next;
  }
  return *std::min_element(cost.begin(), cost.end());
}

std::vector<int> trellis_value_widths(int head_dim, int width, int wide_pairs) {
  std::vector<int> widths;
  for (int c = 0; c < head_dim; ++c) {
    widths.push_back(c % (head_dim / 2) < wide_pairs ? width + 1 : width);
  }
  return widths;
}

TrellisBlock read_trellis_keys(const uint8_t* bytes, int block_size, int head_dim) {
  TrellisBlock block;
  for (int c = 0; c < head_dim; ++c) {
    const int zero = bytes[2 * c] | bytes[2 * c + 1] << 8;
    block.zeros.push_back(zero < 32768 ? zero : zero - 65536);
    block.steps.push_back(bytes[2 * head_dim + c]);
    const int both = bytes[3 * head_dim + c % (head_dim / 2)];
    block.widths.push_back(c < head_dim / 2 ? both % 16 : both / 16);
  }
  read_rows(bytes, round_up(3 * head_dim + head_dim / 2), block_size, block);
  return block;
}

TrellisBlock read_trellis_values(const uint8_t* bytes, int block_size, int head_dim, int width,
                                 int wide_pairs) {
  TrellisBlock block;
  block.widths = trellis_value_widths(head_dim, width, wide_pairs);
  block.scales.assign(bytes, bytes + block_size);
  read_rows(bytes, round_up(block_size), block_size, block);
  return block;
}

std::vector<uint8_t> write_trellis_block(const TrellisBlock& block, int block_size) {
  const auto head_dim = static_cast<int>(block.widths.size());
  std::vector<uint8_t> bytes;
  const auto put = [&](int byte) { bytes.push_back(static_cast<uint8_t>(byte & 255)); };
  for (int zero : block.zeros) {
    put(zero);
    put(zero >> 8);
  }
  for (int step : block.steps) put(step);
  for (int scale : block.scales) put(scale);
  for (int p = 0; !block.zeros.empty() && p < head_dim / 2; ++p) {
    put(block.widths[static_cast<size_t>(p)] +
        16 * block.widths[static_cast<size_t>(p + head_dim / 2)]);
  }
  const int64_t begin = round_up(static_cast<int64_t>(bytes.size()));
  bytes.resize(static_cast<size_t>(round_up(begin + int64_t{block_size} / 8 * sum(block.widths))),
               0);
  for_each_bit(begin, block_size, block.widths,
               [&](size_t c, size_t t, bool is_b, int bit, int64_t address) {
                 const TrellisRow& row = block.rows[c];
                 const int value = (is_b ? row.b : row.path)[t] >> bit & 1;
                 bytes[static_cast<size_t>(address / 8)] |=
                     static_cast<uint8_t>(value << address % 8);
               });
  return bytes;
}

std::vector<std::vector<double>> trellis_key_values(const TrellisBlock& block) {
  const size_t tokens = block.rows[0].path.size();
  std::vector<std::vector<double>> values(tokens, std::vector<double>(block.rows.size()));
  for (size_t c = 0; c < block.rows.size(); ++c) {
    const std::vector<int> levels = trellis_levels(block.rows[c]);
    for (size_t t = 0; t < tokens; ++t) {
      values[t][c] = step8(block.steps[c]) * (block.zeros[c] + levels[t]);
    }
  }
  return values;
}

std::vector<std::vector<double>> trellis_value_values(const TrellisBlock& block, int width) {
  const size_t tokens = block.rows[0].path.size();
  std::vector<std::vector<double>> values(tokens, std::vector<double>(block.rows.size()));
  for (size_t c = 0; c < block.rows.size(); ++c) {
    const std::vector<int> levels = trellis_levels(block.rows[c]);
    const double gain = block.widths[c] > width ? std::exp2(-7.0 / 8) : 1.0;
    for (size_t t = 0; t < tokens; ++t) {
      values[t][c] =
          step8(block.scales[t]) * gain * (2 * levels[t] + 1 - std::exp2(block.widths[c] + 1));
    }
  }
  return values;
}

std::vector<KeyChoice> key_choices(const std::vector<double>& x, double off, int width) {
  const double lo = *std::min_element(x.begin(), x.end());
  const double hi = *std::max_element(x.begin(), x.end());
  double average = 0;
  for (double each : x) average += each / static_cast<double>(x.size());
  const double top = std::exp2(width) - 1;
  const double middle = (lo + hi) / 2;
  const int least = nearest8(std::max(std::fabs(lo), std::fabs(hi)) / 32768) + 1;
  const int widest = nearest8((hi - lo) / top);
  const int count = width == 1 ? 15 : (width == 2 || width == 3 ? 5 : 2);
  struct Candidate {
    int step;
    double centre, best, worst;  // errors: over the zeros that fp32 may have taken
  };
  std::vector<Candidate> candidates;
  for (int k = 0; k < count; ++k) {
    const double factor = std::exp2(-k / 8.0);
    Candidate candidate = {std::max(widest - k, least),
                           k <= 1 ? middle : middle * factor + average * (1 - factor),
                           std::numeric_limits<double>::infinity(), 0};
    const double step = step8(candidate.step);
    // fp32 has computed centre / step < 2^15 with two roundings of a relative 2^-24.
    for (double zero :
         roundings(candidate.centre / step - top / 2, std::ldexp(1.0, -7) + off / step)) {
      double error = 0;
      for (double each : x) {
        const double v = each / step - zero;
        const double code = std::clamp(std::nearbyint(v), 0.0, top);
        error += (v - code) * (v - code) * step * step;
      }
      candidate.best = std::min(candidate.best, error);
      candidate.worst = std::max(candidate.worst, error);
    }
    candidates.push_back(candidate);
  }
  double bar = std::numeric_limits<double>::infinity();
  for (const Candidate& each : candidates) bar = std::min(bar, each.worst);
  constexpr int kShifts[] = {0, -3, -9, -8, -8, -8, -7, -7};
  std::vector<KeyChoice> choices;
  for (const Candidate& each : candidates) {
    // v = x / step - zero is off by what x is, two roundings of x / step < 2^15 and one of v: 2^-8
    // of a step at most for the roundings. An error of d steps moves the sum of T squares s by 2
    // sqrt(T s) d steps and T d^2 steps squared.
    const double step = step8(each.step), delta = off + std::ldexp(step, -8);
    const double count_of_keys = static_cast<double>(x.size());
    const double slack =
        2 * std::sqrt(count_of_keys * each.best) * delta + count_of_keys * delta * delta;
    if (each.best > bar + 2 * slack) continue;
    const int fine = std::min(std::max(each.step + kShifts[width], least), 255);
    const double zero = each.centre / step8(fine) - (2 * top + 1) / 2;
    choices.push_back({fine, std::clamp(zero, -32511.0, 32511.0)});
  }
  return choices;
}

std::vector<int> scale_choices(const std::vector<double>& x, int width, int wide_pairs) {
  const auto head_dim = static_cast<int>(x.size());
  const std::vector<int> widths = trellis_value_widths(head_dim, width, wide_pairs);
  // How far the levels of a width reach, in numbers and steps of 1.
  const auto reach = [&](int own) {
    const double gain = own > width ? std::exp2(-7.0 / 8) : 1.0;
    return gain * shrinkage(own) * (std::exp2(own + 1) - 1);
  };
  double most = 0, granular = 0;
  for (double each : x) most = std::max(most, std::fabs(each));
  for (int own : widths) granular += std::pow(reach(own) / std::exp2(own - 1), 2) / 12;
  const int widest = nearest8(most / reach(width));
  std::vector<int> scales;
  std::vector<double> errors, slacks;
  for (int k = 0; k < 9; ++k) {
    const double size = step8(std::max(widest - k, 0));
    double error = granular * size * size, off = 0;
    for (size_t c = 0; c < x.size(); ++c) {
      const double beyond = std::max(std::fabs(x[c]) - size * reach(widths[c]), 0.0);
      error += beyond * beyond;
      // The step's and the reach's rounding and the difference's.
      off += 2 * beyond * std::ldexp(2 * std::fabs(x[c]), -24);
    }
    scales.push_back(std::max(widest - k, 0));
    errors.push_back(error);
    // A sum of head_dim / 16 squares and a fold of 4; the granular part has 4 roundings.
    slacks.push_back(off + std::ldexp(error, -24) * (head_dim / 16.0 + 10));
  }
  // The first error that is not above the next; more than one where rounding may decide.
  std::vector<int> choices;
  for (size_t k = 0; k < scales.size(); ++k) {
    choices.push_back(scales[k]);
    if (k + 1 == scales.size() || scales[k + 1] == scales[k]) break;
    const double gained = errors[k] - errors[k + 1], slack = slacks[k] + slacks[k + 1];
    if (gained < -slack) break;
    if (gained > slack) choices.pop_back();
  }
  return choices;
}

}  // namespace rillkv::reference
