// The second moment of the queries (step 1 of feedback.h), a few rows of a tile at a time; S: see
// simd_concept.h.
//
// A run of query rows is converted to fp32 once, small enough for the first-level cache. Then every
// group of kRows x kVectors registers of the moment takes all rows of the run before it goes back
// to memory: a token costs it kVectors loads and kRows broadcasts for kRows * kVectors
// multiply-adds. Each element's sum still runs over tokens and heads in their order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/cpu/generic/hadamard.h"
#include "kernels/cpu/generic/inline.h"
#include "kernels/cpu/generic/rows.h"
#include "kernels/cpu/generic/simd_rows.h"
#include "kernels/cpu/isa.h"
#include "kernels/moment_layout.h"

namespace rillkv::kernels::cpu {
namespace {

/// sums[r][v] += rows[n][i + r] * rows[n][j + v L ...] for n < count in ascending order. `rows` is
/// at column 0 of the first row; `sums` at the first register.
template <class S, int kRows, int kVectors>
RILLKV_INLINE void add_products(const float* rows, int stride, int count, int i, int j,
                                float* moment, int columns) {
  using F = typename S::F;
  constexpr int L = S::kLanes;
  F sums[kRows][kVectors];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sums[r][v] = S::load(moment + r * columns + v * L);
  }
  const float* left = rows + i;
  const float* right = rows + j;
  for (int n = 0; n < count; ++n, left += stride, right += stride) {
    F x[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) x[v] = S::load_once(right + v * L);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const F y = S::broadcast_float(left + r);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sums[r][v] = S::fma(y, x[v], sums[r][v]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) S::store(moment + r * columns + v * L, sums[r][v]);
  }
}

/// A run of rows of `padded` floats each, a multiple of kMomentTile.
template <class S>
void add_run(const float* rows, int padded, int count, float* moment) {
  constexpr int L = S::kLanes;
  // 16 or 24 accumulators of 32 registers; 8 of 16.
  constexpr int kRows = L == 16 ? 8 : 4;
  for (int block = 0; block < padded; block += kMomentTile) {
    const int columns = moment_columns(block);
    for (int i = block; i < block + kMomentTile; i += kRows) {
      float* row = moment + moment_row(i);
      int j = 0;
      if constexpr (L == 16) {
        if (columns == L) {
          add_products<S, kRows, 1>(rows, padded, count, i, 0, row, columns);
          continue;
        }
        if (columns / L % 2 != 0) {
          add_products<S, kRows, 3>(rows, padded, count, i, 0, row, columns);
          j = 3 * L;
        }
      }
      for (; j < columns; j += 2 * L) {
        add_products<S, kRows, 2>(rows, padded, count, i, j, row + j, columns);
      }
    }
  }
}

template <class S>
void add_moment_any(const PackParams& p, int32_t group, float* moment) {
  constexpr int L = S::kLanes;
  if (p.head_dim > kMaxSimdHeadDim) return scalar::kFeedback.add_moment(p, group, moment);
  constexpr int kRunFloats = 6144;  // 24 KB of the first-level cache
  static_assert(kRunFloats >= kMaxSimdHeadDim);
  alignas(64) float rows[kRunFloats + L];
  const int D = p.head_dim;
  const int padded = (D + kMomentTile - 1) / kMomentTile * kMomentTile;
  const int most = kRunFloats / padded;
  // What load_whole_row leaves between a row's end and the next row.
  if (padded != D) std::memset(rows, 0, sizeof rows);
  with_dtype(p.dtype, [&](auto type) {
    int count = 0;
    for (int t = 0; t < p.tokens; ++t) {
      for (int g = 0; g < group; ++g) {
        const void* row = row_of(p.input, p.dtype, t, p.kv_head * group + g);
        load_whole_row<S, type>(static_cast<const uint8_t*>(row), D, rows + count * padded);
        if (++count < most) continue;
        add_run<S>(rows, padded, count, moment);
        count = 0;
      }
    }
    if (count > 0) add_run<S>(rows, padded, count, moment);
  });
}

}  // namespace
}  // namespace rillkv::kernels::cpu
