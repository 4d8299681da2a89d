// Instructions that exchange values between the lanes of a warp. They run once for all lanes of a
// mask (Control::kCollective); Warp::active is that mask.
#include <algorithm>
#include <type_traits>

#include "tests/support/ptx/block.h"
#include "tests/support/ptx/builder.h"
#include "tests/support/ptx/lanes.h"

namespace rillkv::ptx {
namespace {

// ---- shfl ----

enum class Shuffle { kUp, kDown, kButterfly, kIndex };

/// operand[0]: result, [1]: predicate or sink, [2]: value, [3]: lane operand, [4]: clamp and
/// segment mask. A lane whose source lies outside its segment keeps its own value.
template <Shuffle kMode>
void shuffle(Warp& w, const Op& op) {
  uint32_t* d = w.lanes<uint32_t>(op.operand[0]);
  uint32_t values[kLanes];
  std::copy_n(w.lanes<const uint32_t>(op.operand[2]), kLanes, values);
  const uint32_t* offset = w.lanes<const uint32_t>(op.operand[3]);
  const uint32_t* control = w.lanes<const uint32_t>(op.operand[4]);
  uint32_t in_range = 0;
  for (uint32_t rest = w.active; rest != 0; rest &= rest - 1) {
    const int lane = __builtin_ctz(rest);
    const int b = static_cast<int>(offset[lane] & 31);
    const int segment = static_cast<int>(control[lane] >> 8 & 31);
    const int clamp = static_cast<int>(control[lane] & 31);
    const int least = lane & segment;
    const int limit = least | (clamp & ~segment);
    int source = 0;
    bool valid = false;
    switch (kMode) {
      case Shuffle::kUp:
        source = lane - b;
        valid = source >= limit;
        break;
      case Shuffle::kDown:
        source = lane + b;
        valid = source <= limit;
        break;
      case Shuffle::kButterfly:
        source = lane ^ b;
        valid = source <= limit;
        break;
      case Shuffle::kIndex:
        source = least | (b & ~segment);
        valid = source <= limit;
        break;
    }
    if (!valid) source = lane;
    if ((w.active >> source & 1) == 0) {
      w.block->stop(w, Finding::Kind::kBadLane,
                    "lane " + std::to_string(lane) + " reads lane " + std::to_string(source) +
                        ", which takes no part");
    }
    if (valid) in_range |= 1u << lane;
    d[lane] = values[source];
  }
  if (op.operand[1] != kNoRef) write_predicate(w, op.operand[1], in_range);
}

bool decode_shuffle(Builder& b) {
  const std::string mode = (b.take("sync"), b.take_any({"up", "down", "bfly", "idx"}));
  b.take_type();
  const Type word{'b', 32};
  if (b.operand(0).kind == Operand::Kind::kPair) {
    b.op.operand[0] = b.out(b.operand(0).elements[0], word);
    b.op.operand[1] = b.out(b.operand(0).elements[1], {'p', 1});
  } else {
    b.op.operand[0] = b.out(0, word);
    b.op.operand[1] = kNoRef;
  }
  for (size_t i = 1; i <= 3; ++i) b.op.operand[i + 1] = b.in(i, word);
  b.op.mask = b.in(4, word);
  b.op.control = Control::kCollective;
  if (mode == "up") b.op.run = shuffle<Shuffle::kUp>;
  if (mode == "down") b.op.run = shuffle<Shuffle::kDown>;
  if (mode == "bfly") b.op.run = shuffle<Shuffle::kButterfly>;
  if (mode == "idx") b.op.run = shuffle<Shuffle::kIndex>;
  return b.op.run != nullptr;
}

// ---- vote, match, activemask ----

uint32_t voters(Warp& w, const Op& op) {
  const uint32_t value = w.predicate(op.operand[1]) ^ (op.target != 0 ? kAllLanes : 0u);
  return value & w.active;
}
void vote_ballot(Warp& w, const Op& op) {
  const uint32_t ballot = voters(w, op);
  uint32_t* d = w.lanes<uint32_t>(op.operand[0]);
  for_lanes(w.active, [=](int lane) { d[lane] = ballot; });
}
void vote_all(Warp& w, const Op& op) {
  write_predicate(w, op.operand[0], voters(w, op) == w.active ? kAllLanes : 0u);
}
void vote_any(Warp& w, const Op& op) {
  write_predicate(w, op.operand[0], voters(w, op) != 0 ? kAllLanes : 0u);
}
void vote_uniform(Warp& w, const Op& op) {
  const uint32_t value = voters(w, op);
  write_predicate(w, op.operand[0], value == 0 || value == w.active ? kAllLanes : 0u);
}

bool decode_vote(Builder& b) {
  if (!b.take("sync")) b.unsupported();
  const std::string mode = b.take_any({"ballot", "all", "any", "uni"});
  const Type result = b.take_type();
  Operand source = b.operand(1);
  b.op.target = source.negated ? 1 : 0;
  source.negated = false;
  b.op.operand[0] = b.out(0, result);
  b.op.operand[1] = b.in(source, {'p', 1});
  b.op.mask = b.in(2, {'b', 32});
  b.op.control = Control::kCollective;
  if (mode == "ballot") b.op.run = vote_ballot;
  if (mode == "all") b.op.run = vote_all;
  if (mode == "any") b.op.run = vote_any;
  if (mode == "uni") b.op.run = vote_uniform;
  return b.op.run != nullptr;
}

template <typename T>
void match_any(Warp& w, const Op& op) {
  const T* values = w.lanes<const T>(op.operand[1]);
  uint32_t masks[kLanes] = {};
  for (uint32_t rest = w.active; rest != 0; rest &= rest - 1) {
    const int lane = __builtin_ctz(rest);
    for (uint32_t others = w.active; others != 0; others &= others - 1) {
      const int other = __builtin_ctz(others);
      if (values[other] == values[lane]) masks[lane] |= 1u << other;
    }
  }
  uint32_t* d = w.lanes<uint32_t>(op.operand[0]);
  for_lanes(w.active, [&](int lane) { d[lane] = masks[lane]; });
}

bool decode_match(Builder& b) {
  if (!b.take("any") || !b.take("sync")) b.unsupported();
  const Type type = b.take_type();
  b.op.operand[0] = b.out(0, {'b', 32});
  b.op.operand[1] = b.in(1, type);
  b.op.mask = b.in(2, {'b', 32});
  b.op.control = Control::kCollective;
  b.op.run = type.bits == 64 ? match_any<uint64_t> : match_any<uint32_t>;
  return true;
}

// ---- redux ----

template <typename T, typename F>
void reduce(Warp& w, const Op& op) {
  const T* values = w.lanes<const T>(op.operand[1]);
  T result = values[__builtin_ctz(w.active)];
  for (uint32_t rest = w.active & (w.active - 1); rest != 0; rest &= rest - 1) {
    result = F{}(result, values[__builtin_ctz(rest)]);
  }
  T* d = w.lanes<T>(op.operand[0]);
  for_lanes(w.active, [=](int lane) { d[lane] = result; });
}
template <typename T, typename F>
Handler reduction(F) {
  return reduce<T, F>;
}
template <typename T>
Handler reduction_named(const std::string& name) {
  if (name == "add") return reduction<uint32_t>([](uint32_t x, uint32_t y) { return x + y; });
  if (name == "and") return reduction<uint32_t>([](uint32_t x, uint32_t y) { return x & y; });
  if (name == "or") return reduction<uint32_t>([](uint32_t x, uint32_t y) { return x | y; });
  if (name == "xor") return reduction<uint32_t>([](uint32_t x, uint32_t y) { return x ^ y; });
  if (name == "min") return reduction<T>([](T x, T y) { return std::min(x, y); });
  if (name == "max") return reduction<T>([](T x, T y) { return std::max(x, y); });
  return nullptr;
}

bool decode_reduction(Builder& b) {
  if (!b.take("sync")) b.unsupported();
  const std::string name = b.take_any({"add", "and", "or", "xor", "min", "max"});
  const Type type = b.take_type();
  if (type.kind == 'f' || type.bits != 32) b.unsupported();
  b.op.operand[0] = b.out(0, type);
  b.op.operand[1] = b.in(1, type);
  b.op.mask = b.in(2, {'b', 32});
  b.op.control = Control::kCollective;
  b.op.run = type.kind == 's' ? reduction_named<int32_t>(name) : reduction_named<uint32_t>(name);
  return b.op.run != nullptr;
}

}  // namespace

bool decode_warp(Builder& b) {
  const std::string& name = b.name();
  if (name == "shfl") return decode_shuffle(b);
  if (name == "vote") return decode_vote(b);
  if (name == "match") return decode_match(b);
  if (name == "redux") return decode_reduction(b);
  if (name == "activemask") {
    b.take_type();
    b.op.operand[0] = b.out(0, {'b', 32});
    b.op.run = [](Warp& w, const Op& op) {
      uint32_t* d = w.lanes<uint32_t>(op.operand[0]);
      for_lanes(w.active, [&](int lane) { d[lane] = w.active; });
    };
    return true;
  }
  if ((name == "bar" || name == "barrier") && b.take("warp")) {
    if (!b.take("sync")) b.unsupported();
    b.op.mask = b.in(0, {'b', 32});
    b.op.control = Control::kCollective;
    b.op.run = [](Warp& w, const Op&) { w.sync(w.active); };
    return true;
  }
  return false;
}

}  // namespace rillkv::ptx
