#include "core/check_tensor.h"

#include <ATen/ATen.h>

#include "rillkv/error.h"

namespace rillkv {
namespace {

bool is_kernel_dtype(at::ScalarType dtype) {
  return dtype == at::kFloat || dtype == at::kBFloat16 || dtype == at::kHalf;
}

}  // namespace

std::string describe(const at::Tensor& x) {
  if (!x.defined()) return "an undefined tensor";
  return str_cat(x.scalar_type(), " ", x.sizes(), " on ", x.device());
}

void check_activation(const at::Tensor& x, int64_t heads, int64_t head_dim, const char* function,
                      const char* name) {
  RILLKV_CHECK(x.defined() && x.dim() == 3 && x.size(1) == heads && x.size(2) == head_dim &&
                   x.is_cpu() && is_kernel_dtype(x.scalar_type()),
               function, ": expected ", name, " of [tokens, ", heads, ", ", head_dim,
               "] float32, bfloat16 or float16 on the cpu, got ", describe(x));
  RILLKV_CHECK(x.stride(2) == 1 || head_dim == 1, function, ": expected ", name,
               " with contiguous channels, got strides ", x.strides());
}

void check_matrix(const at::Tensor& x, int64_t rows, int64_t columns, at::ScalarType dtype,
                  const char* function, const char* name) {
  RILLKV_CHECK(x.defined() && x.dim() == 2 && x.size(0) == rows && x.size(1) == columns &&
                   x.is_cpu() && x.scalar_type() == dtype,
               function, ": expected ", name, " of [", rows, ", ", columns, "] ", dtype,
               " on the cpu, got ", describe(x));
}

void check_range(const at::Tensor& x, float most, const char* function, const char* name) {
  const at::Tensor plain = x.contiguous();
  const float* data = plain.const_data_ptr<float>();
  for (int64_t i = 0; i < plain.numel(); ++i) {
    RILLKV_CHECK(data[i] >= 0 && data[i] <= most, function, ": expected ", name, " in 0..", most,
                 ", got ", data[i]);
  }
}

}  // namespace rillkv
