// mov, selp, setp, set, cvta: moving values, choosing and comparing.
#include <bit>
#include <cmath>
#include <cstring>

#include "tests/support/ptx/builder.h"
#include "tests/support/ptx/lanes.h"
#include "tests/support/ptx/number_formats.h"

namespace rillkv::ptx {
namespace {

template <typename T>
Handler move() {
  return map_lanes([](T x) { return x; });
}

void move_predicate(Warp& w, const Op& op) {
  write_predicate(w, op.operand[0], w.predicate(op.operand[1]));
}

/// {d0, d1, ...} = wide: operand[0] is the source, operand[1..count] the parts.
template <typename Wide, typename Part>
void unpack(Warp& w, const Op& op) {
  const Wide* s = w.lanes<const Wide>(op.operand[0]);
  for (int i = 0; i < op.count; ++i) {
    Part* d = w.lanes<Part>(op.operand[1 + i]);
    const int shift = i * static_cast<int>(8 * sizeof(Part));
    for_lanes(w.active, [=](int lane) { d[lane] = static_cast<Part>(s[lane] >> shift); });
  }
}

/// wide = {s0, s1, ...}: operand[0] is the result.
template <typename Wide, typename Part>
void pack(Warp& w, const Op& op) {
  Wide result[kLanes] = {};
  for (int i = 0; i < op.count; ++i) {
    const Part* s = w.lanes<const Part>(op.operand[1 + i]);
    const int shift = i * static_cast<int>(8 * sizeof(Part));
    for (int lane = 0; lane < kLanes; ++lane) result[lane] |= static_cast<Wide>(s[lane]) << shift;
  }
  Wide* d = w.lanes<Wide>(op.operand[0]);
  for_lanes(w.active, [&](int lane) { d[lane] = result[lane]; });
}

template <typename T>
Handler by_size(int bits, T pick) {
  switch (bits) {
    case 16:
      return pick(uint16_t{});
    case 32:
      return pick(uint32_t{});
    case 64:
      return pick(uint64_t{});
    default:
      return nullptr;
  }
}

bool decode_mov(Builder& b) {
  const Type type = b.take_type();
  const bool to_vector = b.operand(0).kind == Operand::Kind::kVector;
  if (to_vector || b.operand(1).kind == Operand::Kind::kVector) {
    const Operand& vector = b.operand(to_vector ? 0 : 1);
    const int parts = static_cast<int>(vector.elements.size());
    const Type part{'b', parts > 0 ? type.bits / parts : 0};
    b.op.operand[0] = to_vector ? b.in(1, type) : b.out(0, type);
    for (int i = 0; i < parts && i < 4; ++i) {
      const Operand& element = vector.elements[static_cast<size_t>(i)];
      b.op.operand[1 + i] = to_vector ? b.out(element, part) : b.in(element, part);
    }
    b.op.count = static_cast<uint8_t>(parts);
    if (type.bits == 32 && parts == 2) {
      b.op.run = to_vector ? unpack<uint32_t, uint16_t> : pack<uint32_t, uint16_t>;
    } else if (type.bits == 64 && parts == 2) {
      b.op.run = to_vector ? unpack<uint64_t, uint32_t> : pack<uint64_t, uint32_t>;
    } else if (type.bits == 64 && parts == 4) {
      b.op.run = to_vector ? unpack<uint64_t, uint16_t> : pack<uint64_t, uint16_t>;
    } else {
      b.unsupported();
    }
    return true;
  }
  b.op.operand[0] = b.out(0, type);
  b.op.operand[1] = b.in(1, type);
  b.op.run = type.kind == 'p'
                 ? move_predicate
                 : by_size(type.bits, [](auto x) -> Handler { return move<decltype(x)>(); });
  return b.op.run != nullptr;
}

// ---- selp ----

template <typename T>
void select(Warp& w, const Op& op) {
  T* d = w.lanes<T>(op.operand[0]);
  const T* x = w.lanes<const T>(op.operand[1]);
  const T* y = w.lanes<const T>(op.operand[2]);
  const uint32_t choice = w.predicate(op.operand[3]) ^ (op.target != 0 ? kAllLanes : 0u);
  for_lanes(w.active, [=](int lane) { d[lane] = (choice >> lane & 1) != 0 ? x[lane] : y[lane]; });
}

bool decode_selp(Builder& b) {
  const Type type = b.take_type();
  b.op.operand[0] = b.out(0, type);
  b.op.operand[1] = b.in(1, type);
  b.op.operand[2] = b.in(2, type);
  Operand choice = b.operand(3);
  b.op.target = choice.negated ? 1 : 0;
  choice.negated = false;
  b.op.operand[3] = b.in(choice, {'p', 1});
  b.op.run = by_size(type.bits, [](auto x) -> Handler { return select<decltype(x)>; });
  return b.op.run != nullptr;
}

// ---- setp ----

/// How the comparison's mask is combined with a third predicate (operand[4]) and stored.
enum Combine : int32_t { kPlain, kAnd, kOr, kXor };
constexpr int32_t kNegateThird = 8;
constexpr int32_t kHasSecondResult = 16;

// operand[0], [1]: results p and q; [2], [3]: sources; [4]: the third predicate.
void store_comparison(Warp& w, const Op& op, uint32_t mask) {
  uint32_t p = mask;
  uint32_t q = ~mask;
  const int32_t combine = op.target & 7;
  if (combine != kPlain) {
    uint32_t third = w.predicate(op.operand[4]);
    if ((op.target & kNegateThird) != 0) third = ~third;
    const auto with = [&](uint32_t m) {
      return combine == kAnd ? m & third : combine == kOr ? m | third : m ^ third;
    };
    p = with(p);
    q = with(q);
  }
  write_predicate(w, op.operand[0], p);
  if ((op.target & kHasSecondResult) != 0) write_predicate(w, op.operand[1], q);
}

template <typename F, typename T>
uint32_t compare_lanes(Warp& w, const Op& op) {
  const T* x = w.lanes<const T>(op.operand[2]);
  const T* y = w.lanes<const T>(op.operand[3]);
  alignas(64) uint8_t bytes[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) bytes[lane] = F{}(x[lane], y[lane]) ? 1 : 0;
  return pack_mask(bytes);
}

template <typename F, typename T>
void set_predicate(Warp& w, const Op& op) {
  store_comparison(w, op, compare_lanes<F, T>(w, op));
}

/// set.cmp.u32: all ones or zero; operand[0] is the result.
template <typename F, typename T>
void set_mask(Warp& w, const Op& op) {
  const uint32_t mask = compare_lanes<F, T>(w, op);
  uint32_t* d = w.lanes<uint32_t>(op.operand[0]);
  const uint32_t one = static_cast<uint32_t>(op.target);
  for_lanes(w.active, [=](int lane) { d[lane] = (mask >> lane & 1) != 0 ? one : 0u; });
}

/// The handler of setp, or with kSet of set, for a comparison without captures.
template <typename T, bool kSet, typename F>
Handler compare(F) {
  return kSet ? Handler(set_mask<F, T>) : Handler(set_predicate<F, T>);
}

template <typename T, bool kSet>
Handler integer_comparison(const std::string& name) {
  if (name == "eq") return compare<T, kSet>([](T x, T y) { return x == y; });
  if (name == "ne") return compare<T, kSet>([](T x, T y) { return x != y; });
  if (name == "lt" || name == "lo") return compare<T, kSet>([](T x, T y) { return x < y; });
  if (name == "le" || name == "ls") return compare<T, kSet>([](T x, T y) { return x <= y; });
  if (name == "gt" || name == "hi") return compare<T, kSet>([](T x, T y) { return x > y; });
  if (name == "ge" || name == "hs") return compare<T, kSet>([](T x, T y) { return x >= y; });
  return nullptr;
}

/// Ordered comparisons are false for NaN, those ending in "u" are true. Widen makes a float or
/// double of T, which is what registers hold.
template <typename Widen, bool kSet, typename T>
Handler float_comparison(const std::string& name) {
  static constexpr Widen v{};
  const auto made = [](auto f) { return compare<T, kSet>(f); };
  if (name == "eq") return made([](T x, T y) { return v(x) == v(y); });
  if (name == "ne") return made([](T x, T y) { return v(x) < v(y) || v(x) > v(y); });
  if (name == "lt") return made([](T x, T y) { return v(x) < v(y); });
  if (name == "le") return made([](T x, T y) { return v(x) <= v(y); });
  if (name == "gt") return made([](T x, T y) { return v(x) > v(y); });
  if (name == "ge") return made([](T x, T y) { return v(x) >= v(y); });
  if (name == "equ") return made([](T x, T y) { return !(v(x) < v(y) || v(x) > v(y)); });
  if (name == "neu") return made([](T x, T y) { return !(v(x) == v(y)); });
  if (name == "ltu") return made([](T x, T y) { return !(v(x) >= v(y)); });
  if (name == "leu") return made([](T x, T y) { return !(v(x) > v(y)); });
  if (name == "gtu") return made([](T x, T y) { return !(v(x) <= v(y)); });
  if (name == "geu") return made([](T x, T y) { return !(v(x) < v(y)); });
  if (name == "num") return made([](T x, T y) { return v(x) == v(x) && v(y) == v(y); });
  if (name == "nan") return made([](T x, T y) { return v(x) != v(x) || v(y) != v(y); });
  return nullptr;
}

struct Plain {
  template <typename T>
  T operator()(T x) const {
    return x;
  }
};
struct Flush {
  float operator()(float x) const { return std::fabs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x; }
};
struct WidenHalf {
  float operator()(uint16_t x) const { return half_to_float(x); }
};
struct WidenBfloat {
  float operator()(uint16_t x) const { return bfloat_to_float(x); }
};

template <bool kSet>
Handler comparison(const std::string& name, Type type, bool ftz) {
  if (type.kind == 'f' && type.bits == 32) {
    return ftz ? float_comparison<Flush, kSet, float>(name)
               : float_comparison<Plain, kSet, float>(name);
  }
  if (type.kind == 'f' && type.bits == 64) {
    return float_comparison<Plain, kSet, double>(name);
  }
  if (type.bits == 16 && type.kind == 'f') {
    return float_comparison<WidenHalf, kSet, uint16_t>(name);
  }
  if (type.bits == 16 && type.kind == 'h') {
    return float_comparison<WidenBfloat, kSet, uint16_t>(name);
  }
  const bool is_signed = type.kind == 's';
  switch (type.bits) {
    case 16:
      return is_signed ? integer_comparison<int16_t, kSet>(name)
                       : integer_comparison<uint16_t, kSet>(name);
    case 32:
      return is_signed ? integer_comparison<int32_t, kSet>(name)
                       : integer_comparison<uint32_t, kSet>(name);
    case 64:
      return is_signed ? integer_comparison<int64_t, kSet>(name)
                       : integer_comparison<uint64_t, kSet>(name);
    default:
      return nullptr;
  }
}

std::string take_comparison(Builder& b) {
  return b.take_any({"eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs", "equ", "neu",
                     "ltu", "leu", "gtu", "geu", "num", "nan"});
}

bool decode_setp(Builder& b) {
  const std::string name = take_comparison(b);
  const std::string combine = b.take_any({"and", "or", "xor"});
  const bool ftz = b.take("ftz");
  const Type type = b.take_type();
  const Type predicate{'p', 1};
  if (type.packed) b.unsupported();
  if (b.operand(0).kind == Operand::Kind::kPair) {
    b.op.operand[0] = b.out(b.operand(0).elements[0], predicate);
    b.op.operand[1] = b.out(b.operand(0).elements[1], predicate);
    b.op.target |= kHasSecondResult;
  } else {
    b.op.operand[0] = b.out(0, predicate);
  }
  b.op.operand[2] = b.in(1, type);
  b.op.operand[3] = b.in(2, type);
  if (!combine.empty()) {
    Operand third = b.operand(3);
    b.op.target |= combine == "and" ? kAnd : combine == "or" ? kOr : kXor;
    if (third.negated) b.op.target |= kNegateThird;
    third.negated = false;
    b.op.operand[4] = b.in(third, predicate);
  }
  b.op.run = comparison<false>(name, type, ftz);
  return b.op.run != nullptr;
}

bool decode_set(Builder& b) {
  const std::string name = take_comparison(b);
  const bool ftz = b.take("ftz");
  const Type result = b.take_type();
  const Type type = b.take_type();
  if (result.bits != 32 || type.packed) b.unsupported();
  b.op.target = static_cast<int32_t>(result.kind == 'f' ? std::bit_cast<uint32_t>(1.0f) : ~0u);
  b.op.operand[0] = b.out(0, result);
  b.op.operand[2] = b.in(1, type);
  b.op.operand[3] = b.in(2, type);
  b.op.run = comparison<true>(name, type, ftz);
  return b.op.run != nullptr;
}

// ---- cvta ----

// Global, local, const and param addresses are host addresses, and so are generic ones. Only
// shared addresses are offsets: operand[2] is the generic address of offset 0.
bool decode_cvta(Builder& b) {
  const bool to = b.take("to");
  const std::string space =
      b.take_any({"global", "shared", "shared::cta", "local", "const", "param"});
  const Type type = b.take_type();
  if (space.empty() || type.bits != 64) b.unsupported();
  b.op.operand[0] = b.out(0, type);
  b.op.operand[1] = b.in(1, type);
  if (space[0] == 's') {
    b.op.operand[2] = b.layout().special(SpecialValue::Kind::kSharedAddress);
    b.op.run = to ? map_lanes([](uint64_t x, uint64_t base) { return x - base; })
                  : map_lanes([](uint64_t x, uint64_t base) { return x + base; });
  } else {
    b.op.run = move<uint64_t>();
  }
  return true;
}

}  // namespace

bool decode_move(Builder& b) {
  if (b.name() == "mov") return decode_mov(b);
  if (b.name() == "selp") return decode_selp(b);
  if (b.name() == "setp") return decode_setp(b);
  if (b.name() == "set") return decode_set(b);
  if (b.name() == "cvta") return decode_cvta(b);
  return false;
}

}  // namespace rillkv::ptx
