// The plan of error feedback (steps 2 to 5 of feedback.h); S: see simd_concept.h. The scalar lines
// stand above the groups of vector operations that repeat them.
//
// In the workspace, two matrices with rows of `padded` floats, a multiple of 16, so that every
// loop runs over whole registers: the moment mirrored to a full square, and M. What lies above M's
// diagonal is computed along and never read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/cpu/generic/feedback_steps.h"
#include "kernels/cpu/generic/hadamard.h"
#include "kernels/cpu/generic/inline.h"
#include "kernels/cpu/isa.h"

namespace rillkv::kernels::cpu {
namespace {

/// The moment as a full square [padded, padded].
template <class S>
void mirror_moment(const float* moment, int padded, float* square) {
  constexpr int L = S::kLanes;
  for (int i = 0; i < padded; i += L) {
    const int columns = moment_columns(i);
    const float* rows = moment + moment_row(i);
    for (int j = 0; j < columns; j += L) {
      typename S::I tile[L];
#pragma GCC unroll 16
      for (int r = 0; r < L; ++r) {
        tile[r] = S::load_int(rows + r * columns + j);
        S::store_int(square + static_cast<size_t>(i + r) * static_cast<size_t>(padded) + j,
                     tile[r]);
      }
      if (j + L > i) continue;  // both sides of the diagonal are there
      S::transpose(tile);
#pragma GCC unroll 16
      for (int r = 0; r < L; ++r) {
        S::store_int(square + static_cast<size_t>(j + r) * static_cast<size_t>(padded) + i,
                     tile[r]);
      }
    }
  }
}

/// The rows of H of one pair, by the pairs of their columns: at[s][r][b] is H[a + s h][b + r h].
template <class S>
struct HessianRows {
  alignas(64) float at[2][2][kMaxSimdHeadDim / 2 + S::kLanes];
};

/// hessian_of for all b. first, second: the rows a and a + h of the mirrored moment, after which L
/// more floats can be read; distances: [h, 4] of the pair.
template <class S>
void hessian_rows(const float* first, const float* second, const float* distances, int half,
                  HessianRows<S>& out) {
  using F = typename S::F;
  constexpr int L = S::kLanes;
  const F half_of = S::set1(0.5f);
  for (int b = 0; b < half; b += L) {
    alignas(64) float rest[4 * L];
    const float* at = distances + 4 * b;
    if (half - b < L) {  // the table ends here
      std::memcpy(rest, at, sizeof(float) * 4 * static_cast<size_t>(half - b));
      std::memset(rest + 4 * (half - b), 0, sizeof(float) * 4 * static_cast<size_t>(L + b - half));
      at = rest;
    }
    F g[4];
    S::unzip4(at, g);
    const F A = S::load(first + b), B = S::load(first + b + half);
    const F C = S::load(second + b), E = S::load(second + b + half);
    // sum = A + E, dif = A - E, cross = C - B, both = C + B
    const F sum = S::add(A, E), dif = S::sub(A, E), cross = S::sub(C, B), both = S::add(C, B);
    // ur = fma(-cross, im0, sum * re0), ui = fma(cross, re0, sum * im0)
    const F ur = S::fnma(cross, g[1], S::mul(sum, g[0]));
    const F ui = S::fma(cross, g[0], S::mul(sum, g[1]));
    // vr = fma(-both, im1, dif * re1), vi = fma(both, re1, dif * im1)
    const F vr = S::fnma(both, g[3], S::mul(dif, g[2]));
    const F vi = S::fma(both, g[2], S::mul(dif, g[3]));
    S::store(out.at[0][0] + b, S::mul(half_of, S::add(ur, vr)));
    S::store(out.at[0][1] + b, S::mul(half_of, S::sub(vi, ui)));
    S::store(out.at[1][0] + b, S::mul(half_of, S::add(ui, vi)));
    S::store(out.at[1][1] + b, S::mul(half_of, S::sub(ur, vr)));
  }
}

/// The rows of one pair in the order of positions, up to and with the diagonal.
template <class S>
void permute_rows(const HessianRows<S>& rows, const int32_t* pairs, int rank, const float* damping,
                  float* first, float* second) {
  constexpr int L = S::kLanes;
  // The register that the diagonal is in is defined to its end.
  const int last = 2 * rank / L * L;
  S::store(first + last, S::zero());
  S::store(second + last, S::zero());
  for (int r = 0; r <= rank; ++r) {
    const int b = pairs[r];
    first[2 * r] = rows.at[0][0][b];
    first[2 * r + 1] = rows.at[0][1][b];
    second[2 * r] = rows.at[1][0][b];
    second[2 * r + 1] = rows.at[1][1][b];
  }
  first[2 * rank] += damping[2 * rank];
  second[2 * rank + 1] += damping[2 * rank + 1];
}

inline constexpr int kPivots = 4;  // rows that the factorisation takes at a time

/// Rows of M as pivots, and B of theirs; pivot q is row `top - q`.
struct Pivots {
  const float* rows[kPivots];
  alignas(64) float weights[kPivots][kMaxSimdHeadDim];
};

/// M_ij = fma(-B_ki, M_kj, M_ij) for the first `count` pivots k, one after the other, in kRows rows
/// i .. and the registers of j that hold their triangle.
template <class S, int kRows, int kCount>
RILLKV_INLINE void eliminate(const Pivots& pivots, int i, float* row, int padded) {
  using F = typename S::F;
  F weights[kCount][kRows];
#pragma GCC unroll 4
  for (int q = 0; q < kCount; ++q) {
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      weights[q][r] = S::broadcast_float(pivots.weights[q] + i + r);
    }
  }
  for (int j = 0; j < i + kRows; j += S::kLanes) {
    F x[kCount];
#pragma GCC unroll 4
    for (int q = 0; q < kCount; ++q) x[q] = S::load_once(pivots.rows[q] + j);
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      F sum = S::load(row + r * padded + j);
#pragma GCC unroll 4
      for (int q = 0; q < kCount; ++q) sum = S::fnma(weights[q][r], x[q], sum);
      S::store(row + r * padded + j, sum);
    }
  }
}

/// U diag(d) U^T = M from the last position to the first. matrix: M, rows of `padded` floats.
template <class S>
void factorise(int head_dim, int padded, const float* damping, float* matrix,
               const FeedbackPlan& out) {
  constexpr int L = S::kLanes;
  constexpr int kRows = L == 16 ? 4 : 2;  // 16 weights of 32 registers, 8 of 16
  Pivots pivots;
  for (int top = (head_dim - 1) / kPivots * kPivots + kPivots - 1; top >= 0; top -= kPivots) {
    for (int q = 0; q < kPivots; ++q) {
      const int k = top - q;
      float* row = matrix + static_cast<size_t>(k) * static_cast<size_t>(padded);
      pivots.rows[q] = row;
      if (k >= head_dim) {  // no such row: one that changes nothing
        std::memset(row, 0, sizeof(float) * static_cast<size_t>(padded));
        std::memset(pivots.weights[q], 0, sizeof(float) * static_cast<size_t>(padded));
        continue;
      }
      with_int<0, kPivots - 1>(q, [&](auto count) {
        if constexpr (count > 0) eliminate<S, 1, count>(pivots, k, row, padded);
      });
      // d_k = max(M_kk, least); B_kj = M_kj / d_k
      const float least = kLeastSensitivity * damping[k];
      const float d = row[k] > least ? row[k] : least;
      out.sensitivities[k] = d;
      for (int j = 0; j <= k; j += L) {
        S::store(pivots.weights[q] + j, S::div(S::load(row + j), S::set1(d)));
      }
      std::memcpy(out.weights + static_cast<size_t>(k) * static_cast<size_t>(head_dim),
                  pivots.weights[q], sizeof(float) * static_cast<size_t>(k));
    }
    for (int i = 0; i < top - kPivots + 1; i += kRows) {
      eliminate<S, kRows, kPivots>(
          pivots, i, matrix + static_cast<size_t>(i) * static_cast<size_t>(padded), padded);
    }
  }
}

template <class S>
void plan_feedback_any(const float* moment, const float* distances, int32_t head_dim,
                       void* workspace, const FeedbackPlan& out) {
  if (head_dim > kMaxSimdHeadDim) {
    return scalar::kFeedback.plan_feedback(moment, distances, head_dim, workspace, out);
  }
  const int half = head_dim / 2;
  const int padded = (head_dim + kMomentTile - 1) / kMomentTile * kMomentTile;
  const auto line = [padded](float* matrix, int i) {
    return matrix + static_cast<size_t>(i) * static_cast<size_t>(padded);
  };
  float* matrix = static_cast<float*>(workspace);
  float* square = line(matrix, padded);
  float energies[kMaxSimdHeadDim / 2], damping[kMaxSimdHeadDim];
  int32_t pairs[kMaxSimdHeadDim / 2];
  if (!order_channels(moment, distances, head_dim, energies, pairs, out.order, damping)) {
    // The identity is its own factor.
    for (int k = 0; k < head_dim; ++k) {
      out.sensitivities[k] = 1.0f;
      std::memset(out.weights + static_cast<size_t>(k) * static_cast<size_t>(head_dim), 0,
                  sizeof(float) * static_cast<size_t>(k));
    }
    return;
  }
  mirror_moment<S>(moment, padded, square);
  HessianRows<S> rows;
  for (int rank = 0; rank < half; ++rank) {
    const int a = pairs[rank];
    hessian_rows<S>(line(square, a), line(square, a + half),
                    distances + 4 * static_cast<size_t>(a) * static_cast<size_t>(half), half, rows);
    permute_rows<S>(rows, pairs, rank, damping, line(matrix, 2 * rank), line(matrix, 2 * rank + 1));
  }
  factorise<S>(head_dim, padded, damping, matrix, out);
}

}  // namespace
}  // namespace rillkv::kernels::cpu
