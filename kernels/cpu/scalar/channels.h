// Channels of a block as portable C++ codes them: shared by the packers with and without error
// feedback. Internal linkage, as rows.h explains.
#pragma once

#include <cstring>

#include "kernels/cpu/generic/rows.h"
#include "kernels/cpu/generic/scales.h"

namespace rillkv::kernels::cpu {
namespace {

inline const void* input_row(const PackParams& p, int token) {
  return row_of(p.input, p.dtype, token, p.kv_head);
}

/// Channel c of all tokens.
inline void load_channel(const PackParams& p, int c, float* out) {
  for (int t = 0; t < p.tokens; ++t) out[t] = load_element(input_row(p, t), p.dtype, c);
}

inline void affine_codes(const float* x, int count, const AffineScale& scale, int width,
                         uint8_t* codes) {
  if (scale.step == 0.0f) {
    std::memset(codes, 0, static_cast<size_t>(count));
    return;
  }
  const float top = max_code(width);
  for (int i = 0; i < count; ++i) {
    float code = (x[i] - scale.lo) / scale.step;
    code = code < 0.0f ? 0.0f : code;
    code = code > top ? top : code;
    codes[i] = static_cast<uint8_t>(static_cast<int32_t>(round_to_integer(code)));
  }
}

struct Range {
  float lo, hi;
};

inline Range range_of(const float* x, int count) {
  Range range = {x[0], x[0]};
  for (int i = 1; i < count; ++i) {
    range.lo = x[i] < range.lo ? x[i] : range.lo;
    range.hi = x[i] > range.hi ? x[i] : range.hi;
  }
  return range;
}

}  // namespace
}  // namespace rillkv::kernels::cpu
