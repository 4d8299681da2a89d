// The one idiom for run-time values that code wants as constants: with_*(value, visit) calls
// visit(std::integral_constant<T, value>()), so that visit is compiled once for each value.
#pragma once

#include <type_traits>
#include <utility>

#include "kernels/cpu/generic/inline.h"
#include "kernels/packed_format.h"
#include "kernels/params.h"

namespace rillkv::kernels::cpu {
namespace {

/// An int from kFirst to kLast.
template <int kFirst, int kLast, class Visit>
RILLKV_INLINE decltype(auto) with_int(int value, Visit&& visit) {
  if constexpr (kFirst == kLast) {
    return visit(std::integral_constant<int, kFirst>());
  } else {
    if (value == kFirst) return visit(std::integral_constant<int, kFirst>());
    return with_int<kFirst + 1, kLast>(value, visit);
  }
}

template <class Visit>
RILLKV_INLINE decltype(auto) with_dtype(Dtype dtype, Visit&& visit) {
  switch (dtype) {
    case Dtype::kBFloat16:
      return visit(std::integral_constant<Dtype, Dtype::kBFloat16>());
    case Dtype::kFloat16:
      return visit(std::integral_constant<Dtype, Dtype::kFloat16>());
    default:
      return visit(std::integral_constant<Dtype, Dtype::kFloat32>());
  }
}

/// The width of a code, from kFirst bits on.
template <int kFirst = format::kMinWidth, class Visit>
RILLKV_INLINE decltype(auto) with_width(int width, Visit&& visit) {
  return with_int<kFirst, format::kMaxWidth>(width, visit);
}

/// The tokens of a block: 32, 64, 128 or 256.
template <class Visit>
RILLKV_INLINE decltype(auto) with_block_size(int tokens, Visit&& visit) {
  switch (tokens) {
    case 32:
      return visit(std::integral_constant<int, 32>());
    case 64:
      return visit(std::integral_constant<int, 64>());
    case 128:
      return visit(std::integral_constant<int, 128>());
    default:
      return visit(std::integral_constant<int, 256>());
  }
}

/// Calls visit for every width, one after the other.
template <class Visit>
RILLKV_INLINE void for_each_width(Visit&& visit) {
  const auto each = [&]<int... kWidths>(std::integer_sequence<int, kWidths...>)
      __attribute__((always_inline)) {
    (visit(std::integral_constant<int, format::kMinWidth + kWidths>()), ...);
  };
  each(std::make_integer_sequence<int, format::kMaxWidth - format::kMinWidth + 1>());
}

}  // namespace
}  // namespace rillkv::kernels::cpu
