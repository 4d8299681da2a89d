#include "core/kernel_views.h"

#include "rillkv/error.h"

namespace rillkv {

kernels::Dtype kernel_dtype(at::ScalarType dtype) {
  switch (dtype) {
    case at::kFloat:
      return kernels::Dtype::kFloat32;
    case at::kBFloat16:
      return kernels::Dtype::kBFloat16;
    case at::kHalf:
      return kernels::Dtype::kFloat16;
    default:
      throw Error(str_cat("expected float32, bfloat16 or float16, got ", dtype));
  }
}

namespace {

template <typename View>
View view_of(const at::Tensor& x) {
  RILLKV_CHECK(x.dim() == 3 && (x.stride(2) == 1 || x.size(2) == 1),
               "expected [tokens, heads, head_dim] with contiguous channels, got sizes ", x.sizes(),
               " and strides ", x.strides());
  View view;
  view.token_stride = x.stride(0);
  view.head_stride = x.stride(1);
  return view;
}

}  // namespace

kernels::Activation activation(const at::Tensor& x) {
  auto view = view_of<kernels::Activation>(x);
  view.data = x.const_data_ptr();
  return view;
}

kernels::MutableActivation mutable_activation(at::Tensor& x) {
  auto view = view_of<kernels::MutableActivation>(x);
  view.data = x.mutable_data_ptr();
  return view;
}

kernels::cpu::PackParams pack_params(const at::Tensor& x, int64_t head, int64_t block_size) {
  kernels::cpu::PackParams params;
  params.input = activation(x);
  params.dtype = kernel_dtype(x.scalar_type());
  params.kv_head = static_cast<int32_t>(head);
  params.tokens = static_cast<int32_t>(x.size(0));
  params.block_size = static_cast<int32_t>(block_size);
  params.head_dim = static_cast<int32_t>(x.size(2));
  return params;
}

}  // namespace rillkv
