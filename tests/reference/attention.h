// Naive attention in double: every score, one softmax, one sum.
#pragma once

#include <cstdint>
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

/// How attention computes. Beside exact (double) attention, what plain low-precision code would
/// make of the same input: the yardstick of a kernel's error.
enum class Precision {
  kExact,
  kFloat32,        // naive code in fp32 throughout
  kBFloat16Tiles,  // rotated queries and keys, weights and values rounded to bf16, sums exact
};

/// The same tokens with keys as RoPE leaves them; under kBFloat16Tiles keys and values are rounded.
std::vector<Token> with_rotated_keys(std::vector<Token> tokens, const Vector& inv_freq,
                                     Precision precision = Precision::kExact);

/// softmax over the visible tokens (index <= the query's) times their values. `rotated` comes from
/// with_rotated_keys with the same precision.
Vector attend(const Query& query, const std::vector<Token>& rotated, const Vector& inv_freq,
              double scale, Precision precision = Precision::kExact);

}  // namespace rillkv::reference
