// Step 5 of error feedback (kernels/feedback.h) for head_dim 64 and 128, in shared memory:
// M = U diag(d) U^T from the last position to the first, eight positions (a panel) at a time.
//
//   1. Every thread of a column left of the panel factorises the panel's 8 x 8 block, all the same,
//      in registers, and with it solves its column: nothing is exchanged in the chain of pivots, of
//      which each waits for a division.
//   2. What the panel takes from the rows above it: eight multiply-adds an element, in the order
//      of positions, 2 x 4 elements a thread. The next panel's rows come first; the others are the
//      work of the threads that have no column, while that panel is solved.
//
// Every element sees the same operations in the same order as without panels.
#pragma once

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/shared_layout.h"
#include "kernels/feedback.h"

namespace rillkv::kernels::cuda {

/// A quotient by `divisor`, correctly rounded where nothing underflows or overflows on the way:
/// what a division compiles to, without the branch that looks for operands that do.
class Divisor {
 public:
  __device__ explicit Divisor(float divisor) : divisor_(divisor) {
    float approximate;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(approximate) : "f"(divisor));
    reciprocal_ = __fmaf_rn(approximate, __fmaf_rn(-divisor, approximate, 1.0f), approximate);
  }
  __device__ float operator()(float x) const {
    float q = __fmul_rn(x, reciprocal_);
    q = __fmaf_rn(reciprocal_, __fmaf_rn(-divisor_, q, x), q);
    return __fmaf_rn(reciprocal_, __fmaf_rn(-divisor_, q, x), q);
  }

 private:
  float divisor_, reciprocal_;
};
/// The same for all operands.
class CheckedDivisor {
 public:
  __device__ explicit CheckedDivisor(float divisor) : divisor_(divisor) {}
  __device__ float operator()(float x) const { return __fdiv_rn(x, divisor_); }

 private:
  float divisor_;
};

template <int D>
class FeedbackFactor {
 public:
  using Shared = FeedbackTileShared<D>;
  static constexpr int kPanel = Shared::kPanel;

  /// memory: of a Shared, with the matrix and `least`, [D]: kLeastSensitivity times the damping of
  /// each position. Leaves weights and sensitivities. By all threads of a CTA; begins and ends with
  /// a barrier.
  __device__ static void run(uint8_t* memory) {
    const FeedbackFactor factor(memory);
#pragma unroll 1
    for (int first = D - kPanel; first >= 0; first -= kPanel) {
      __syncthreads();
      if (thread() >= D) {
        if (first + kPanel < D) factor.rest(first + kPanel);
      } else if (thread() < max(first, 1)) {
        factor.panel(first);
      }
      __syncthreads();
      if (thread() < first) factor.next_panel(first);
    }
  }

 private:
  __device__ explicit FeedbackFactor(uint8_t* memory)
      : matrix_(reinterpret_cast<float*>(memory + Shared::kMatrix)),
        weights_(reinterpret_cast<float*>(memory + Shared::kWeights)),
        least_(reinterpret_cast<const float*>(memory + Shared::kLeast)),
        sensitivities_(reinterpret_cast<float*>(memory + Shared::kSensitivities)) {}
  __device__ static int thread() { return static_cast<int>(threadIdx.x); }

  /// Magnitudes of dividends and divisors, but zeros.
  struct Magnitudes {
    float least = 1.0f, most = 1.0f;
    __device__ void see(float x) {
      x = fabsf(x);
      most = fmaxf(most, x);
      least = fminf(least, x == 0.0f ? 1.0f : x);
    }
  };

  /// The panel's block, and of a column left of it what the rows above take; writes weights and, by
  /// the first thread, what is the block's.
  template <typename Division>
  __device__ Magnitudes solve(int first, bool has_column, float (&column)[kPanel]) const {
    float block[kPanel][kPanel];  // [r][c] with c <= r
#pragma unroll
    for (int r = 0; r < kPanel; ++r) {
      const float* row = matrix_ + Shared::matrix_row(first + r);
      float left[4], right[4] = {};
      read_four(reinterpret_cast<const float4*>(row + first), left);
      if (r >= 4) read_four(reinterpret_cast<const float4*>(row + first) + 1, right);
#pragma unroll
      for (int c = 0; c <= r; ++c) block[r][c] = c < 4 ? left[c] : right[c % 4];
      column[r] = has_column ? row[thread()] : 0.0f;
    }
    Magnitudes seen;
    float column_weights[4];
#pragma unroll
    for (int k = kPanel - 1; k >= 0; --k) {
      const float pivot = fmaxf(block[k][k], least_[first + k]);
      const Division divide(pivot);
      seen.see(pivot);
      seen.see(column[k]);
      column_weights[k % 4] = divide(column[k]);
      float weights[kPanel];
#pragma unroll
      for (int j = 0; j < k; ++j) {
        seen.see(block[k][j]);
        weights[j] = divide(block[k][j]);
      }
#pragma unroll
      for (int i = 0; i < k; ++i) {
        column[i] = __fmaf_rn(-weights[i], column[k], column[i]);
#pragma unroll
        for (int j = 0; j <= i; ++j) {
          block[i][j] = __fmaf_rn(-weights[i], block[k][j], block[i][j]);
        }
      }
      if (k % 4 == 0 && has_column) {
        *reinterpret_cast<float4*>(weights_ + Shared::weight_at(thread(), first + k)) = {
            column_weights[0], column_weights[1], column_weights[2], column_weights[3]};
      }
      if (thread() == 0) {
        sensitivities_[first + k] = pivot;
#pragma unroll
        for (int j = 0; j < kPanel; ++j) {
          weights_[Shared::weight_at(first + j, first + k)] = j < k ? weights[j] : 0.0f;
        }
      }
    }
    return seen;
  }

  __device__ void panel(int first) const {
    const bool has_column = thread() < first;
    float column[kPanel];
    const Magnitudes seen = solve<Divisor>(first, has_column, column);
    // Quotients and their residuals are normal numbers within these. Zeros divide to zeros.
    if (!(seen.least >= 0x1p-45f && seen.most <= 0x1p45f)) {
      solve<CheckedDivisor>(first, has_column, column);
    }
    if (!has_column) return;
#pragma unroll
    for (int r = 0; r < kPanel; ++r) {
      matrix_[Shared::matrix_row(first + r) + thread()] = column[r];
    }
  }

  /// What a panel takes from the next one.
  __device__ void next_panel(int first) const {
    const int row = first - kPanel + 2 * (thread() % 4), column = thread() / 4 * 4;
    if (column <= row) update(first, row, column);
  }
  /// And from the rows above that, by the threads that solve nothing. Rows 2 r and 2 r + 1 have
  /// r / 2 + 1 fours of columns: with those of the last but r they fill a line of the same length
  /// for every r.
  __device__ void rest(int first) const {
    const int rows = first - kPanel, lines = rows / 4, length = lines + 1;
    const uint32_t inverse = 65536u / static_cast<uint32_t>(length) + 1;
    for (int unit = thread() - D; unit < lines * length; unit += kPackBlockThreads - D) {
      const int line = static_cast<int>(static_cast<uint32_t>(unit) * inverse >> 16);
      const int place = unit - line * length, own = line / 2 + 1;
      const bool folded = place >= own;
      const int row = 2 * (folded ? rows / 2 - 1 - line : line);
      const int column = 4 * (folded ? place - own : place);
      update(first, row, column);
    }
  }
  __device__ void update(int first, int row, int column) const {
    float4* to[2];
    float x[2][4], weights[2][kPanel];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      to[r] = reinterpret_cast<float4*>(matrix_ + Shared::matrix_row(row + r) + column);
      read_four(to[r], x[r]);
      const auto* from =
          reinterpret_cast<const float4*>(weights_ + Shared::weight_at(row + r, first));
      float four[4];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        read_four(from + half, four);
#pragma unroll
        for (int k = 0; k < 4; ++k) weights[r][4 * half + k] = four[k];
      }
    }
#pragma unroll
    for (int k = kPanel - 1; k >= 0; --k) {
      float panel_row[4];
      read_four(reinterpret_cast<const float4*>(matrix_ + Shared::matrix_row(first + k) + column),
                panel_row);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
#pragma unroll
        for (int c = 0; c < 4; ++c) x[r][c] = __fmaf_rn(-weights[r][k], panel_row[c], x[r][c]);
      }
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) *to[r] = {x[r][0], x[r][1], x[r][2], x[r][3]};
  }
  __device__ static void read_four(const float4* from, float (&to)[4]) {
    const float4 four = *from;
    to[0] = four.x;
    to[1] = four.y;
    to[2] = four.z;
    to[3] = four.w;
  }

  float *matrix_, *weights_;
  const float* least_;
  float* sensitivities_;
};

}  // namespace rillkv::kernels::cuda
