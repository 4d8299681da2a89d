#include "tests/reference/half.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace rillkv::reference {
namespace {

/// Values of the patterns 0x0000 ... 0x7bff: all non-negative finite numbers, ascending.
const std::vector<double>& magnitudes() {
  static const std::vector<double> table = [] {
    std::vector<double> values(0x7c00);
    for (uint32_t bits = 0; bits < values.size(); ++bits) {
      values[bits] = half_value(static_cast<uint16_t>(bits));
    }
    return values;
  }();
  return table;
}

}  // namespace

double half_value(uint16_t bits) {
  const int exponent = (bits >> 10) & 31;
  const int fraction = bits & 1023;
  const double sign = (bits & 0x8000) != 0 ? -1.0 : 1.0;
  if (exponent == 31) {
    return fraction != 0 ? std::numeric_limits<double>::quiet_NaN()
                         : sign * std::numeric_limits<double>::infinity();
  }
  if (exponent == 0) return sign * std::ldexp(fraction, -24);
  return sign * std::ldexp(1024 + fraction, exponent - 25);
}

uint16_t half_round(double x, Direction direction) {
  const bool negative = std::signbit(x);
  const double magnitude = std::fabs(x);
  const std::vector<double>& table = magnitudes();
  // First entry >= magnitude; its predecessor is the neighbour towards zero.
  const auto above =
      static_cast<size_t>(std::lower_bound(table.begin(), table.end(), magnitude) - table.begin());
  const uint16_t sign = negative ? 0x8000 : 0;
  const auto pattern = [&](size_t index) { return static_cast<uint16_t>(sign | index); };
  if (above < table.size() && table[above] == magnitude) return pattern(above);
  // `above` is at least 1 from here on; 0x7c00, the pattern after the last, is infinity.
  if (direction != Direction::kNearest) {
    const bool away = negative == (direction == Direction::kDown);
    return pattern(away ? above : above - 1);
  }
  const double upper = above < table.size() ? table[above] : 65536.0;
  const double middle = (table[above - 1] + upper) / 2;
  if (magnitude != middle) return pattern(magnitude > middle ? above : above - 1);
  return pattern(above % 2 == 0 ? above : above - 1);
}

double bfloat16_round(double x) {
  if (x == 0.0 || !std::isfinite(x)) return x;
  int exponent = 0;
  const double fraction = std::frexp(x, &exponent);  // in [0.5, 1)
  return std::ldexp(std::nearbyint(std::ldexp(fraction, 8)), exponent - 8);
}

double bfloat16_value(uint16_t bits) {
  const int exponent = (bits >> 7) & 255;
  const int fraction = bits & 127;
  const double sign = (bits & 0x8000) != 0 ? -1.0 : 1.0;
  if (exponent == 255) {
    return fraction != 0 ? std::numeric_limits<double>::quiet_NaN()
                         : sign * std::numeric_limits<double>::infinity();
  }
  if (exponent == 0) return sign * std::ldexp(fraction, -133);
  return sign * std::ldexp(128 + fraction, exponent - 134);
}

}  // namespace rillkv::reference
