// f16 and bf16 arithmetic, one value or a packed pair. Everything is computed exactly or rounded
// to odd in double, then rounded once.
#include <cmath>

#include "tests/support/ptx/builder.h"
#include "tests/support/ptx/lanes.h"
#include "tests/support/ptx/number_formats.h"

namespace rillkv::ptx {
namespace {

/// What happens to a result before it is rounded.
enum class Clamp : uint8_t { kNone, kRelu, kSat };

/// F: doubles to a double, on values of a 16-bit format.
template <typename F, typename Format, Clamp kClamp, typename... S>
struct OneHalf {
  uint16_t operator()(S... s) const {
    double result = F{}(static_cast<double>(Format::widen(s))...);
    if constexpr (kClamp == Clamp::kRelu) result = result < 0 ? 0.0 : result;
    if constexpr (kClamp == Clamp::kSat) {
      result = result > 0 ? (result < 1 ? result : 1.0) : 0.0;
    }
    return Format::narrow(float_odd(result));
  }
};

template <typename One, typename... S>
struct BothHalves {
  uint32_t operator()(S... s) const {
    const uint32_t low = One{}(static_cast<uint16_t>(s)...);
    const uint32_t high = One{}(static_cast<uint16_t>(s >> 16)...);
    return low | high << 16;
  }
};

template <typename>
using Halves16 = uint16_t;
template <typename>
using Halves32 = uint32_t;

template <typename F, typename Format, Clamp kClamp, typename... D>
Handler packed_or_not(bool packed) {
  using One = OneHalf<F, Format, kClamp, Halves16<D>...>;
  return packed ? map_lanes(BothHalves<One, Halves32<D>...>{}) : map_lanes(One{});
}

template <typename F, typename Format, typename... D>
Handler clamped(Clamp clamp, bool packed) {
  switch (clamp) {
    case Clamp::kRelu:
      return packed_or_not<F, Format, Clamp::kRelu, D...>(packed);
    case Clamp::kSat:
      return packed_or_not<F, Format, Clamp::kSat, D...>(packed);
    case Clamp::kNone:
      break;
  }
  return packed_or_not<F, Format, Clamp::kNone, D...>(packed);
}

/// The handler of f: double(D...) for the opcode's format, after its .relu and .sat.
template <typename F, typename... D>
Handler handler_of(Builder& b, Type type, double (F::*)(D...) const) {
  const Clamp clamp = b.take("relu") ? Clamp::kRelu : b.take("sat") ? Clamp::kSat : Clamp::kNone;
  return type.kind == 'f' ? clamped<F, HalfFormat, D...>(clamp, type.packed)
                          : clamped<F, BfloatFormat, D...>(clamp, type.packed);
}
template <typename F>
Handler half_op(Builder& b, Type type, F) {
  return handler_of<F>(b, type, &F::operator());
}

double lesser(double x, double y) {
  if (x != x) return y;
  if (y != y) return x;
  if (x == y) return std::signbit(x) ? x : y;
  return x < y ? x : y;
}
double greater(double x, double y) { return -lesser(-x, -y); }

/// neg and abs touch the sign bit alone, whatever the format.
bool decode_sign(Builder& b, Type type) {
  if (b.name() == "neg") {
    b.op.run = type.packed ? map_lanes([](uint32_t x) { return x ^ 0x80008000u; })
                           : map_lanes([](uint16_t x) { return uint16_t(x ^ 0x8000); });
  } else {
    b.op.run = type.packed ? map_lanes([](uint32_t x) { return x & 0x7fff7fffu; })
                           : map_lanes([](uint16_t x) { return uint16_t(x & 0x7fff); });
  }
  return true;
}

}  // namespace

bool decode_half(Builder& b) {
  const Type type = parse_type(b.instruction().parts.back());
  const bool is_half = type.kind == 'h' || (type.kind == 'f' && (type.packed || type.bits == 16));
  if (!is_half) return false;
  const std::string& name = b.name();
  size_t sources = 2;
  b.take("rn");
  const bool nan = b.take("NaN");
  if (name == "add") {
    b.op.run = half_op(b, type, [](double x, double y) { return add_odd(x, y); });
  } else if (name == "sub") {
    b.op.run = half_op(b, type, [](double x, double y) { return add_odd(x, -y); });
  } else if (name == "mul") {
    b.op.run = half_op(b, type, [](double x, double y) { return x * y; });
  } else if (name == "fma") {
    sources = 3;
    b.op.run = half_op(b, type, [](double x, double y, double z) { return fma_odd(x, y, z); });
  } else if (name == "min") {
    b.op.run = nan ? half_op(b, type,
                             [](double x, double y) {
                               return x != x || y != y ? double{NAN} : lesser(x, y);
                             })
                   : half_op(b, type, [](double x, double y) { return lesser(x, y); });
  } else if (name == "max") {
    b.op.run = nan ? half_op(b, type,
                             [](double x, double y) {
                               return x != x || y != y ? double{NAN} : greater(x, y);
                             })
                   : half_op(b, type, [](double x, double y) { return greater(x, y); });
  } else if (name == "ex2" && b.take("approx")) {
    // bf16 spells .ftz, but 2^x of a bf16 is subnormal only below -126.
    if (type.kind == 'h' && !b.take("ftz")) b.unsupported();
    sources = 1;
    b.op.run = type.kind == 'h'
                   ? half_op(b, type, [](double x) { return x < -126 ? 0.0 : std::exp2(x); })
                   : half_op(b, type, [](double x) { return std::exp2(x); });
  } else if (name == "tanh" && b.take("approx")) {
    sources = 1;
    b.op.run = half_op(b, type, [](double x) { return std::tanh(x); });
  } else if (name == "neg" || name == "abs") {
    sources = 1;
    decode_sign(b, type);
  } else {
    return false;
  }
  b.take_type();
  const Type bits{'b', type.bits};
  b.op.operand[0] = b.out(0, bits);
  for (size_t i = 1; i <= sources; ++i) b.op.operand[i] = b.in(i, bits);
  return true;
}

}  // namespace rillkv::ptx
