// Linear layers of many rows on the tile unit: out[r, n] = sum_k x[r, k] W[n, k] + b[n].
//
// The panels that AVX-512's kernel streams for one row are B operands as they are: a panel of 32
// outputs holds 128 bytes for each pair of inputs, so 16 of them (32 inputs) are two tiles, outputs
// 0..15 from its start and 16..31 from 64 bytes on, rows 128 bytes apart. Each row is one cache
// line and all 32 of a step are neighbours, so no set of L1 gets more than its share: a second copy
// of the weights in contiguous tiles would save nothing.
//
// A block is 32 rows x 32 outputs: four tiles of sums, two of x, two of the panel; a product needs
// half a tile from x and half from the panel. One of the two can live in L1 (48 KB): kDepth steps
// of a panel, 36 KB, stay there while the rows stream past from L2, 1 KB for every two products (32
// cycles). Layers deeper than that keep sums in fp32 between runs of kDepth steps ("parts").
//
//   for kRowRun rows            x, a part at a time (512 rows: 0.6 MB), and the sums (1 MB) share
//     for a group of panels     L2 (2 MB) with the next panel
//       for each part
//         for each panel        36 KB of weights: from memory once for all rows of the run
//           for each block      32 rows x kDepth steps: 72 products, about 0.4 us
//
// Traffic for 4096 inputs and 512 rows: a panel's 256 KB of weights serve 16384 products, 45 us, so
// a thread reads 6 GB/s from memory; a group of 16 panels reads x (4 MB) from L3 once, 0.7 ms of
// products, 6 GB/s more. Neither waits if it is asked for early: while a panel's part is worked on,
// the next one's is prefetched into L2, a few lines a step.
//
// Three things keep the unit busy. The sums of a finished block are converted to the output's type
// between the products of the next one, two rows a step. Rows that lie a multiple of 2 KB apart are
// copied to tiles first, by tile_rows: sixteen of them need one or two of L1's 64 sets, which hold
// twelve lines each, and push the panel out. And x is loaded with the hint that it is read once.
//
// A last block of fewer rows is padded with zeros in params.tiles too, so that nothing is read past
// x; a product takes as long for one row as for sixteen. Where in_features is no multiple of 32 all
// of x is, and the panel's last step is copied and padded on the stack.
#pragma once

#include "kernels/cpu/amx/tiles.h"
#include "kernels/cpu/avx512/simd.h"
#include "kernels/cpu/generic/inline.h"
#include "kernels/cpu/generic/simd_rows.h"
#include "kernels/cpu/params.h"

namespace rillkv::kernels::cpu::amx {
namespace {

using avx512::Simd;

constexpr int64_t kStepInputs = 32;                   // of one product
constexpr int64_t kPanelRowBytes = kLinearPanel * 4;  // a pair of inputs
constexpr int64_t kPanelStepBytes = kStepInputs / 2 * kPanelRowBytes;
constexpr int64_t kTileBytes = 1024;
constexpr int64_t kBlockRows = 32;
constexpr int kBlockFloats = kBlockRows * kLinearPanel;
constexpr int64_t kDepth = 18;
constexpr int64_t kRowRun = 512;
constexpr int64_t kSumBytes = 1 << 20;
/// Fewer rows only stream the weights from memory, which AVX-512's kernel does without a copy of x.
constexpr int64_t kFewestRows = 4;

constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// Panels whose sums fit kSumBytes.
constexpr int64_t group_size(int64_t blocks) { return kSumBytes / (blocks * kBlockFloats * 4); }

inline bool all_rows_tiled(const LinearParams& p) {
  return p.in_features % kStepInputs != 0 || p.in_features % 1024 == 0;
}

inline int64_t first_tiled_row(const LinearParams& p) {
  if (p.rows < kFewestRows) return p.rows;
  if (all_rows_tiled(p)) return 0;
  return p.rows % kTileRows == 0 ? p.rows : p.rows / kBlockRows * kBlockRows;
}

inline size_t linear_workspace_bytes(const LinearParams& p) {
  const int64_t steps = divide_up(p.in_features, kStepInputs);
  if (p.rows < kFewestRows || steps <= kDepth) return 0;
  const int64_t rows = p.rows < kRowRun ? p.rows : kRowRun;
  const int64_t blocks = divide_up(rows, kBlockRows);
  const int64_t panels = divide_up(p.out_features, kLinearPanel);
  const int64_t group = panels < group_size(blocks) ? panels : group_size(blocks);
  return static_cast<size_t>(group * blocks * kBlockFloats * 4);
}

inline void tile_rows(const LinearParams& p, int64_t row_begin, int64_t row_end) {
  const int64_t first = first_tiled_row(p), steps = divide_up(p.in_features, kStepInputs);
  const int64_t end = first + divide_up(row_end - first, kTileRows) * kTileRows;
  const int64_t last_inputs = p.in_features - (steps - 1) * kStepInputs;
  const auto last = static_cast<__mmask32>(0xffffffffu >> (kStepInputs - last_inputs));
  for (int64_t row = row_begin; row < end; ++row) {
    auto* to = static_cast<uint8_t*>(p.tiles) + (row - first) / kTileRows * steps * kTileBytes +
               (row - first) % kTileRows * 64;
    const bool exists = row < p.rows;
    const uint16_t* from = static_cast<const uint16_t*>(p.x) + (exists ? row : 0) * p.in_features;
    for (int64_t i = 0; i + 1 < steps; ++i, to += kTileBytes, from += kStepInputs) {
      _mm512_store_si512(to, exists ? _mm512_loadu_si512(from) : _mm512_setzero_si512());
    }
    _mm512_store_si512(to, _mm512_maskz_loadu_epi16(exists ? last : 0, from));
  }
}

template <TileUnit Tiles>
class LinearKernel {
 public:
  /// sums: linear_workspace_bytes(p).
  LinearKernel(const LinearParams& p, float* sums)
      : p_(p),
        steps_(divide_up(p.in_features, kStepInputs)),
        parts_(divide_up(steps_, kDepth)),
        first_tiled_(first_tiled_row(p)),
        sums_(sums) {}

  void run(int64_t panel_begin, int64_t panel_end, int64_t row_begin, int64_t row_end) {
    const typename Tiles::Session session;
    const int64_t runs = divide_up(row_end - row_begin, kRowRun);
    const int64_t blocks = divide_up(row_end - row_begin, kBlockRows);
    const int64_t panels = panel_end - panel_begin;
    for (int64_t run = 0; run < runs; ++run) {
      row_begin_ = row_begin + blocks * run / runs * kBlockRows;
      row_end_ = run + 1 == runs ? row_end : row_begin + blocks * (run + 1) / runs * kBlockRows;
      const int64_t most = group_size(divide_up(row_end_ - row_begin_, kBlockRows));
      const int64_t groups = parts_ == 1 ? 1 : divide_up(panels, most);
      for (int64_t group = 0; group < groups; ++group) {
        run_group(panel_begin + panels * group / groups,
                  panel_begin + panels * (group + 1) / groups, panel_end);
      }
    }
    convert_rest();
  }

 private:
  RILLKV_INLINE int64_t part_begin(int64_t part) const { return steps_ * part / parts_; }

  RILLKV_INLINE const uint8_t* weights(int64_t panel, int64_t step) const {
    return static_cast<const uint8_t*>(p_.packed) + panel * (p_.in_features / 2) * kPanelRowBytes +
           step * kPanelStepBytes;
  }

  /// Panels [begin, end); those from `end` to `last` come next.
  void run_group(int64_t begin, int64_t end, int64_t last) {
    const int64_t blocks = divide_up(row_end_ - row_begin_, kBlockRows);
    for (int64_t part = 0; part < parts_; ++part) {
      for (int64_t panel = begin; panel < end; ++panel) {
        const int64_t steps = part_begin(part + 1) - part_begin(part);
        if (panel + 1 < end) {
          prefetch_next(panel + 1, part, blocks * steps);
        } else if (part + 1 < parts_) {
          prefetch_next(begin, part + 1, blocks * steps);
        } else if (end < last) {
          prefetch_next(end, 0, blocks * steps);
        }
        if (part + 1 == parts_ && p_.in_features % kStepInputs != 0) pad_last_step(panel);
        for (int64_t block = 0; block < blocks; ++block) {
          float* sums = sums_ + ((panel - begin) * blocks + block) * kBlockFloats;
          const int64_t row = row_begin_ + block * kBlockRows;
          if (row_end_ - row > kTileRows) {
            multiply<2>(panel, row, part, sums);
          } else {
            multiply<1>(panel, row, part, sums);
          }
        }
      }
    }
  }

  /// From now on `steps` steps prefetch a part of a panel between them.
  void prefetch_next(int64_t panel, int64_t part, int64_t steps) {
    ahead_ = weights(panel, part_begin(part));
    ahead_end_ = weights(panel, part_begin(part + 1));
    ahead_lines_ = static_cast<int>(divide_up((ahead_end_ - ahead_) / 64, steps));
  }

  /// The panel's pairs after the last whole step, then zeros.
  void pad_last_step(int64_t panel) {
    const int64_t pairs = p_.in_features % kStepInputs / 2;
    __builtin_memset(last_step_, 0, sizeof last_step_);
    __builtin_memcpy(last_step_, weights(panel, steps_ - 1),
                     static_cast<size_t>(pairs * kPanelRowBytes));
  }

  /// The block at `row`, of kRowTiles x 16 rows.
  template <int kRowTiles>
  void multiply(int64_t panel, int64_t row, int64_t part, float* sums) {
    constexpr int kTileFloats = kTileBytes / 4;
    const int64_t begin = part_begin(part), end = part_begin(part + 1);
    const bool last = part + 1 == parts_;
    if (part == 0) {
      Tiles::template zero<0>();
      Tiles::template zero<1>();
      if constexpr (kRowTiles == 2) {
        Tiles::template zero<2>();
        Tiles::template zero<3>();
      }
    } else {
      Tiles::template load<0>(sums);
      Tiles::template load<1>(sums + kTileFloats);
      if constexpr (kRowTiles == 2) {
        Tiles::template load<2>(sums + 2 * kTileFloats);
        Tiles::template load<3>(sums + 3 * kTileFloats);
      }
    }
    const bool tiled = row >= first_tiled_;
    const size_t stride = tiled ? kTileRowBytes : static_cast<size_t>(p_.in_features) * 2;
    const int64_t next = tiled ? kTileBytes : 64;
    const uint8_t* x =
        tiled ? static_cast<const uint8_t*>(p_.tiles) +
                    ((row - first_tiled_) / kTileRows * steps_ + begin) * kTileBytes
              : static_cast<const uint8_t*>(p_.x) + row * p_.in_features * 2 + begin * 64;
    const int64_t second = tiled ? steps_ * kTileBytes : kTileRows * p_.in_features * 2;
    const uint8_t* w = weights(panel, begin);
    const bool padded = last && p_.in_features % kStepInputs != 0;
    const int64_t whole = padded ? end - 1 : end;
    for (int64_t i = begin; i < whole; ++i, w += kPanelStepBytes, x += next) {
      step<kRowTiles>(w, x, x + second, stride);
    }
    if (padded) step<kRowTiles>(last_step_, x, x + second, stride);
    if (!last) {
      Tiles::template store<0>(sums);
      Tiles::template store<1>(sums + kTileFloats);
      if constexpr (kRowTiles == 2) {
        Tiles::template store<2>(sums + 2 * kTileFloats);
        Tiles::template store<3>(sums + 3 * kTileFloats);
      }
      return;
    }
    convert_rest();
    Tiles::template store<0>(done_, kLinearPanel * 4);
    Tiles::template store<1>(done_ + 16, kLinearPanel * 4);
    if constexpr (kRowTiles == 2) {
      Tiles::template store<2>(done_ + kBlockFloats / 2, kLinearPanel * 4);
      Tiles::template store<3>(done_ + kBlockFloats / 2 + 16, kLinearPanel * 4);
    }
    due_ = 0;
    due_end_ = row_end_ - row < kBlockRows ? row_end_ - row : kBlockRows;
    due_row_ = row;
    due_column_ = panel * kLinearPanel;
    const int64_t left = p_.out_features - due_column_;
    due_low_ = Simd::part(static_cast<int>(left < 16 ? left : 16));
    due_high_ = Simd::part(static_cast<int>(left < 32 ? left - 16 : 16));
  }

  template <int kRowTiles>
  RILLKV_INLINE void step(const uint8_t* w, const uint8_t* x, const uint8_t* second,
                          size_t stride) {
    Tiles::template load<6>(w, kPanelRowBytes);
    Tiles::template stream<4>(x, stride);
    Tiles::template dot<0, 4, 6>();
    Tiles::template load<7>(w + 64, kPanelRowBytes);
    Tiles::template dot<1, 4, 7>();
    if constexpr (kRowTiles == 2) {
      Tiles::template stream<5>(second, stride);
      Tiles::template dot<2, 5, 6>();
      Tiles::template dot<3, 5, 7>();
    }
    for (int i = 0; i < ahead_lines_ && ahead_ < ahead_end_; ++i, ahead_ += 64) {
      Simd::prefetch(ahead_);
    }
    for (int i = 0; i < 2 && due_ < due_end_; ++i) convert_row();
  }

  void convert_rest() {
    while (due_ < due_end_) convert_row();
  }

  /// Row due_ of the finished block.
  RILLKV_INLINE void convert_row() {
    const float* sums = done_ + due_ * kLinearPanel;
    __m512 low = _mm512_load_ps(sums), high = _mm512_load_ps(sums + 16);
    if (p_.bias != nullptr) {
      const uint16_t* bias = static_cast<const uint16_t*>(p_.bias) + due_column_;
      low = _mm512_add_ps(low, load_part_as<Simd, Dtype::kBFloat16>(bias, 0, due_low_));
      high = _mm512_add_ps(high, load_part_as<Simd, Dtype::kBFloat16>(bias, 16, due_high_));
    }
    const int64_t at = (due_row_ + due_) * p_.out_features + due_column_;
    ++due_;
    if (p_.out_float32) {
      float* out = static_cast<float*>(p_.out) + at;
      _mm512_mask_storeu_ps(out, due_low_, low);
      _mm512_mask_storeu_ps(out + 16, due_high_, high);
      return;
    }
    uint16_t* out = static_cast<uint16_t*>(p_.out) + at;
    const auto both = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low));
    if (due_high_ == 0xffff) {
      _mm512_storeu_si512(out, both);
    } else {
      _mm512_mask_storeu_epi16(out, due_low_ | static_cast<__mmask32>(due_high_) << 16, both);
    }
  }

  const LinearParams& p_;
  const int64_t steps_, parts_, first_tiled_;
  int64_t row_begin_ = 0, row_end_ = 0;  // of the run
  float* sums_;                          // [panel of the group, block, 4 tiles]
  const uint8_t* ahead_ = nullptr;       // what is left to prefetch
  const uint8_t* ahead_end_ = nullptr;
  int ahead_lines_ = 0;                   // a step
  int64_t due_ = 0, due_end_ = 0;         // rows of done_ that are not converted yet
  int64_t due_row_ = 0, due_column_ = 0;  // where done_ belongs
  __mmask16 due_low_ = 0, due_high_ = 0;  // outputs of its halves that exist
  alignas(64) float done_[kBlockFloats];  // a finished block, row by row
  alignas(64) uint8_t last_step_[kPanelStepBytes];
};

template <TileUnit Tiles>
void linear(const LinearParams& params, int64_t panel_begin, int64_t panel_end, int64_t row_begin,
            int64_t row_end, void* workspace) {
  if (panel_begin >= panel_end || row_begin >= row_end) return;
  LinearKernel<Tiles>(params, static_cast<float*>(workspace))
      .run(panel_begin, panel_end, row_begin, row_end);
}

}  // namespace
}  // namespace rillkv::kernels::cpu::amx
