// Linear layers in bf16: out[r, n] = sum_k x[r, k] W[n, k] + b[n], accumulated in fp32.
//
// A panel holds 32 outputs: for each pair of inputs two registers of sixteen (k, k+1) pairs. A tile
// of R <= 12 rows keeps R x 2 accumulators in registers; each of x's pairs is broadcast straight
// from memory into the product, so a step of two inputs costs two loads and 2 R vdpbf16ps. One row
// (decode) only streams the panel: four steps are in flight to hide the product's latency, and the
// prefetch runs ahead of the loads.
//
// Panels of 32 rather than 64: the smallest layers still give every thread several, and a panel of
// 576 inputs (36 KB) is read from the second-level cache once for twelve rows.
//
// Everything is a template over the arithmetic: vdpbf16ps, or fp32 multiply-adds for chips on which
// that one instruction takes longer than the two it stands for.
#include "kernels/cpu/avx512/simd.h"
#include "kernels/cpu/generic/inline.h"
#include "kernels/cpu/generic/simd_rows.h"
#include "kernels/cpu/generic/with_dtype.h"
#include "kernels/cpu/isa.h"

namespace rillkv::kernels::cpu::avx512 {
namespace {

constexpr int kTileRows = 12;
constexpr int kPairBytes = kLinearPanel * 4;  // one step of two inputs
// A single row waits for memory alone. Into L2: requests into L1 are few at a time, and a sixth
// of the bandwidth goes unused.
constexpr int kPrefetchBytes = 2048;

/// A pair of inputs a lane, as it lies in memory.
struct DotBf16 {
  using Weights = __m512bh;
  using X = __m512bh;
  using Stored = uint32_t;  // a pair of x, copied
  static constexpr bool kAlwaysCopies = false;

  static RILLKV_INLINE Weights load(const uint8_t* p) {
    return reinterpret_cast<__m512bh>(_mm512_loadu_si512(p));
  }
  static RILLKV_INLINE X broadcast(const uint16_t* x) {
    int32_t pair;
    __builtin_memcpy(&pair, x, sizeof pair);
    return reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair));
  }
  static RILLKV_INLINE X broadcast(const Stored& x) {
    return reinterpret_cast<__m512bh>(_mm512_set1_epi32(static_cast<int32_t>(x)));
  }
  static RILLKV_INLINE void copy(const uint16_t* x, Stored& to) {
    __builtin_memcpy(&to, x, sizeof to);
  }
  static RILLKV_INLINE __m512 add(__m512 sum, Weights w, X x) {
    return _mm512_dpbf16_ps(sum, w, x);
  }
};

/// The even and the odd inputs of sixteen pairs in a register each. bf16 is the upper half of fp32,
/// so a shift and a mask convert exactly, twice a register of weights for all rows of a tile. x is
/// converted when it is copied, for every tile of twelve rows.
struct FmaFp32 {
  struct Weights {
    __m512 even, odd;
  };
  using X = Weights;
  struct Stored {
    float even, odd;
  };
  static constexpr bool kAlwaysCopies = true;

  static RILLKV_INLINE Weights split(__m512i pairs) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)),
            _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(-65536)))};
  }
  static RILLKV_INLINE Weights load(const uint8_t* p) { return split(_mm512_loadu_si512(p)); }
  static RILLKV_INLINE X broadcast(const uint16_t* x) {
    int32_t pair;
    __builtin_memcpy(&pair, x, sizeof pair);
    return split(_mm512_set1_epi32(pair));
  }
  static RILLKV_INLINE X broadcast(const Stored& x) {
    return {_mm512_set1_ps(x.even), _mm512_set1_ps(x.odd)};
  }
  static RILLKV_INLINE void copy(const uint16_t* x, Stored& to) {
    const uint32_t even = static_cast<uint32_t>(x[0]) << 16;
    const uint32_t odd = static_cast<uint32_t>(x[1]) << 16;
    __builtin_memcpy(&to.even, &even, sizeof even);
    __builtin_memcpy(&to.odd, &odd, sizeof odd);
  }
  static RILLKV_INLINE __m512 add(__m512 sum, const Weights& w, const X& x) {
    return _mm512_fmadd_ps(w.odd, x.odd, _mm512_fmadd_ps(w.even, x.even, sum));
  }
};

inline void store(const LinearParams& p, int64_t row, int64_t column, __m512 value,
                  __mmask16 mask) {
  if (p.bias != nullptr) {
    const auto* bias = static_cast<const uint16_t*>(p.bias) + column;
    value = _mm512_add_ps(value, load_part_as<Simd, Dtype::kBFloat16>(bias, 0, mask));
  }
  const int64_t at = row * p.out_features + column;
  if (p.out_float32) {
    _mm512_mask_storeu_ps(static_cast<float*>(p.out) + at, mask, value);
  } else {
    _mm256_mask_storeu_epi16(static_cast<uint16_t*>(p.out) + at, mask,
                             reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(value)));
  }
}

/// Masks of the two halves of a panel: all ones but in the last panel.
inline __mmask16 half_mask(const LinearParams& p, int64_t column) {
  const int64_t left = p.out_features - column;
  return Simd::part(static_cast<int>(left < Simd::kLanes ? left : Simd::kLanes));
}

template <class A, int R>
void tile(const LinearParams& p, int64_t panel, int64_t row) {
  const uint16_t* x = static_cast<const uint16_t*>(p.x) + row * p.in_features;
  const int64_t pairs = p.in_features / 2;
  const uint8_t* w = static_cast<const uint8_t*>(p.packed) + panel * pairs * kPairBytes;
  __m512 sums[R][2];
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) sums[r][0] = sums[r][1] = _mm512_setzero_ps();
  for (int64_t k = 0; k < pairs; ++k) {
    const typename A::Weights w0 = A::load(w + k * kPairBytes),
                              w1 = A::load(w + k * kPairBytes + 64);
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      const typename A::X xk = A::broadcast(x + r * p.in_features + 2 * k);
      sums[r][0] = A::add(sums[r][0], w0, xk);
      sums[r][1] = A::add(sums[r][1], w1, xk);
    }
  }
  const int64_t column = panel * kLinearPanel;
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) {
    store(p, row + r, column, sums[r][0], half_mask(p, column));
    store(p, row + r, column + 16, sums[r][1], half_mask(p, column + 16));
  }
}

// Long rows (LLaMA's 4096 inputs) lie a multiple of 4 KB apart: twelve of them fight for the eight
// ways of one set of the first-level cache. Their tile is therefore copied, kDeepPairs at a time,
// to [pair][row] order, which serves kDeepPanels panels whose sums wait in memory between the
// copies.
constexpr int64_t kDeepInputs = 2048;  // from here on
constexpr int kDeepPairs = 256;
constexpr int kDeepPanels = 16;

template <class A>
void deep_tile(const LinearParams& p, int64_t panel_begin, int64_t panel_end, int64_t row) {
  alignas(64) float sums[kDeepPanels][kTileRows][kLinearPanel];
  alignas(64) typename A::Stored x[kDeepPairs][kTileRows];
  const uint16_t* rows = static_cast<const uint16_t*>(p.x) + row * p.in_features;
  const int64_t pairs = p.in_features / 2;
  __builtin_memset(sums, 0, sizeof sums);
  const int64_t parts = (pairs + kDeepPairs - 1) / kDeepPairs;
  for (int64_t part = 0; part < parts; ++part) {
    const int64_t first = pairs * part / parts, count = pairs * (part + 1) / parts - first;
    for (int r = 0; r < kTileRows; ++r) {
      for (int64_t k = 0; k < count; ++k) {
        A::copy(rows + r * p.in_features + 2 * (first + k), x[k][r]);
      }
    }
    for (int64_t panel = panel_begin; panel < panel_end; ++panel) {
      auto& sum = sums[panel - panel_begin];
      const uint8_t* w =
          static_cast<const uint8_t*>(p.packed) + (panel * pairs + first) * kPairBytes;
      __m512 acc[kTileRows][2];
#pragma GCC unroll 12
      for (int r = 0; r < kTileRows; ++r) {
        acc[r][0] = _mm512_load_ps(sum[r]);
        acc[r][1] = _mm512_load_ps(sum[r] + 16);
      }
      for (int64_t k = 0; k < count; ++k) {
        const typename A::Weights w0 = A::load(w + k * kPairBytes),
                                  w1 = A::load(w + k * kPairBytes + 64);
#pragma GCC unroll 12
        for (int r = 0; r < kTileRows; ++r) {
          const typename A::X xk = A::broadcast(x[k][r]);
          acc[r][0] = A::add(acc[r][0], w0, xk);
          acc[r][1] = A::add(acc[r][1], w1, xk);
        }
      }
#pragma GCC unroll 12
      for (int r = 0; r < kTileRows; ++r) {
        _mm512_store_ps(sum[r], acc[r][0]);
        _mm512_store_ps(sum[r] + 16, acc[r][1]);
      }
    }
  }
  for (int64_t panel = panel_begin; panel < panel_end; ++panel) {
    const int64_t column = panel * kLinearPanel;
    for (int r = 0; r < kTileRows; ++r) {
      const float* sum = sums[panel - panel_begin][r];
      store(p, row + r, column, _mm512_load_ps(sum), half_mask(p, column));
      store(p, row + r, column + 16, _mm512_load_ps(sum + 16), half_mask(p, column + 16));
    }
  }
}

template <class A>
void single_row(const LinearParams& p, int64_t panel, int64_t row) {
  constexpr int kSteps = 4;
  const uint16_t* x = static_cast<const uint16_t*>(p.x) + row * p.in_features;
  const int64_t pairs = p.in_features / 2, whole = pairs / kSteps * kSteps;
  const uint8_t* w = static_cast<const uint8_t*>(p.packed) + panel * pairs * kPairBytes;
  __m512 sums[kSteps][2];
  for (auto& pair : sums) pair[0] = pair[1] = _mm512_setzero_ps();
  const auto step = [&](int64_t k, __m512(&sum)[2]) __attribute__((always_inline)) {
    const typename A::X xk = A::broadcast(x + 2 * k);
    const uint8_t* at = w + k * kPairBytes;
    _mm_prefetch(reinterpret_cast<const char*>(at) + kPrefetchBytes, _MM_HINT_T1);
    _mm_prefetch(reinterpret_cast<const char*>(at) + kPrefetchBytes + 64, _MM_HINT_T1);
    sum[0] = A::add(sum[0], A::load(at), xk);
    sum[1] = A::add(sum[1], A::load(at + 64), xk);
  };
  for (int64_t k = 0; k < whole; k += kSteps) {
#pragma GCC unroll 4
    for (int s = 0; s < kSteps; ++s) step(k + s, sums[s]);
  }
  for (int64_t k = whole; k < pairs; ++k) step(k, sums[0]);
  const int64_t column = panel * kLinearPanel;
  for (int half = 0; half < 2; ++half) {
    const __m512 sum = _mm512_add_ps(_mm512_add_ps(sums[0][half], sums[1][half]),
                                     _mm512_add_ps(sums[2][half], sums[3][half]));
    store(p, row, column + 16 * half, sum, half_mask(p, column + 16 * half));
  }
}

/// The rows after the last whole tile.
template <class A>
void rest(const LinearParams& p, int64_t panel, int64_t row, int64_t rows) {
  if (rows == 0) return;
  if (rows == 1) return single_row<A>(p, panel, row);
  with_int<2, kTileRows - 1>(static_cast<int>(rows),
                             [&](auto count) { tile<A, count>(p, panel, row); });
}

void pack_linear(const void* weight, int64_t out_features, int64_t in_features, int64_t begin,
                 int64_t end, void* packed) {
  const uint16_t* from = static_cast<const uint16_t*>(weight);
  for (int64_t panel = begin; panel < end; ++panel) {
    uint16_t* to = static_cast<uint16_t*>(packed) + panel * in_features * kLinearPanel;
    for (int64_t k = 0; k < in_features; k += 2) {
      for (int64_t n = panel * kLinearPanel; n < (panel + 1) * kLinearPanel; ++n) {
        *to++ = n < out_features ? from[n * in_features + k] : 0;
        *to++ = n < out_features ? from[n * in_features + k + 1] : 0;
      }
    }
  }
}

template <class A>
void linear(const LinearParams& params, int64_t panel_begin, int64_t panel_end, int64_t row_begin,
            int64_t row_end, void* /*workspace*/) {
  const int64_t whole = row_begin + (row_end - row_begin) / kTileRows * kTileRows;
  const bool deep = A::kAlwaysCopies || params.in_features >= kDeepInputs;
  if (deep && whole > row_begin) {
    for (int64_t first = panel_begin; first < panel_end; first += kDeepPanels) {
      const int64_t last = first + kDeepPanels < panel_end ? first + kDeepPanels : panel_end;
      for (int64_t row = row_begin; row < whole; row += kTileRows)
        deep_tile<A>(params, first, last, row);
    }
  }
  for (int64_t panel = panel_begin; panel < panel_end; ++panel) {
    for (int64_t row = row_begin; row < whole && !deep; row += kTileRows) {
      tile<A, kTileRows>(params, panel, row);
    }
    rest<A>(params, panel, whole, row_end - whole);
  }
}

size_t no_workspace(const LinearParams& /*params*/) { return 0; }
int64_t no_tiled_row(const LinearParams& params) { return params.rows; }
void tile_rows(const LinearParams& /*params*/, int64_t /*row_begin*/, int64_t /*row_end*/) {}

}  // namespace

constinit const LinearKernels kLinear = {pack_linear, linear<DotBf16>, no_workspace, no_tiled_row,
                                         tile_rows};
constinit const LinearKernels kLinearFp32 = {pack_linear, linear<FmaFp32>, no_workspace,
                                             no_tiled_row, tile_rows};

}  // namespace rillkv::kernels::cpu::avx512
