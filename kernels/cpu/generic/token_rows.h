// Single rows of token blocks: of sinks of 2 to 8 bits, and of values whose shape has no tile
// kernel.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/generic/plane_registers.h"
#include "kernels/planes.h"

namespace rillkv::kernels::cpu::tiled {
namespace {

/// Row of a token block of head_dim kCount, a power of two, whose groups are whole registers.
/// code = sum of the fields; value = lo + step * (code - zero).
template <class S, int kCount>
void read_token_row(const Planes& at, int width, float zero, const uint16_t* lo,
                    const uint16_t* step, size_t group_stride, int group_size, float* out) {
  using R = PlaneRegisters<S, kCount>;
  const typename S::F high_unit = S::set1(high_step(width));
  for (int h = 0; h < R::kRegisters; ++h) {
    typename S::I high, low;
    load_codes<S, kCount>(at, width, h, high, low);
    for (int k = 0; k < R::kFields; ++k) {
      const int c = (k * R::kRegisters + h) * S::kLanes;
      const size_t group = static_cast<size_t>(c / group_size) * group_stride;
      typename S::F code = S::low_bits(S::shift_right(high, k * R::kSpacing), 15);
      if (width > 4) {
        code = S::fma(code, high_unit, S::low_bits(S::shift_right(low, k * R::kSpacing), 15));
      }
      S::store(out + c, S::fma(S::sub(code, S::set1(zero)), S::set1(S::half_to_float(step[group])),
                               S::set1(lo == nullptr ? 0.0f : S::half_to_float(lo[group]))));
    }
  }
}

/// Token rows of any head_dim and grouping: of sinks, and of values where value_tokens_to_tile has
/// no version. By gathers, slow per row, unless read_token_row can do it.
template <class S>
struct RowReader {
  const uint8_t* block;
  int rows, head_dim, groups, width;
  bool symmetric;

  /// Row `token` as fp32, out[0 .. align_up(D, kLanes)), zero past D.
  void operator()(int token, float* out) const {
    using F = typename S::F;
    using I = typename S::I;
    const uint16_t* lo = reinterpret_cast<const uint16_t*>(block);
    const uint16_t* step = reinterpret_cast<const uint16_t*>(
        block + format::token_step_offset(rows, groups, symmetric));
    const size_t row = static_cast<size_t>(token), all = static_cast<size_t>(rows);
    const Planes planes =
        format::token_planes(block, rows, token, head_dim, groups, symmetric, width);
    const float zero_code = symmetric ? static_cast<float>(1 << (width - 1)) : 0.0f;
    const int group_size = head_dim / groups;
    if ((head_dim == 64 || head_dim == 128) && group_size * groups == head_dim &&
        group_size % S::kLanes == 0) {
      const auto read = head_dim == 64 ? read_token_row<S, 64> : read_token_row<S, 128>;
      return read(planes, width, zero_code, symmetric ? nullptr : lo + row, step + row, all,
                  group_size, out);
    }
    int group = 0;
    for (int begin = 0; begin < head_dim; begin += S::kLanes) {
      F code = S::zero();  // sum of the planes, in units of the step
      format::for_each_plane(
          planes, head_dim, width, [&](const uint8_t* plane, int element_bits, int place) {
            const int words = format::plane_words(head_dim, element_bits);
            alignas(64) int32_t index[S::kLanes], shift[S::kLanes];
            for (int i = 0; i < S::kLanes; ++i) {
              const int c = begin + i < head_dim ? begin + i : head_dim - 1;
              index[i] = c % words;
              shift[i] = c / words * element_bits;
            }
            const I x =
                S::shift_right_each(S::gather_words(plane, S::load_int(index)), S::load_int(shift));
            code = S::fma(S::low_bits(x, (1 << element_bits) - 1),
                          S::set1(static_cast<float>(1 << place)), code);
          });
      alignas(64) float lane_lo[S::kLanes], lane_step[S::kLanes];
      for (int i = 0; i < S::kLanes; ++i) {
        lane_lo[i] = lane_step[i] = 0.0f;
        if (begin + i >= head_dim) continue;
        while (begin + i >= format::group_begin(group + 1, groups, head_dim)) ++group;
        const size_t at = static_cast<size_t>(group) * all + row;
        lane_lo[i] = symmetric ? 0.0f : S::half_to_float(lo[at]);
        lane_step[i] = S::half_to_float(step[at]);
      }
      // value = lo + step * (code - zero)
      S::store(out + begin,
               S::fma(S::sub(code, S::set1(zero_code)), S::load(lane_step), S::load(lane_lo)));
    }
  }
};

}  // namespace
}  // namespace rillkv::kernels::cpu::tiled
