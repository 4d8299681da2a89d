// cvt. A conversion is two steps: the source becomes 64-bit integers or doubles in the warp's
// scratch, both exact; then those are rounded or clamped into the result. The most frequent ones
// have handlers of their own.
#include <cmath>
#include <limits>

#include "tests/support/ptx/builder.h"
#include "tests/support/ptx/lanes.h"
#include "tests/support/ptx/number_formats.h"

namespace rillkv::ptx {
namespace {

// ---- the first step: operand[1] to scratch ----

template <typename T, typename Held>
void load_integer(Warp& w, const Op& op) {
  const Held* s = w.lanes<const Held>(op.operand[1]);
  for (int lane = 0; lane < kLanes; ++lane) {
    w.scratch_int[lane] = static_cast<int64_t>(static_cast<T>(s[lane]));
  }
  op.second(w, op);
}

template <typename T, typename F>
void load_float(Warp& w, const Op& op) {
  const T* s = w.lanes<const T>(op.operand[1]);
  for (int lane = 0; lane < kLanes; ++lane) w.scratch_float[lane] = F{}(s[lane]);
  op.second(w, op);
}

template <typename T>
Handler integer_loader(int held_bits) {
  switch (held_bits) {
    case 16:
      return load_integer<T, uint16_t>;
    case 32:
      return load_integer<T, uint32_t>;
    case 64:
      return load_integer<T, uint64_t>;
    default:
      return nullptr;
  }
}

Handler integer_loader(Type type, int held_bits) {
  const bool is_signed = type.kind == 's';
  switch (type.bits) {
    case 8:
      return is_signed ? integer_loader<int8_t>(held_bits) : integer_loader<uint8_t>(held_bits);
    case 16:
      return is_signed ? integer_loader<int16_t>(held_bits) : integer_loader<uint16_t>(held_bits);
    case 32:
      return is_signed ? integer_loader<int32_t>(held_bits) : integer_loader<uint32_t>(held_bits);
    case 64:
      return integer_loader<int64_t>(held_bits);
    default:
      return nullptr;
  }
}

double flush(float x) { return std::fabs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x; }

Handler float_loader(Type type, bool ftz) {
  if (type.kind == 'h') {
    const auto f = [](uint16_t x) -> double { return bfloat_to_float(x); };
    return load_float<uint16_t, decltype(f)>;
  }
  if (type.bits == 16) {
    const auto f = [](uint16_t x) -> double { return half_to_float(x); };
    return load_float<uint16_t, decltype(f)>;
  }
  if (type.bits == 64) {
    const auto f = [](double x) { return x; };
    return load_float<double, decltype(f)>;
  }
  const auto plain = [](float x) -> double { return x; };
  const auto flushed = [](float x) { return flush(x); };
  return ftz ? load_float<float, decltype(flushed)> : load_float<float, decltype(plain)>;
}

// ---- rounding to integral values, in between ----

enum Integral : int32_t { kNone, kNearest, kZero, kDown, kUp };

double integral(double x, int32_t mode) {
  switch (mode) {
    case kNearest:
      return std::nearbyint(x);
    case kZero:
      return std::trunc(x);
    case kDown:
      return std::floor(x);
    case kUp:
      return std::ceil(x);
    default:
      return x;
  }
}

// ---- the second step: scratch to operand[0] ----

/// Integers are cut to T (or clamped) and extended to the register by T's sign.
template <typename T, typename Held>
void store_integer(Warp& w, const Op& op) {
  Held* d = w.lanes<Held>(op.operand[0]);
  for_lanes(w.active,
            [&](int lane) { d[lane] = static_cast<Held>(static_cast<T>(w.scratch_int[lane])); });
}

template <typename T, typename Held>
void store_clamped(Warp& w, const Op& op) {
  Held* d = w.lanes<Held>(op.operand[0]);
  constexpr int64_t kLow = static_cast<int64_t>(std::numeric_limits<T>::min());
  constexpr int64_t kHigh = sizeof(T) == 8 ? std::numeric_limits<int64_t>::max()
                                           : static_cast<int64_t>(std::numeric_limits<T>::max());
  for_lanes(w.active, [&](int lane) {
    const int64_t x = w.scratch_int[lane];
    d[lane] = static_cast<Held>(static_cast<T>(x < kLow ? kLow : x > kHigh ? kHigh : x));
  });
}

/// Floats saturate; NaN becomes 0.
template <typename T, typename Held>
void store_from_float(Warp& w, const Op& op) {
  Held* d = w.lanes<Held>(op.operand[0]);
  constexpr double kLow = static_cast<double>(std::numeric_limits<T>::min());
  constexpr double kHigh = static_cast<double>(std::numeric_limits<T>::max());
  for_lanes(w.active, [&](int lane) {
    const double x = integral(w.scratch_float[lane], op.target);
    T result = 0;
    if (x >= kHigh) {
      result = std::numeric_limits<T>::max();
    } else if (x <= kLow) {
      result = std::numeric_limits<T>::min();
    } else if (x == x) {
      result = static_cast<T>(x);
    }
    d[lane] = static_cast<Held>(result);
  });
}

enum class IntegerStore : uint8_t { kCut, kClamp, kFromFloat };

template <typename T, typename Held>
Handler integer_store(IntegerStore how) {
  switch (how) {
    case IntegerStore::kClamp:
      return store_clamped<T, Held>;
    case IntegerStore::kFromFloat:
      return store_from_float<T, Held>;
    case IntegerStore::kCut:
      break;
  }
  return store_integer<T, Held>;
}
template <typename T>
Handler integer_store(int held_bits, IntegerStore how) {
  switch (held_bits) {
    case 16:
      return integer_store<T, uint16_t>(how);
    case 32:
      return integer_store<T, uint32_t>(how);
    case 64:
      return integer_store<T, uint64_t>(how);
    default:
      return nullptr;
  }
}
Handler integer_store(Type type, int held_bits, IntegerStore how) {
  const bool is_signed = type.kind == 's';
  switch (type.bits) {
    case 8:
      return is_signed ? integer_store<int8_t>(held_bits, how)
                       : integer_store<uint8_t>(held_bits, how);
    case 16:
      return is_signed ? integer_store<int16_t>(held_bits, how)
                       : integer_store<uint16_t>(held_bits, how);
    case 32:
      return is_signed ? integer_store<int32_t>(held_bits, how)
                       : integer_store<uint32_t>(held_bits, how);
    case 64:
      return is_signed ? integer_store<int64_t>(held_bits, how)
                       : integer_store<uint64_t>(held_bits, how);
    default:
      return nullptr;
  }
}

/// How a float result is made of a double: bits of Op::target beside the integral mode.
constexpr int32_t kModeMask = 7;
constexpr int32_t kRoundingShift = 4;
constexpr int32_t kFtz = 64;
constexpr int32_t kSat = 128;
constexpr int32_t kRelu = 256;

double shaped(double x, int32_t how) {
  x = integral(x, how & kModeMask);
  if ((how & kSat) != 0) return x > 0 ? (x < 1 ? x : 1.0) : 0.0;
  if ((how & kRelu) != 0) return x < 0 ? 0.0 : x;
  return x;
}
Rounding rounding_of(int32_t how) { return static_cast<Rounding>(how >> kRoundingShift & 3); }

void store_f64(Warp& w, const Op& op) {
  double* d = w.lanes<double>(op.operand[0]);
  for_lanes(w.active, [&](int lane) { d[lane] = shaped(w.scratch_float[lane], op.target); });
}
void store_f32(Warp& w, const Op& op) {
  float* d = w.lanes<float>(op.operand[0]);
  for_lanes(w.active, [&](int lane) {
    const float x =
        canonical(round_to_float(shaped(w.scratch_float[lane], op.target), rounding_of(op.target)));
    d[lane] = (op.target & kFtz) != 0 ? static_cast<float>(flush(x)) : x;
  });
}
template <typename Format>
void store_16_bits(Warp& w, const Op& op) {
  uint16_t* d = w.lanes<uint16_t>(op.operand[0]);
  for_lanes(w.active, [&](int lane) {
    d[lane] =
        round_to_16_bits<Format>(shaped(w.scratch_float[lane], op.target), rounding_of(op.target));
  });
}

Handler float_store(Type type) {
  if (type.kind == 'h') return store_16_bits<BfloatFormat>;
  if (type.bits == 16) return store_16_bits<HalfFormat>;
  return type.bits == 32 ? store_f32 : store_f64;
}

void integers_to_floats(Warp& w, const Op& op) {
  for (int lane = 0; lane < kLanes; ++lane) {
    w.scratch_float[lane] = static_cast<double>(w.scratch_int[lane]);
  }
  float_store(static_cast<char>(op.bytes) == 'h'   ? Type{'h', 16}
              : static_cast<char>(op.bytes) == '2' ? Type{'f', 16}
              : static_cast<char>(op.bytes) == '4' ? Type{'f', 32}
                                                   : Type{'f', 64})(w, op);
}

// ---- two floats to a packed pair ----

template <typename Format>
void pack_pair(Warp& w, const Op& op) {
  uint32_t* d = w.lanes<uint32_t>(op.operand[0]);
  const float* high = w.lanes<const float>(op.operand[1]);
  const float* low = w.lanes<const float>(op.operand[2]);
  for_lanes(w.active, [&](int lane) {
    const uint32_t top =
        round_to_16_bits<Format>(shaped(high[lane], op.target), rounding_of(op.target));
    const uint32_t bottom =
        round_to_16_bits<Format>(shaped(low[lane], op.target), rounding_of(op.target));
    d[lane] = top << 16 | bottom;
  });
}
template <typename Format>
Handler pack_pair_nearest() {
  return map_lanes([](float high, float low) {
    return static_cast<uint32_t>(Format::narrow(high)) << 16 | Format::narrow(low);
  });
}

bool decode_pair(Builder& b, Type type) {
  if (b.operand_count() != 3 || b.take_type() != Type{'f', 32}) b.unsupported();
  b.op.operand[0] = b.out(0, {'b', 32});
  b.op.operand[1] = b.in(1, {'f', 32});
  b.op.operand[2] = b.in(2, {'f', 32});
  if (b.op.target == 0) {
    b.op.run =
        type.kind == 'f' ? pack_pair_nearest<HalfFormat>() : pack_pair_nearest<BfloatFormat>();
  } else {
    b.op.run = type.kind == 'f' ? pack_pair<HalfFormat> : pack_pair<BfloatFormat>;
  }
  return true;
}

// ---- the frequent ones ----

Handler fast_path(Type to, int to_held, Type from, int from_held) {
  const auto is = [](Type type, int held, char kind, int bits) {
    return type.kind == kind && type.bits == bits && held == bits;
  };
  if (is(from, from_held, 'f', 32) && is(to, to_held, 'f', 16)) {
    return map_lanes([](float x) { return float_to_half(x); });
  }
  if (is(from, from_held, 'f', 32) && is(to, to_held, 'h', 16)) {
    return map_lanes([](float x) { return float_to_bfloat(x); });
  }
  if (is(from, from_held, 'f', 16) && is(to, to_held, 'f', 32)) {
    return map_lanes([](uint16_t x) { return canonical(half_to_float(x)); });
  }
  if (is(from, from_held, 's', 32) && is(to, to_held, 'f', 32)) {
    return map_lanes([](int32_t x) { return static_cast<float>(x); });
  }
  if (is(from, from_held, 'u', 32) && is(to, to_held, 'f', 32)) {
    return map_lanes([](uint32_t x) { return static_cast<float>(x); });
  }
  // 64-bit integers are rounded once, by the host.
  if (is(from, from_held, 's', 64) && is(to, to_held, 'f', 32)) {
    return map_lanes([](int64_t x) { return static_cast<float>(x); });
  }
  if (is(from, from_held, 'u', 64) && is(to, to_held, 'f', 32)) {
    return map_lanes([](uint64_t x) { return static_cast<float>(x); });
  }
  if (is(from, from_held, 'u', 64) && is(to, to_held, 'f', 64)) {
    return map_lanes([](uint64_t x) { return static_cast<double>(x); });
  }
  if (is(from, from_held, 's', 32) && (is(to, to_held, 's', 64) || is(to, to_held, 'u', 64))) {
    return map_lanes([](int32_t x) { return static_cast<int64_t>(x); });
  }
  if (is(from, from_held, 'u', 32) && (is(to, to_held, 's', 64) || is(to, to_held, 'u', 64))) {
    return map_lanes([](uint32_t x) { return static_cast<uint64_t>(x); });
  }
  if (from_held == 64 && from.bits == 64 && from.kind != 'f' && to_held == 32 && to.bits == 32 &&
      to.kind != 'f') {
    return map_lanes([](uint64_t x) { return static_cast<uint32_t>(x); });
  }
  return nullptr;
}

}  // namespace

bool decode_convert(Builder& b) {
  if (b.name() != "cvt") return false;
  int32_t& how = b.op.target;
  const std::string mode = b.take_any({"rn", "rz", "rm", "rp", "rni", "rzi", "rmi", "rpi"});
  const bool to_integral = mode.size() == 3;
  const size_t which = mode.empty() ? 0 : std::string("nzmp").find(mode[1]);
  if (to_integral) {
    how |= static_cast<int32_t>(which) + 1;
  } else {
    how |= static_cast<int32_t>(which) << kRoundingShift;
  }
  const bool ftz = b.take("ftz");
  const bool sat = b.take("sat");
  if (b.take("relu")) how |= kRelu;
  const Type to = b.take_type();
  if (to.packed) return decode_pair(b, to);
  const Type from = b.take_type();
  if (from.packed) b.unsupported();
  const bool from_float = from.kind == 'f' || from.kind == 'h';
  const bool to_float = to.kind == 'f' || to.kind == 'h';

  int to_held = 0;
  int from_held = 0;
  b.op.operand[0] = b.out_wide(b.operand(0), to, &to_held);
  b.op.operand[1] = b.in_wide(b.operand(1), from, &from_held);
  if (to_held < to.bits || from_held < from.bits || (to_float && to_held != to.bits) ||
      (from_float && from_held != from.bits)) {
    b.unsupported();
  }
  if (how == 0 && !ftz && !sat) {
    b.op.run = fast_path(to, to_held, from, from_held);
    if (b.op.run != nullptr) return true;
  }
  if (ftz) how |= kFtz;
  if (from_float) {
    b.op.run = float_loader(from, ftz);
    if (to_float) {
      if (sat) how |= kSat;
      b.op.second = float_store(to);
    } else {
      how &= kModeMask;
      b.op.second = integer_store(to, to_held, IntegerStore::kFromFloat);
    }
  } else {
    b.op.run = integer_loader(from, from_held);
    if (to_float) {
      // Doubles hold integers of 32 bits; wider ones would be rounded twice.
      if (sat || (from.bits == 64 && !(to.bits == 64 && from.kind == 's'))) b.unsupported();
      b.op.bytes = static_cast<uint8_t>(to.kind == 'h' ? 'h' : '0' + to.bits / 8);
      b.op.second = integers_to_floats;
    } else {
      if (sat && from.bits == 64 && from.kind != 's') b.unsupported();
      b.op.second = integer_store(to, to_held, sat ? IntegerStore::kClamp : IntegerStore::kCut);
    }
  }
  return b.op.run != nullptr && b.op.second != nullptr;
}

}  // namespace rillkv::ptx
