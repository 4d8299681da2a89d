// ld, st, atom, red: operand[0] is the address, operand[1..] are the registers.
#include <bit>
#include <cmath>
#include <cstring>

#include "tests/support/ptx/access.h"
#include "tests/support/ptx/block.h"
#include "tests/support/ptx/builder.h"
#include "tests/support/ptx/lanes.h"
#include "tests/support/ptx/number_formats.h"

namespace rillkv::ptx {
namespace {

// ---- moving the data, once the addresses are known ----

template <typename Memory, typename Held>
void read_elements(Warp& w, const Op& op) {
  for (int i = 0; i < op.count; ++i) {
    Held* d = w.lanes<Held>(op.operand[1 + i]);
    for_lanes(w.active, [&](int lane) {
      Memory x;
      std::memcpy(&x, w.pointers[lane] + static_cast<size_t>(i) * sizeof(Memory), sizeof x);
      d[lane] = static_cast<Held>(x);
    });
  }
}

template <typename Memory, typename Held>
void write_elements(Warp& w, const Op& op) {
  for (uint32_t rest = w.active; rest != 0; rest &= rest - 1) {
    const int lane = __builtin_ctz(rest);
    for (int i = 0; i < op.count; ++i) {
      const Memory x = static_cast<Memory>(w.lanes<const Held>(op.operand[1 + i])[lane]);
      std::memcpy(w.pointers[lane] + static_cast<size_t>(i) * sizeof(Memory), &x, sizeof x);
    }
  }
}

template <typename Memory, bool kRead>
Handler mover(int held_bits) {
  switch (held_bits) {
    case 16:
      return kRead ? read_elements<Memory, uint16_t> : write_elements<Memory, uint16_t>;
    case 32:
      return kRead ? read_elements<Memory, uint32_t> : write_elements<Memory, uint32_t>;
    case 64:
      return kRead ? read_elements<Memory, uint64_t> : write_elements<Memory, uint64_t>;
    default:
      return nullptr;
  }
}

template <bool kRead>
Handler mover(Type type, int held_bits) {
  const bool is_signed = type.kind == 's';
  switch (type.bits) {
    case 8:
      return is_signed ? mover<int8_t, kRead>(held_bits) : mover<uint8_t, kRead>(held_bits);
    case 16:
      return is_signed ? mover<int16_t, kRead>(held_bits) : mover<uint16_t, kRead>(held_bits);
    case 32:
      return is_signed ? mover<int32_t, kRead>(held_bits) : mover<uint32_t, kRead>(held_bits);
    case 64:
      return mover<uint64_t, kRead>(held_bits);
    default:
      return nullptr;
  }
}

void load(Warp& w, const Op& op) {
  locate(w, op, 0, static_cast<uint32_t>(op.bytes) * op.count, AccessKind::kRead);
  op.second(w, op);
}

void store(Warp& w, const Op& op) {
  locate(w, op, 0, static_cast<uint32_t>(op.bytes) * op.count, AccessKind::kWrite);
  op.second(w, op);
}

Space take_space(Builder& b) {
  const std::string space = b.take_any({"global", "shared::cta", "shared", "local", "const",
                                        "param", "param::entry", "param::func"});
  if (space == "global" || space == "const") return Space::kGlobal;
  if (space[0] == 's') return Space::kShared;
  if (space == "local") return Space::kLocal;
  return space[0] == 'p' ? Space::kParam : Space::kGeneric;
}

/// Caching and ordering hints that change nothing here: every access takes effect at once, and the
/// race check knows no weaker order.
void take_hints(Builder& b) {
  for (const char* hint : {"nc",
                           "ca",
                           "cg",
                           "cs",
                           "lu",
                           "cv",
                           "wb",
                           "wt",
                           "volatile",
                           "weak",
                           "relaxed",
                           "acquire",
                           "release",
                           "gpu",
                           "cta",
                           "sys",
                           "L1::evict_last",
                           "L1::no_allocate",
                           "L1::evict_first",
                           "L1::evict_normal",
                           "L1::evict_unchanged",
                           "L2::64B",
                           "L2::128B",
                           "L2::256B"}) {
    b.take(hint);
  }
}

bool decode_load_store(Builder& b, bool is_load) {
  take_hints(b);
  const Space space = take_space(b);
  const std::string vector = b.take_any({"v2", "v4", "v8"});
  const Type type = b.take_type();
  const size_t count = vector.empty() ? 1 : static_cast<size_t>(vector[1] - '0');
  b.address(is_load ? 1 : 0, 0, space);
  const Operand& data = b.operand(is_load ? 0 : 1);
  if (data.kind == Operand::Kind::kVector ? data.elements.size() != count : count != 1) {
    b.unsupported();
  }
  int held = 0;
  for (size_t i = 0; i < count; ++i) {
    const Operand& element = data.kind == Operand::Kind::kVector ? data.elements[i] : data;
    int bits = 0;
    b.op.operand[1 + i] =
        is_load ? b.out_wide(element, type, &bits) : b.in_wide(element, type, &bits);
    // Vectors may mix registers and immediates, never widths.
    if (held != 0 && bits != held && element.kind == Operand::Kind::kRegister) b.unsupported();
    if (held == 0 || element.kind == Operand::Kind::kRegister) held = bits;
  }
  if (held < type.bits) b.unsupported();
  for (size_t i = 0; i < count && !is_load; ++i) {  // immediates, in the registers' width
    const Operand& element = data.kind == Operand::Kind::kVector ? data.elements[i] : data;
    if (element.kind == Operand::Kind::kImmediate) {
      b.op.operand[1 + i] = b.layout().constant(element.bits, held);
    }
  }
  b.op.count = static_cast<uint8_t>(count);
  b.op.bytes = static_cast<uint8_t>(type.bits / 8);
  b.op.site = 0;
  b.op.run = is_load ? load : store;
  b.op.second = is_load ? mover<true>(type, held) : mover<false>(type, held);
  return b.op.second != nullptr;
}

// ---- atomics ----

/// Lanes take effect one after the other, in an order that depends on the seed.
template <typename T, typename F>
void atomic(Warp& w, const Op& op) {
  locate(w, op, 0, sizeof(T), AccessKind::kAtomic);
  T* d = w.lanes<T>(op.operand[1]);
  const T* x = w.lanes<const T>(op.operand[2]);
  const T* y = w.lanes<const T>(op.operand[3]);
  const bool backwards = (w.block->seed & 1) != 0;
  for (int i = 0; i < kLanes; ++i) {
    const int lane = backwards ? kLanes - 1 - i : i;
    if ((w.active >> lane & 1) == 0) continue;
    T old;
    std::memcpy(&old, w.pointers[lane], sizeof old);
    const T value = F{}(old, x[lane], y[lane]);
    std::memcpy(w.pointers[lane], &value, sizeof value);
    d[lane] = old;
  }
}

template <typename T, typename F>
Handler made(F) {
  return atomic<T, F>;
}

template <typename T>
Handler integer_atomic(const std::string& name) {
  using U = std::make_unsigned_t<T>;
  if (name == "add") return made<T>([](T a, T x, T) { return T(U(a) + U(x)); });
  if (name == "min") return made<T>([](T a, T x, T) { return x < a ? x : a; });
  if (name == "max") return made<T>([](T a, T x, T) { return a < x ? x : a; });
  if (name == "and") return made<T>([](T a, T x, T) { return T(a & x); });
  if (name == "or") return made<T>([](T a, T x, T) { return T(a | x); });
  if (name == "xor") return made<T>([](T a, T x, T) { return T(a ^ x); });
  if (name == "exch") return made<T>([](T, T x, T) { return x; });
  if (name == "cas") return made<T>([](T a, T x, T y) { return a == x ? y : a; });
  if (name == "inc") return made<T>([](T a, T x, T) { return U(a) >= U(x) ? T(0) : T(a + 1); });
  if (name == "dec") {
    return made<T>([](T a, T x, T) { return a == 0 || U(a) > U(x) ? x : T(a - 1); });
  }
  return nullptr;
}

template <typename Format>
Handler packed_add() {
  return made<uint32_t>([](uint32_t a, uint32_t x, uint32_t) {
    const auto sum = [](uint32_t p, uint32_t q) -> uint32_t {
      return Format::narrow(float_odd(add_odd(Format::widen(static_cast<uint16_t>(p)),
                                              Format::widen(static_cast<uint16_t>(q)))));
    };
    return sum(a, x) | sum(a >> 16, x >> 16) << 16;
  });
}

bool decode_atomic_or_reduction(Builder& b) {
  const size_t at = b.name() == "atom" ? 1 : 0;
  take_hints(b);
  b.take("noftz");
  b.take("acq_rel");
  const Space space = take_space(b);
  const std::string name =
      b.take_any({"add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec"});
  const Type type = b.take_type();
  if (space == Space::kLocal || space == Space::kParam || name.empty()) b.unsupported();
  b.address(at, 0, space);
  b.op.operand[1] = at == 1 ? b.out(0, type) : b.layout().sink();
  b.op.operand[2] = b.in(at + 1, type);
  b.op.operand[3] = name == "cas" ? b.in(at + 2, type) : b.op.operand[2];
  b.op.site = 0;
  if (type.packed && name == "add") {
    b.op.run = type.kind == 'f' ? packed_add<HalfFormat>() : packed_add<BfloatFormat>();
  } else if (type.kind == 'f' && name == "add" && type.bits == 32) {
    b.op.run = made<float>([](float a, float x, float) { return canonical(a + x); });
  } else if (type.kind == 'f' && name == "add" && type.bits == 64) {
    b.op.run = made<double>([](double a, double x, double) { return a + x; });
  } else if (type.kind == 'f' || type.kind == 'h') {
    b.unsupported();
  } else if (type.bits == 32) {
    b.op.run = type.kind == 's' ? integer_atomic<int32_t>(name) : integer_atomic<uint32_t>(name);
  } else if (type.bits == 64) {
    b.op.run = type.kind == 's' ? integer_atomic<int64_t>(name) : integer_atomic<uint64_t>(name);
  }
  return b.op.run != nullptr;
}

}  // namespace

bool decode_memory(Builder& b) {
  if (b.name() == "ld" || b.name() == "ldu") return decode_load_store(b, true);
  if (b.name() == "st") return decode_load_store(b, false);
  if (b.name() == "atom" || b.name() == "red") return decode_atomic_or_reduction(b);
  return false;
}

}  // namespace rillkv::ptx
