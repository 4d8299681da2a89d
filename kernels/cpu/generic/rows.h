// Rows of activations: their addresses, and loads and stores by dtype.
//
// Internal linkage: a file compiled for AVX-512 that emitted a copy of an external inline function
// could lend that copy to the portable files at link time.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/generic/half.h"
#include "kernels/cpu/generic/with_dtype.h"
#include "kernels/cpu/params.h"

namespace rillkv::kernels::cpu {
namespace {

/// How a number of a dtype is stored.
template <Dtype kDtype>
struct Element;
template <>
struct Element<Dtype::kFloat32> {
  using Type = float;
  static float load(float x) { return x; }
  static float store(float x) { return x; }
};
template <>
struct Element<Dtype::kBFloat16> {
  using Type = uint16_t;
  static float load(uint16_t x) { return bfloat16_to_float(x); }
  static uint16_t store(float x) { return float_to_bfloat16(x); }
};
template <>
struct Element<Dtype::kFloat16> {
  using Type = uint16_t;
  static float load(uint16_t x) { return half_to_float(x); }
  static uint16_t store(float x) { return float_to_half(x); }
};

inline size_t element_bytes(Dtype dtype) { return dtype == Dtype::kFloat32 ? 4 : 2; }

/// Address of element (token, head, 0).
inline const void* row_of(const Activation& x, Dtype dtype, int64_t token, int64_t head) {
  return static_cast<const uint8_t*>(x.data) +
         static_cast<size_t>(token * x.token_stride + head * x.head_stride) * element_bytes(dtype);
}
inline void* row_of(const MutableActivation& x, Dtype dtype, int64_t token, int64_t head) {
  return static_cast<uint8_t*>(x.data) +
         static_cast<size_t>(token * x.token_stride + head * x.head_stride) * element_bytes(dtype);
}

/// The rows of a PackParams: the first, and the bytes from one to the next.
inline const uint8_t* first_row(const PackParams& p) {
  return static_cast<const uint8_t*>(row_of(p.input, p.dtype, 0, p.kv_head));
}
inline int64_t row_bytes(const PackParams& p) {
  return p.input.token_stride * static_cast<int64_t>(element_bytes(p.dtype));
}

/// Element `i` of a row.
inline float load_element(const void* row, Dtype dtype, int64_t i) {
  return with_dtype(dtype, [&](auto type) {
    using E = Element<type>;
    return E::load(static_cast<const typename E::Type*>(row)[i]);
  });
}

inline void load_row(const void* row, Dtype dtype, int count, float* out) {
  with_dtype(dtype, [&](auto type) {
    using E = Element<type>;
    for (int i = 0; i < count; ++i) out[i] = E::load(static_cast<const typename E::Type*>(row)[i]);
  });
}

/// Stores `factor * in` in the row's dtype, rounded to nearest even.
inline void store_row(const float* in, float factor, Dtype dtype, int count, void* row) {
  with_dtype(dtype, [&](auto type) {
    using E = Element<type>;
    for (int i = 0; i < count; ++i) {
      static_cast<typename E::Type*>(row)[i] = E::store(in[i] * factor);
    }
  });
}

}  // namespace
}  // namespace rillkv::kernels::cpu
