// Integer arithmetic and bit manipulation. Wrap-around is computed in unsigned types.
#include <algorithm>
#include <limits>
#include <type_traits>

#include "tests/support/ptx/builder.h"
#include "tests/support/ptx/lanes.h"

namespace rillkv::ptx {
namespace {

template <typename T>
using Unsigned = std::make_unsigned_t<T>;
template <typename T>
inline constexpr int kBits = static_cast<int>(8 * sizeof(T));

/// A type that holds the product of two T.
template <typename T>
struct Wider;
template <>
struct Wider<uint16_t> {
  using type = uint32_t;
};
template <>
struct Wider<int16_t> {
  using type = int32_t;
};
template <>
struct Wider<uint32_t> {
  using type = uint64_t;
};
template <>
struct Wider<int32_t> {
  using type = int64_t;
};
template <>
struct Wider<uint64_t> {
  using type = unsigned __int128;
};
template <>
struct Wider<int64_t> {
  using type = __int128;
};

template <typename T>
Unsigned<T> multiply_low(T x, T y) {
  // Through 64 bits: 16-bit operands would be promoted to int, which can overflow.
  return static_cast<Unsigned<T>>(static_cast<uint64_t>(x) * static_cast<uint64_t>(y));
}
template <typename T>
T multiply_high(T x, T y) {
  using W = typename Wider<T>::type;
  return static_cast<T>((static_cast<W>(x) * static_cast<W>(y)) >> kBits<T>);
}

// Division by zero is undefined in PTX; the hardware returns all ones, and the dividend for rem.
template <typename T>
T divide(T x, T y) {
  if (y == 0) return static_cast<T>(~T{0});
  if (std::is_signed_v<T> && y == static_cast<T>(-1))
    return static_cast<T>(Unsigned<T>{0} - Unsigned<T>(x));
  return static_cast<T>(x / y);
}
template <typename T>
T remainder(T x, T y) {
  if (y == 0) return x;
  if (std::is_signed_v<T> && y == static_cast<T>(-1)) return 0;
  return static_cast<T>(x % y);
}

template <typename T>
T shift_left(T x, uint32_t n) {
  return n >= uint32_t{kBits<T>} ? T{0} : static_cast<T>(Unsigned<T>(x) << n);
}
template <typename T>
T shift_right(T x, uint32_t n) {
  return static_cast<T>(x >> std::min<uint32_t>(n, kBits<T> - 1)) &
         static_cast<T>(std::is_signed_v<T> || n < uint32_t{kBits<T>} ? ~T{0} : T{0});
}

/// Bit field: length and position are taken modulo 256; bits past the end are the sign (or 0).
template <typename T>
T extract_field(T x, uint32_t position, uint32_t length) {
  position &= 0xff;
  length &= 0xff;
  constexpr uint32_t kEnd = kBits<T>;
  if (length == 0) return 0;
  const uint32_t sign_at = std::min(position + length - 1, kEnd - 1);
  const bool sign = std::is_signed_v<T> && ((Unsigned<T>(x) >> sign_at) & 1) != 0;
  Unsigned<T> result = 0;
  for (uint32_t i = 0; i < kEnd; ++i) {
    const bool bit =
        i < length && position + i < kEnd ? ((Unsigned<T>(x) >> (position + i)) & 1) != 0 : sign;
    result |= static_cast<Unsigned<T>>(bit) << i;
  }
  return static_cast<T>(result);
}
template <typename T>
T insert_field(T field, T base, uint32_t position, uint32_t length) {
  position &= 0xff;
  length &= 0xff;
  constexpr uint32_t kEnd = kBits<T>;
  if (position >= kEnd || length == 0) return base;
  const T ones = length >= kEnd ? ~T{0} : static_cast<T>((T{1} << length) - 1);
  const T mask = static_cast<T>(ones << position);
  return static_cast<T>((base & ~mask) | ((field << position) & mask));
}

template <typename T>
uint32_t leading_zeros(T x) {
  if (x == 0) return kBits<T>;
  return static_cast<uint32_t>(kBits<T> == 64 ? __builtin_clzll(x)
                                              : __builtin_clz(static_cast<uint32_t>(x)));
}
/// Position of the most significant bit that differs from the sign; all ones if there is none.
template <typename T>
uint32_t find_leading(T x) {
  const Unsigned<T> bits = static_cast<Unsigned<T>>(x < 0 ? ~x : x);
  return bits == 0 ? ~0u : kBits<T> - 1 - leading_zeros(bits);
}
template <typename T>
T reverse_bits(T x) {
  T result = 0;
  for (int i = 0; i < kBits<T>; ++i) result |= static_cast<T>((x >> i) & 1) << (kBits<T> - 1 - i);
  return result;
}

// Rows of the table are numbered a*4 + b*2 + c.
uint32_t look_up(uint32_t a, uint32_t b, uint32_t c, uint32_t table) {
  uint32_t result = 0;
  for (uint32_t row = 0; row < 8; ++row) {
    const uint32_t in_row =
        ((row & 4) != 0 ? a : ~a) & ((row & 2) != 0 ? b : ~b) & ((row & 1) != 0 ? c : ~c);
    result |= (table >> row & 1) != 0 ? in_row : 0u;
  }
  return result;
}

uint32_t permute_bytes(uint32_t a, uint32_t b, uint32_t selector) {
  const uint64_t bytes = a | static_cast<uint64_t>(b) << 32;
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t choice = selector >> (4 * i);
    const uint32_t byte = static_cast<uint32_t>(bytes >> (8 * (choice & 7))) & 0xff;
    const uint32_t sign = (byte & 0x80) != 0 ? 0xffu : 0u;
    result |= ((choice & 8) != 0 ? sign : byte) << (8 * i);
  }
  return result;
}

template <typename A, typename B>
uint32_t dot_bytes(uint32_t a, uint32_t b, uint32_t c) {
  for (int i = 0; i < 4; ++i) {
    c += static_cast<uint32_t>(static_cast<int32_t>(static_cast<A>(a >> (8 * i))) *
                               static_cast<int32_t>(static_cast<B>(b >> (8 * i))));
  }
  return c;
}

template <bool kLeft, bool kClamp>
uint32_t funnel(uint32_t low, uint32_t high, uint32_t n) {
  n = kClamp ? std::min(n, 32u) : n & 31;
  const uint64_t both = static_cast<uint64_t>(high) << 32 | low;
  return static_cast<uint32_t>(kLeft ? both << n >> 32 : both >> n);
}

/// pick(T{}) for the integer type of the given kind and width.
template <typename F>
Handler by_type(Type type, F pick) {
  if (type.packed) return nullptr;
  const bool is_signed = type.kind == 's';
  switch (type.bits) {
    case 16:
      return is_signed ? pick(int16_t{}) : pick(uint16_t{});
    case 32:
      return is_signed ? pick(int32_t{}) : pick(uint32_t{});
    case 64:
      return is_signed ? pick(int64_t{}) : pick(uint64_t{});
    default:
      return nullptr;
  }
}

void sources(Builder& b, size_t count, Type type) {
  for (size_t i = 1; i <= count; ++i) b.op.operand[i] = b.in(i, type);
}

bool decode_multiply(Builder& b) {
  const bool add = b.name()[1] == 'a';
  const std::string part = b.take_any({"lo", "hi", "wide"});
  const Type type = b.take_type();
  if (part.empty()) b.unsupported();
  const Type result{type.kind, part == "wide" ? 2 * type.bits : type.bits};
  if (result.bits > 64) b.unsupported();
  b.op.operand[0] = b.out(0, result);
  sources(b, 2, type);
  if (add) b.op.operand[3] = b.in(3, result);
  b.op.run = by_type(type, [&](auto zero) -> Handler {
    using T = decltype(zero);
    using U = Unsigned<T>;
    if (part == "lo") {
      return add ? map_lanes([](T x, T y, U z) { return U(multiply_low(x, y) + z); })
                 : map_lanes([](T x, T y) { return multiply_low(x, y); });
    }
    if (part == "hi") {
      return add ? map_lanes([](T x, T y, U z) { return U(U(multiply_high(x, y)) + z); })
                 : map_lanes([](T x, T y) { return multiply_high(x, y); });
    }
    if constexpr (kBits<T> < 64) {
      using W = typename Wider<T>::type;
      using UW = std::make_unsigned_t<W>;
      return add ? map_lanes([](T x, T y, UW z) { return UW(UW(W(x) * W(y)) + z); })
                 : map_lanes([](T x, T y) { return W(W(x) * W(y)); });
    }
    return nullptr;
  });
  return true;
}

/// Handlers of d = f(x, y) for integers of any type; null if the name is none of them.
template <typename T>
Handler binary(const std::string& name) {
  using U = Unsigned<T>;
  if (name == "add") return map_lanes([](U x, U y) { return U(x + y); });
  if (name == "sub") return map_lanes([](U x, U y) { return U(x - y); });
  if (name == "div") return map_lanes([](T x, T y) { return divide(x, y); });
  if (name == "rem") return map_lanes([](T x, T y) { return remainder(x, y); });
  if (name == "min") return map_lanes([](T x, T y) { return x < y ? x : y; });
  if (name == "max") return map_lanes([](T x, T y) { return x > y ? x : y; });
  if (name == "and") return map_lanes([](U x, U y) { return U(x & y); });
  if (name == "or") return map_lanes([](U x, U y) { return U(x | y); });
  if (name == "xor") return map_lanes([](U x, U y) { return U(x ^ y); });
  return nullptr;
}

template <typename T>
Handler unary(const std::string& name) {
  using U = Unsigned<T>;
  if (name == "neg") return map_lanes([](U x) { return U(U{0} - x); });
  if (name == "abs") return map_lanes([](T x) { return x < 0 ? U(U{0} - U(x)) : U(x); });
  if (name == "not") return map_lanes([](U x) { return U(~x); });
  if (name == "cnot") return map_lanes([](U x) { return U(x == 0); });
  if (name == "brev") return map_lanes([](U x) { return reverse_bits(x); });
  return nullptr;
}

template <typename T>
Handler shift(const std::string& name) {
  if (name == "shl") {
    return map_lanes([](T x, uint32_t n) { return shift_left(x, n); });
  }
  return map_lanes([](T x, uint32_t n) { return shift_right(x, n); });
}

/// Results of 32 bits whatever the source: popc, clz, bfind.
template <typename T>
Handler count_bits(const std::string& name, bool shift_amount) {
  using U = Unsigned<T>;
  if (name == "popc") {
    return map_lanes([](U x) { return uint32_t(__builtin_popcountll(x)); });
  }
  if (name == "clz") return map_lanes([](U x) { return leading_zeros(x); });
  if (!shift_amount) return map_lanes([](T x) { return find_leading(x); });
  return map_lanes([](T x) {
    const uint32_t at = find_leading(x);
    return at == ~0u ? at : kBits<T> - 1 - at;
  });
}

bool decode_predicate_logic(Builder& b) {
  const Type type{'p', 1};
  b.op.operand[0] = b.out(0, type);
  b.op.operand[1] = b.in(1, type);
  if (b.name() != "not") b.op.operand[2] = b.in(2, type);
  // Predicates are masks of lanes, so one word-wide operation does all lanes.
  if (b.name() == "and") {
    b.op.run = [](Warp& w, const Op& op) {
      write_predicate(w, op.operand[0], w.predicate(op.operand[1]) & w.predicate(op.operand[2]));
    };
  } else if (b.name() == "or") {
    b.op.run = [](Warp& w, const Op& op) {
      write_predicate(w, op.operand[0], w.predicate(op.operand[1]) | w.predicate(op.operand[2]));
    };
  } else if (b.name() == "xor") {
    b.op.run = [](Warp& w, const Op& op) {
      write_predicate(w, op.operand[0], w.predicate(op.operand[1]) ^ w.predicate(op.operand[2]));
    };
  } else if (b.name() == "not") {
    b.op.run = [](Warp& w, const Op& op) {
      write_predicate(w, op.operand[0], ~w.predicate(op.operand[1]));
    };
  }
  return b.op.run != nullptr;
}

bool decode_fields(Builder& b) {
  const std::string& name = b.name();
  const Type u32{'u', 32};
  if (name == "bfe") {
    const Type type = b.take_type();
    b.op.operand[0] = b.out(0, type);
    b.op.operand[1] = b.in(1, type);
    b.op.operand[2] = b.in(2, u32);
    b.op.operand[3] = b.in(3, u32);
    b.op.run = by_type(type, [](auto zero) -> Handler {
      using T = decltype(zero);
      return map_lanes([](T x, uint32_t p, uint32_t n) { return extract_field(x, p, n); });
    });
    return true;
  }
  if (name == "bfi") {
    const Type type = b.take_type();
    b.op.operand[0] = b.out(0, type);
    b.op.operand[1] = b.in(1, type);
    b.op.operand[2] = b.in(2, type);
    b.op.operand[3] = b.in(3, u32);
    b.op.operand[4] = b.in(4, u32);
    b.op.run = type.bits == 64 ? map_lanes([](uint64_t f, uint64_t x, uint32_t p, uint32_t n) {
      return insert_field(f, x, p, n);
    })
                               : map_lanes([](uint32_t f, uint32_t x, uint32_t p, uint32_t n) {
                                   return insert_field(f, x, p, n);
                                 });
    return true;
  }
  return false;
}

bool decode_words(Builder& b) {
  const std::string& name = b.name();
  const Type u32{'u', 32};
  if (name == "lop3") {
    if (b.take_type().bits != 32) b.unsupported();
    b.op.operand[0] = b.out(0, u32);
    sources(b, 3, u32);
    b.op.operand[4] = b.layout().constant(b.immediate(4), 32);
    b.op.run = map_lanes(
        [](uint32_t x, uint32_t y, uint32_t z, uint32_t table) { return look_up(x, y, z, table); });
    return true;
  }
  if (name == "prmt") {
    b.take_type();
    b.op.operand[0] = b.out(0, u32);
    sources(b, 3, u32);
    b.op.run = map_lanes([](uint32_t x, uint32_t y, uint32_t s) { return permute_bytes(x, y, s); });
    return true;
  }
  if (name == "shf") {
    const bool left = b.take("l");
    if (!left && !b.take("r")) b.unsupported();
    const bool clamp = b.take("clamp");
    if (!clamp && !b.take("wrap")) b.unsupported();
    b.take_type();
    b.op.operand[0] = b.out(0, u32);
    sources(b, 3, u32);
    using U = uint32_t;
    b.op.run =
        left ? (clamp ? map_lanes([](U x, U y, U n) { return funnel<true, true>(x, y, n); })
                      : map_lanes([](U x, U y, U n) { return funnel<true, false>(x, y, n); }))
             : (clamp ? map_lanes([](U x, U y, U n) { return funnel<false, true>(x, y, n); })
                      : map_lanes([](U x, U y, U n) { return funnel<false, false>(x, y, n); }));
    return true;
  }
  if (name == "dp4a") {
    const bool signed_a = b.take_type().kind == 's';
    const bool signed_b = b.take_type().kind == 's';
    b.op.operand[0] = b.out(0, u32);
    sources(b, 3, u32);
    using U = uint32_t;
    b.op.run =
        signed_a
            ? (signed_b
                   ? map_lanes([](U x, U y, U z) { return dot_bytes<int8_t, int8_t>(x, y, z); })
                   : map_lanes([](U x, U y, U z) { return dot_bytes<int8_t, uint8_t>(x, y, z); }))
            : (signed_b
                   ? map_lanes([](U x, U y, U z) { return dot_bytes<uint8_t, int8_t>(x, y, z); })
                   : map_lanes([](U x, U y, U z) { return dot_bytes<uint8_t, uint8_t>(x, y, z); }));
    return true;
  }
  return false;
}

bool is_one_of(const std::string& name, std::initializer_list<const char*> names) {
  return std::any_of(names.begin(), names.end(), [&](const char* n) { return name == n; });
}

/// The type that the opcode ends with, without taking it.
Type last_type(const Builder& b) { return parse_type(b.instruction().parts.back()); }

}  // namespace

bool decode_integer(Builder& b) {
  const std::string& name = b.name();
  const Type type = last_type(b);
  if (type.kind == 'f' || type.kind == 'h') return false;
  if (type.kind == 'p') {
    return is_one_of(name, {"and", "or", "xor", "not"}) && b.take("pred") &&
           decode_predicate_logic(b);
  }
  if (name == "mul" || name == "mad") return decode_multiply(b);
  if (is_one_of(name, {"add", "sub", "div", "rem", "min", "max", "and", "or", "xor"})) {
    b.take_type();
    b.op.operand[0] = b.out(0, type);
    sources(b, 2, type);
    b.op.run = by_type(type, [&](auto x) { return binary<decltype(x)>(name); });
    return b.op.run != nullptr;
  }
  if (is_one_of(name, {"neg", "abs", "not", "cnot", "brev"})) {
    b.take_type();
    b.op.operand[0] = b.out(0, type);
    sources(b, 1, type);
    b.op.run = by_type(type, [&](auto x) { return unary<decltype(x)>(name); });
    return b.op.run != nullptr;
  }
  if (name == "shl" || name == "shr") {
    b.take_type();
    b.op.operand[0] = b.out(0, type);
    b.op.operand[1] = b.in(1, type);
    b.op.operand[2] = b.in(2, {'u', 32});
    b.op.run = by_type(type, [&](auto x) { return shift<decltype(x)>(name); });
    return b.op.run != nullptr;
  }
  if (is_one_of(name, {"popc", "clz", "bfind"})) {
    const bool shift_amount = name == "bfind" && b.take("shiftamt");
    b.take_type();
    if (type.bits < 32) b.unsupported();
    b.op.operand[0] = b.out(0, {'u', 32});
    sources(b, 1, type);
    b.op.run = by_type(type, [&](auto x) { return count_bits<decltype(x)>(name, shift_amount); });
    return b.op.run != nullptr;
  }
  return decode_fields(b) || decode_words(b);
}

}  // namespace rillkv::ptx
