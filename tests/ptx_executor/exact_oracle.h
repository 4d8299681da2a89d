// Rounding by searching: every value of a format in one sorted table, compared with the exact
// result in 113-bit arithmetic. Slow, and shares nothing with the executor.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace rillkv::ptx {

using Exact = __float128;

enum class Direction { kNearestEven, kTowardsZero, kDown, kUp };

/// A 16-bit binary format with `exponent_bits`: 5 is f16, 8 is bf16.
class SmallFormat {
 public:
  explicit SmallFormat(int exponent_bits) : exponent_bits_(exponent_bits) {
    // Finite values without sign, in order: encodings of non-negative values are ordered.
    for (uint32_t code = 0; code < infinity(); ++code) magnitudes_.push_back(decode(code));
  }
  uint16_t infinity() const {
    return static_cast<uint16_t>(((1u << exponent_bits_) - 1) << fraction_bits());
  }
  static constexpr uint16_t kNan = 0x7fff;

  Exact value(uint16_t code) const {
    const Exact magnitude =
        (code & 0x7fff) == infinity() ? static_cast<Exact>(INFINITY) : decode(code & 0x7fffu);
    return (code & 0x8000) != 0 ? -magnitude : magnitude;
  }
  bool is_nan(uint16_t code) const { return (code & 0x7fff) > infinity(); }

  /// `negative_zero` tells the sign of an exact zero.
  uint16_t round(Exact x, Direction direction, bool negative_zero = false) const {
    if (x != x) return kNan;
    const bool negative = x < 0 || (x == 0 && negative_zero);
    const Exact magnitude = negative ? -x : x;
    const uint16_t sign = negative ? 0x8000 : 0;
    // The first magnitude that is not below, or one past the last finite value.
    const size_t above = static_cast<size_t>(
        std::lower_bound(magnitudes_.begin(), magnitudes_.end(), magnitude) - magnitudes_.begin());
    if (above < magnitudes_.size() && magnitudes_[above] == magnitude) {
      return static_cast<uint16_t>(sign | above);
    }
    if (magnitude == static_cast<Exact>(INFINITY)) return sign | infinity();
    const size_t below = above - 1;
    bool up = false;
    switch (direction) {
      case Direction::kTowardsZero:
        break;
      case Direction::kDown:
        up = negative;
        break;
      case Direction::kUp:
        up = !negative;
        break;
      case Direction::kNearestEven: {
        // Past the last value, the next one of a wider format decides.
        const Exact next = above < magnitudes_.size()
                               ? magnitudes_[above]
                               : 2 * magnitudes_[below] - magnitudes_[below - 1];
        const Exact to_next = next - magnitude;
        const Exact to_last = magnitude - magnitudes_[below];
        up = to_next < to_last || (to_next == to_last && below % 2 == 1);
        break;
      }
    }
    return static_cast<uint16_t>(sign | (up ? above : below));
  }

 private:
  int fraction_bits() const { return 15 - exponent_bits_; }
  Exact decode(uint32_t code) const {
    const int fraction = fraction_bits();
    const int bias = (1 << (exponent_bits_ - 1)) - 1;
    const int exponent = static_cast<int>(code >> fraction);
    const double significand =
        static_cast<double>(code & ((1u << fraction) - 1)) / static_cast<double>(1 << fraction) +
        (exponent > 0 ? 1.0 : 0.0);
    return static_cast<Exact>(std::ldexp(significand, std::max(exponent, 1) - bias));
  }

  int exponent_bits_;
  std::vector<Exact> magnitudes_;
};

inline const SmallFormat& half_format() {
  static const SmallFormat format(5);
  return format;
}
inline const SmallFormat& bfloat_format() {
  static const SmallFormat format(8);
  return format;
}

/// Whether `got` is `exact` rounded to float in the given direction: checked by its neighbours.
inline bool is_rounded_float(float got, Exact exact, Direction direction) {
  if (exact != exact) return got != got;
  if (got != got) return false;
  if (static_cast<Exact>(got) == exact) return true;
  const Exact infinity = static_cast<Exact>(INFINITY);
  if (exact == infinity || exact == -infinity) return false;
  const Exact largest = static_cast<Exact>(3.40282346638528859811704183484516925e+38f);
  const Exact step = static_cast<Exact>(std::ldexp(1.0, 104));  // between the largest floats
  // Infinity stands for the value that would come after the largest.
  const auto finite = [&](float x) {
    return std::isinf(x) ? (x > 0 ? largest + step : -largest - step) : static_cast<Exact>(x);
  };
  const Exact here = finite(got);
  const Exact next = finite(std::nextafter(got, here < exact ? INFINITY : -INFINITY));
  const bool between =
      here < exact ? exact < next || std::isinf(got) : next < exact || std::isinf(got);
  switch (direction) {
    case Direction::kDown:
      return here < exact && between && !(got == INFINITY);
    case Direction::kUp:
      return here > exact && between && !(got == -INFINITY);
    case Direction::kTowardsZero:
      return (exact > 0 ? here < exact : here > exact) && between && !std::isinf(got);
    case Direction::kNearestEven:
      break;
  }
  const Exact to_here = here < exact ? exact - here : here - exact;
  const Exact to_next = next < exact ? exact - next : next - exact;
  uint32_t bits;
  std::memcpy(&bits, &got, sizeof bits);
  return to_here < to_next || (to_here == to_next && bits % 2 == 0);
}

}  // namespace rillkv::ptx
