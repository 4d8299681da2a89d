#include "core/cuda_ops.h"

#include <ATen/ATen.h>

#include "core/assert.h"
#include "core/kernel_views.h"
#include "kernels/cuda/model_ops.h"

namespace rillkv {

namespace cuda = kernels::cuda;

at::Tensor cuda_rms_norm(CudaBackend& backend, at::Tensor& x, const at::Tensor& delta,
                         const at::Tensor& weight, double eps) {
  RILLKV_ASSERT(x.is_contiguous() && (!delta.defined() || delta.is_contiguous()));
  at::Tensor out = at::empty_like(x);
  cuda::NormParams p;
  p.x = x.mutable_data_ptr();
  if (delta.defined()) p.delta = delta.const_data_ptr();
  p.weight = weight.const_data_ptr();
  p.out = out.mutable_data_ptr();
  p.rows = static_cast<int32_t>(x.size(0));
  p.columns = static_cast<int32_t>(x.size(1));
  p.epsilon = static_cast<float>(eps);
  p.dtype = kernel_dtype(x.scalar_type());
  cuda::rms_norm(backend.queue(), p);
  return out;
}

at::Tensor cuda_gate(CudaBackend& backend, const at::Tensor& gate_up) {
  RILLKV_ASSERT(gate_up.is_contiguous());
  const int64_t columns = gate_up.size(1) / 2;
  at::Tensor out = at::empty({gate_up.size(0), columns}, gate_up.options());
  cuda::GateParams p;
  p.gate_up = gate_up.const_data_ptr();
  p.out = out.mutable_data_ptr();
  p.rows = static_cast<int32_t>(gate_up.size(0));
  p.columns = static_cast<int32_t>(columns);
  p.dtype = kernel_dtype(gate_up.scalar_type());
  cuda::gate(backend.queue(), p);
  return out;
}

at::Tensor cuda_embed(CudaBackend& backend, const at::Tensor& table, const at::Tensor& ids) {
  RILLKV_ASSERT(table.is_contiguous() && ids.is_contiguous() && ids.scalar_type() == at::kInt);
  at::Tensor out = at::empty({ids.size(0), table.size(1)}, table.options());
  cuda::EmbedParams p;
  p.table = table.const_data_ptr();
  p.ids = ids.const_data_ptr<int32_t>();
  p.out = out.mutable_data_ptr();
  p.rows = static_cast<int32_t>(ids.size(0));
  p.columns = static_cast<int32_t>(table.size(1));
  p.element_bytes = static_cast<int32_t>(table.element_size());
  cuda::embed(backend.queue(), p);
  return out;
}

at::Tensor cuda_ids(CudaBackend& backend, const at::Tensor& ids) {
  const at::Tensor narrow = ids.to(at::kInt);
  at::Tensor out = at::empty(narrow.sizes(), narrow.options().device(backend.device()));
  cuda::set_ids(backend.queue(), narrow.const_data_ptr<int32_t>(), static_cast<int>(narrow.numel()),
                out.mutable_data_ptr<int32_t>());
  return out;
}

}  // namespace rillkv
