// Naive attention in double: every score, one softmax, one sum.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

namespace rillkv::reference {

using Vector = std::vector<double>;

/// One token's key or value (one kv head) or query (one head).
struct Token {
  int64_t index = 0;     // order in the sequence: decides who sees whom
  int64_t position = 0;  // angle of its rotation
  Vector key;            // before RoPE
  Vector value;
};

struct Query {
  int64_t index = 0;
  int64_t position = 0;
  Vector vector;  // before RoPE
};

/// Half-split RoPE: the pair (c, c + D/2) turns by position * inv_freq[c].
Vector rotate(const Vector& x, int64_t position, const Vector& inv_freq);

/// The orthonormal Walsh-Hadamard transform by its definition: entry (i, j) of the matrix is
/// (-1)^popcount(i & j) / sqrt(D).
Vector hadamard(const Vector& x);

/// Applied to intermediate quantities, to see what plain low-precision code would make of them.
struct Precision {
  std::function<double(double)> round = [](double x) { return x; };
};

/// The same tokens with keys as RoPE leaves them.
std::vector<Token> with_rotated_keys(std::vector<Token> tokens, const Vector& inv_freq);

/// softmax over the visible tokens (index <= the query's) times their values. With a `precision`
/// the rotated query and key, the weights relative to the largest, and the values are rounded.
Vector attend(const Query& query, const std::vector<Token>& rotated, const Vector& inv_freq,
              double scale, const Precision& precision = {});

}  // namespace rillkv::reference
