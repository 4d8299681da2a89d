// f32 and f64 arithmetic. f32 in the default rounding is the host's own; directed rounding goes
// through number_formats.h. The .approx instructions return the correctly rounded value, which
// lies within every bound that PTX gives for them.
#include <bit>
#include <cmath>

#include "tests/support/ptx/builder.h"
#include "tests/support/ptx/lanes.h"
#include "tests/support/ptx/number_formats.h"

namespace rillkv::ptx {
namespace {

template <bool kFtz>
float flush(float x) {
  if constexpr (kFtz) return std::fabs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x;
  return x;
}

/// F with subnormals flushed on the way in and out, the result clamped to [0, 1] (NaN to 0).
template <typename F, bool kFtz, bool kSat, typename... S>
struct Shaped {
  float operator()(S... s) const {
    float result = F{}(flush<kFtz>(s)...);
    if constexpr (kSat) result = result > 0 ? (result < 1 ? result : 1.0f) : 0.0f;
    return canonical(flush<kFtz>(result));
  }
};

template <typename... S, typename F>
Handler shaped(Builder& b, F) {
  const bool ftz = b.take("ftz");
  const bool sat = b.take("sat");
  if (ftz)
    return sat ? map_lanes(Shaped<F, true, true, S...>{})
               : map_lanes(Shaped<F, true, false, S...>{});
  return sat ? map_lanes(Shaped<F, false, true, S...>{})
             : map_lanes(Shaped<F, false, false, S...>{});
}

Rounding take_rounding(Builder& b) {
  const std::string mode = b.take_any({"rn", "rz", "rm", "rp"});
  if (mode == "rz") return Rounding::kZero;
  if (mode == "rm") return Rounding::kDown;
  if (mode == "rp") return Rounding::kUp;
  return Rounding::kNearest;
}

/// The handler of Exact (a double rounded to odd) rounded to f32 in the given direction.
template <typename... S, typename Exact>
Handler directed(Builder& b, Rounding mode, Exact) {
  switch (mode) {
    case Rounding::kZero:
      return shaped<S...>(b, [](S... s) { return round_to_float(Exact{}(s...), Rounding::kZero); });
    case Rounding::kDown:
      return shaped<S...>(b, [](S... s) { return round_to_float(Exact{}(s...), Rounding::kDown); });
    case Rounding::kUp:
      return shaped<S...>(b, [](S... s) { return round_to_float(Exact{}(s...), Rounding::kUp); });
    case Rounding::kNearest:
      break;
  }
  return nullptr;
}

using F32 = float;

template <typename T>
T minimum(T x, T y) {
  if (x != x) return y;
  if (y != y) return x;
  if (x == y) return std::signbit(x) ? x : y;  // -0 is less than +0
  return x < y ? x : y;
}
template <typename T>
T maximum(T x, T y) {
  if (x != x) return y;
  if (y != y) return x;
  if (x == y) return std::signbit(x) ? y : x;
  return x > y ? x : y;
}

/// Exactly 0 from terms that cancel is -0 when rounding down.
Handler round_down_fma(Builder& b) {
  return shaped<F32, F32, F32>(b, [](float x, float y, float z) {
    const double sum = fma_odd(x, y, z);
    const bool negative = std::signbit(x) != std::signbit(y);
    if (sum == 0) return negative || std::signbit(z) ? -0.0f : 0.0f;
    return round_to_float(sum, Rounding::kDown);
  });
}

bool decode_f32_sum(Builder& b) {
  const std::string& name = b.name();
  const Rounding mode = take_rounding(b);
  if (name == "add" || name == "sub") {
    if (mode == Rounding::kNearest) {
      b.op.run = name == "add" ? shaped<F32, F32>(b, [](float x, float y) { return x + y; })
                               : shaped<F32, F32>(b, [](float x, float y) { return x - y; });
    } else if (mode == Rounding::kDown) {
      // x + y = 0 exactly: -0, unless both are +0.
      b.op.run = name == "add" ? shaped<F32, F32>(
                                     b,
                                     [](float x, float y) {
                                       const double sum = add_odd(x, y);
                                       if (sum == 0)
                                         return std::signbit(x) || std::signbit(y) ? -0.0f : 0.0f;
                                       return round_to_float(sum, Rounding::kDown);
                                     })
                               : shaped<F32, F32>(b, [](float x, float y) {
                                   const double sum = add_odd(x, -y);
                                   if (sum == 0)
                                     return std::signbit(x) || !std::signbit(y) ? -0.0f : 0.0f;
                                   return round_to_float(sum, Rounding::kDown);
                                 });
    } else {
      b.op.run = name == "add"
                     ? directed<F32, F32>(b, mode, [](float x, float y) { return add_odd(x, y); })
                     : directed<F32, F32>(b, mode, [](float x, float y) { return add_odd(x, -y); });
    }
    return true;
  }
  if (name == "mul") {
    b.op.run = mode == Rounding::kNearest
                   ? shaped<F32, F32>(b, [](float x, float y) { return x * y; })
                   : directed<F32, F32>(
                         b, mode, [](float x, float y) { return static_cast<double>(x) * y; });
    return true;
  }
  // fma, mad
  b.op.run =
      mode == Rounding::kNearest
          ? shaped<F32, F32, F32>(b, [](float x, float y, float z) { return std::fma(x, y, z); })
      : mode == Rounding::kDown ? round_down_fma(b)
                                : directed<F32, F32, F32>(b, mode, [](float x, float y, float z) {
                                    return fma_odd(x, y, z);
                                  });
  return true;
}

bool decode_f32_quotient(Builder& b) {
  const std::string& name = b.name();
  if (b.take("approx") || b.take("full")) {
    if (name == "div") {
      b.op.run = shaped<F32, F32>(b, [](float x, float y) { return x / y; });
    } else if (name == "rcp") {
      b.op.run = shaped<F32>(b, [](float x) { return 1.0f / x; });
    } else {
      b.op.run = shaped<F32>(b, [](float x) { return std::sqrt(x); });
    }
    return true;
  }
  const Rounding mode = take_rounding(b);
  if (mode == Rounding::kNearest) {
    if (name == "div") {
      b.op.run = shaped<F32, F32>(b, [](float x, float y) { return x / y; });
    } else if (name == "rcp") {
      b.op.run = shaped<F32>(b, [](float x) { return 1.0f / x; });
    } else {
      b.op.run = shaped<F32>(b, [](float x) { return std::sqrt(x); });
    }
  } else if (name == "div") {
    b.op.run = directed<F32, F32>(b, mode, [](float x, float y) { return div_odd(x, y); });
  } else if (name == "rcp") {
    b.op.run = directed<F32>(b, mode, [](float x) { return div_odd(1.0, x); });
  } else {
    b.op.run = directed<F32>(b, mode, [](float x) { return sqrt_odd(x); });
  }
  return true;
}

bool decode_f32_function(Builder& b) {
  const std::string& name = b.name();
  if (!b.take("approx")) b.unsupported();
  const auto through_double = [&b](auto f) {
    return shaped<F32>(b, [](float x) { return static_cast<float>(decltype(f){}(double{x})); });
  };
  if (name == "rsqrt") b.op.run = through_double([](double x) { return 1.0 / std::sqrt(x); });
  if (name == "ex2") b.op.run = through_double([](double x) { return std::exp2(x); });
  if (name == "lg2") b.op.run = through_double([](double x) { return std::log2(x); });
  if (name == "sin") b.op.run = through_double([](double x) { return std::sin(x); });
  if (name == "cos") b.op.run = through_double([](double x) { return std::cos(x); });
  if (name == "tanh") b.op.run = through_double([](double x) { return std::tanh(x); });
  return true;
}

bool decode_f32(Builder& b) {
  const std::string& name = b.name();
  const auto is = [&](std::initializer_list<const char*> names) {
    for (const char* n : names) {
      if (name == n) return true;
    }
    return false;
  };
  size_t sources = 1;
  if (is({"add", "sub", "mul"})) {
    sources = 2;
    decode_f32_sum(b);
  } else if (is({"fma", "mad"})) {
    sources = 3;
    decode_f32_sum(b);
  } else if (is({"div", "rcp", "sqrt"})) {
    sources = name == "div" ? 2 : 1;
    decode_f32_quotient(b);
  } else if (is({"rsqrt", "ex2", "lg2", "sin", "cos", "tanh"})) {
    decode_f32_function(b);
  } else if (is({"min", "max"})) {
    sources = 2;
    const bool nan = b.take("NaN");
    if (name == "min") {
      b.op.run =
          nan ? shaped<F32, F32>(
                    b, [](float x, float y) { return x != x || y != y ? NAN : minimum(x, y); })
              : shaped<F32, F32>(b, [](float x, float y) { return minimum(x, y); });
    } else {
      b.op.run =
          nan ? shaped<F32, F32>(
                    b, [](float x, float y) { return x != x || y != y ? NAN : maximum(x, y); })
              : shaped<F32, F32>(b, [](float x, float y) { return maximum(x, y); });
    }
  } else if (name == "abs") {
    b.op.run = shaped<F32>(b, [](float x) { return std::fabs(x); });
  } else if (name == "neg") {
    b.op.run = shaped<F32>(b, [](float x) { return -x; });
  } else if (name == "copysign") {  // the sign of the first, the value of the second
    sources = 2;
    b.op.run = map_lanes([](float x, float y) { return std::copysign(y, x); });
  } else {
    return false;
  }
  const Type type = b.take_type();
  b.op.operand[0] = b.out(0, type);
  for (size_t i = 1; i <= sources; ++i) b.op.operand[i] = b.in(i, type);
  return true;
}

bool decode_f64(Builder& b) {
  const std::string& name = b.name();
  b.take("rn");
  size_t sources = 2;
  if (name == "add") {
    b.op.run = map_lanes([](double x, double y) { return x + y; });
  } else if (name == "sub") {
    b.op.run = map_lanes([](double x, double y) { return x - y; });
  } else if (name == "mul") {
    b.op.run = map_lanes([](double x, double y) { return x * y; });
  } else if (name == "div") {
    b.op.run = map_lanes([](double x, double y) { return x / y; });
  } else if (name == "min") {
    b.op.run = map_lanes([](double x, double y) { return minimum(x, y); });
  } else if (name == "max") {
    b.op.run = map_lanes([](double x, double y) { return maximum(x, y); });
  } else if (name == "fma" || name == "mad") {
    sources = 3;
    b.op.run = map_lanes([](double x, double y, double z) { return std::fma(x, y, z); });
  } else {
    sources = 1;
    if (name == "abs") b.op.run = map_lanes([](double x) { return std::fabs(x); });
    if (name == "neg") b.op.run = map_lanes([](double x) { return -x; });
    if (name == "rcp") b.op.run = map_lanes([](double x) { return 1.0 / x; });
    if (name == "sqrt") b.op.run = map_lanes([](double x) { return std::sqrt(x); });
  }
  if (b.op.run == nullptr) return false;
  const Type type = b.take_type();
  b.op.operand[0] = b.out(0, type);
  for (size_t i = 1; i <= sources; ++i) b.op.operand[i] = b.in(i, type);
  return true;
}

}  // namespace

bool decode_float(Builder& b) {
  const Type type = parse_type(b.instruction().parts.back());
  if (type.kind != 'f' || type.packed) return false;
  static const char* const kNames[] = {"add",  "sub",   "mul", "fma", "mad",     "div", "rcp",
                                       "sqrt", "rsqrt", "ex2", "lg2", "sin",     "cos", "tanh",
                                       "min",  "max",   "abs", "neg", "copysign"};
  for (const char* name : kNames) {
    if (b.name() != name) continue;
    if (type.bits == 32) return decode_f32(b);
    if (type.bits == 64) return decode_f64(b);
  }
  return false;
}

}  // namespace rillkv::ptx
