// ldmatrix, movmatrix and mma.sync.
//
// A register that holds an 8x8 matrix of 16-bit elements has element (row, 2*j + i) in half i of
// lane 4*row + j. An array of 32 lanes is therefore the matrix itself, row by row: fragments need
// no shuffling, only reinterpretation.
#include <cmath>
#include <cstring>

#include "tests/support/ptx/access.h"
#include "tests/support/ptx/builder.h"
#include "tests/support/ptx/number_formats.h"

namespace rillkv::ptx {
namespace {

constexpr int kRowBytes = 16;  // 8 elements of 16 bits

/// operand[0]: address, operand[1..count]: results. Lane 8*m + r holds the address of row r of
/// matrix m.
template <bool kTransposed>
void load_matrices(Warp& w, const Op& op) {
  const uint32_t all = w.active;
  w.active = op.count == 4 ? kAllLanes : (1u << (8 * op.count)) - 1;
  locate(w, op, 0, kRowBytes, AccessKind::kRead);
  w.active = all;
  for (int m = 0; m < op.count; ++m) {
    uint16_t rows[8][8];
    for (int row = 0; row < 8; ++row) {
      std::memcpy(rows[row], w.pointers[8 * m + row], kRowBytes);
    }
    uint16_t* d = w.lanes<uint16_t>(op.operand[1 + m]);
    for (int i = 0; i < 8; ++i) {
      for (int j = 0; j < 8; ++j) d[8 * i + j] = kTransposed ? rows[j][i] : rows[i][j];
    }
  }
}

bool decode_load_matrices(Builder& b) {
  b.take("sync");
  b.take("aligned");
  if (!b.take("m8n8")) b.unsupported();
  const std::string count = b.take_any({"x1", "x2", "x4"});
  const bool transposed = b.take("trans");
  if (count.empty() || !(b.take("shared") || b.take("shared::cta")) || !b.take("b16")) {
    b.unsupported();
  }
  b.op.count = static_cast<uint8_t>(count[1] - '0');
  b.address(1, 0, Space::kShared);
  const Operand& results = b.operand(0);
  const bool is_vector = results.kind == Operand::Kind::kVector;
  if (is_vector ? results.elements.size() != b.op.count : b.op.count != 1) b.unsupported();
  for (size_t i = 0; i < b.op.count; ++i) {
    b.op.operand[1 + i] = b.out(is_vector ? results.elements[i] : results, {'b', 32});
  }
  b.op.bytes = kRowBytes;
  b.op.site = 0;
  b.op.control = Control::kCollective;
  b.op.run = transposed ? load_matrices<true> : load_matrices<false>;
  return true;
}

/// operand[0]: result, operand[1]: a matrix, transposed.
void transpose_matrix(Warp& w, const Op& op) {
  const auto* from = w.lanes<uint16_t>(op.operand[1]);
  uint16_t rows[64];
  std::memcpy(rows, from, sizeof(rows));
  auto* to = w.lanes<uint16_t>(op.operand[0]);
  for (int i = 0; i < 8; ++i) {
    for (int j = 0; j < 8; ++j) to[8 * i + j] = rows[8 * j + i];
  }
}

bool decode_transpose_matrix(Builder& b) {
  if (!b.take("sync") || !b.take("aligned") || !b.take("m8n8") || !b.take("trans") ||
      !b.take("b16")) {
    b.unsupported();
  }
  b.op.operand[0] = b.out(b.operand(0), {'b', 32});
  b.op.operand[1] = b.in(b.operand(1), {'b', 32});
  b.op.control = Control::kCollective;
  b.op.run = transpose_matrix;
  return true;
}

// ---- mma ----

/// Eight sums of one row of D, in the order in which fragments hold them: the even columns, then
/// the odd ones.
using Row = float __attribute__((vector_size(32)));

template <typename Format>
void widen_tile(const uint16_t* from, float* to) {
  for (int i = 0; i < 64; ++i) to[i] = Format::widen(from[i]);
}

/// operand[0..]: 4 (f32) or 2 (f16) registers of D, then K/4 of A, K/8 of B, and those of C.
/// Products are computed in f32 (exactly, but for subnormal ones) and added one by one in order of
/// k, each sum rounded, starting from C. The hardware adds several products at once and truncates,
/// so results agree with a device's up to the rounding of f32 sums, which no caller may rely on.
template <typename Format, int kDepth, bool kHalfResult>
void multiply_add(Warp& w, const Op& op) {
  constexpr int kResults = kHalfResult ? 2 : 4;
  constexpr int kTiles = kDepth / 8;
  alignas(64) float a[kTiles][2][64];  // [k / 8][row / 8][8 * (row % 8) + k % 8]
  alignas(64) Row b[kDepth];
  for (int tile = 0; tile < kTiles; ++tile) {
    for (int half = 0; half < 2; ++half) {
      widen_tile<Format>(w.lanes<const uint16_t>(op.operand[kResults + 2 * tile + half]),
                         a[tile][half]);
    }
    alignas(64) float columns[64];  // [column][k % 8]
    widen_tile<Format>(w.lanes<const uint16_t>(op.operand[kResults + 2 * kTiles + tile]), columns);
    for (int k = 0; k < 8; ++k) {
      const float* c = columns + k;
      b[8 * tile + k] = Row{c[0], c[16], c[32], c[48], c[8], c[24], c[40], c[56]};
    }
  }
  const Ref* third = op.operand + kResults + 3 * kTiles;
  for (int half = 0; half < 2; ++half) {
    alignas(64) Row sums[8];
    if constexpr (kHalfResult) {
      const uint16_t* s = w.lanes<const uint16_t>(third[half]);
      for (int i = 0; i < 64; ++i) sums[i / 8][i % 8 / 2 + 4 * (i % 2)] = Format::widen(s[i]);
    } else {
      const float* even = w.lanes<const float>(third[2 * half]);
      const float* odd = w.lanes<const float>(third[2 * half + 1]);
      for (int i = 0; i < kLanes; i += 4) {
        sums[i / 4] = Row{even[i], even[i + 1], even[i + 2], even[i + 3],
                          odd[i],  odd[i + 1],  odd[i + 2],  odd[i + 3]};
      }
    }
    for (int tile = 0; tile < kTiles; ++tile) {
      for (int k = 0; k < 8; ++k) {
        const Row column = b[8 * tile + k];
        for (int row = 0; row < 8; ++row) sums[row] += a[tile][half][8 * row + k] * column;
      }
    }
    if constexpr (kHalfResult) {
      uint16_t* d = w.lanes<uint16_t>(op.operand[half]);
      for (int i = 0; i < 64; ++i) d[i] = Format::narrow(sums[i / 8][i % 8 / 2 + 4 * (i % 2)]);
    } else {
      float* even = w.lanes<float>(op.operand[2 * half]);
      float* odd = w.lanes<float>(op.operand[2 * half + 1]);
      for (int i = 0; i < kLanes; ++i) even[i] = canonical(sums[i / 4][i % 4]);
      for (int i = 0; i < kLanes; ++i) odd[i] = canonical(sums[i / 4][4 + i % 4]);
    }
  }
}

/// m16n8k32 (and k16) of 8-bit integers: a register holds 4 elements of a row, lane 4*row + j
/// elements 4*j .. 4*j + 3.
template <typename A, typename B, int kDepth>
void multiply_add_bytes(Warp& w, const Op& op) {
  constexpr int kTiles = kDepth / 16;
  uint32_t result[16][8];
  for (int row = 0; row < 16; ++row) {
    for (int n = 0; n < 8; ++n) {
      const Ref c = op.operand[4 + 3 * kTiles + 2 * (row / 8) + n % 2];
      uint32_t sum = w.lanes<const uint32_t>(c)[4 * (row % 8) + n / 2];
      for (int tile = 0; tile < kTiles; ++tile) {
        const A* a = w.lanes<const A>(op.operand[4 + 2 * tile + row / 8]) + 16 * (row % 8);
        const B* b = w.lanes<const B>(op.operand[4 + 2 * kTiles + tile]) + 16 * n;
        for (int k = 0; k < 16; ++k) sum += static_cast<uint32_t>(int32_t{a[k]} * int32_t{b[k]});
      }
      result[row][n] = sum;
    }
  }
  for (int i = 0; i < 4; ++i) {
    uint32_t* d = w.lanes<uint32_t>(op.operand[i]);
    for (int lane = 0; lane < kLanes; ++lane) {
      d[lane] = result[8 * (i / 2) + lane / 4][2 * (lane % 4) + i % 2];
    }
  }
}

Handler byte_handler(Type a, Type b, int depth) {
  const auto pick = [depth](auto x, auto y) -> Handler {
    return depth == 16 ? multiply_add_bytes<decltype(x), decltype(y), 16>
                       : multiply_add_bytes<decltype(x), decltype(y), 32>;
  };
  if (a.kind == 's') return b.kind == 's' ? pick(int8_t{}, int8_t{}) : pick(int8_t{}, uint8_t{});
  return b.kind == 's' ? pick(uint8_t{}, int8_t{}) : pick(uint8_t{}, uint8_t{});
}

bool decode_multiply_add(Builder& b) {
  if (!b.take("sync")) b.unsupported();
  b.take("aligned");
  const std::string shape = b.take_any({"m16n8k8", "m16n8k16", "m16n8k32"});
  if (shape.empty() || !b.take("row") || !b.take("col")) b.unsupported();
  const int depth = std::stoi(shape.substr(6));
  const Type d = b.take_type();
  const Type type_a = b.take_type();
  const Type type_b = b.take_type();
  const Type c = b.take_type();
  const bool bytes = type_a.bits == 8;
  const bool half_result = d == Type{'f', 16};
  if (bytes) {
    if (depth < 16 || type_b.bits != 8 || d != Type{'s', 32} || c != d) b.unsupported();
    b.op.run = byte_handler(type_a, type_b, depth);
  } else {
    if (depth > 16 || type_a != type_b || c != d || type_a.bits != 16) b.unsupported();
    if (type_a.kind == 'h' && d == Type{'f', 32}) {
      b.op.run = depth == 16 ? multiply_add<BfloatFormat, 16, false>
                             : multiply_add<BfloatFormat, 8, false>;
    } else if (type_a.kind == 'f' && d == Type{'f', 32}) {
      b.op.run =
          depth == 16 ? multiply_add<HalfFormat, 16, false> : multiply_add<HalfFormat, 8, false>;
    } else if (type_a.kind == 'f' && half_result) {
      b.op.run =
          depth == 16 ? multiply_add<HalfFormat, 16, true> : multiply_add<HalfFormat, 8, true>;
    } else {
      b.unsupported();
    }
  }
  const size_t results = half_result ? 2 : 4;
  const size_t tiles = static_cast<size_t>(bytes ? depth / 16 : depth / 8);
  const size_t counts[4] = {results, 2 * tiles, tiles, results};
  size_t slot = 0;
  for (size_t i = 0; i < 4; ++i) {
    const Operand& group = b.operand(i);
    const bool is_vector = group.kind == Operand::Kind::kVector;
    if (is_vector ? group.elements.size() != counts[i] : counts[i] != 1) b.unsupported();
    for (size_t j = 0; j < counts[i]; ++j) {
      const Operand& element = is_vector ? group.elements[j] : group;
      b.op.operand[slot++] = i == 0 ? b.out(element, {'b', 32}) : b.in(element, {'b', 32});
    }
  }
  b.op.control = Control::kCollective;
  return true;
}

}  // namespace

bool decode_matrix(Builder& b) {
  if (b.name() == "ldmatrix") return decode_load_matrices(b);
  if (b.name() == "movmatrix") return decode_transpose_matrix(b);
  if (b.name() == "mma") return decode_multiply_add(b);
  return false;
}

}  // namespace rillkv::ptx
