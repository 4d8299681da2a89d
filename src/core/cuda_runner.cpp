#include "core/cuda_runner.h"

#include <ATen/ATen.h>

#include <vector>

#include "core/kernel_views.h"
#include "kernels/cuda/launch.h"
#include "rillkv/error.h"

namespace rillkv {

namespace cuda = kernels::cuda;

void check_head_dim_for_cuda(int64_t head_dim) {
  RILLKV_CHECK(head_dim <= cuda::kMaxGenericHeadDim, "QuantizedKvCache: expected head_dim up to ",
               cuda::kMaxGenericHeadDim, " on a CUDA device, got ", head_dim);
}

at::Tensor upload_sink_pointers(CudaBackend& backend, const PackedSinks& sinks) {
  std::vector<const uint8_t*> pointers;
  for (const at::Tensor* side : {&sinks.keys, &sinks.values}) {
    for (int64_t h = 0; h < side->size(0); ++h) {
      pointers.push_back(side->const_data_ptr<uint8_t>() + h * side->stride(0));
    }
  }
  at::Tensor table = at::empty({2, sinks.keys.size(0)}, sinks.keys.options().dtype(at::kLong));
  backend.upload(static_cast<const void*>(pointers.data()), table);
  return table;
}

void pack_sinks_on_device(CudaBackend& backend, const CompressionConfig& config,
                          const at::Tensor& pointers, const at::Tensor& keys,
                          const at::Tensor& values, int64_t first) {
  const auto pack = [&](const at::Tensor& x, int64_t bits, int64_t row) {
    cuda::PackSinksParams p;
    p.block.input = activation(x);
    p.block.dtype = kernel_dtype(x.scalar_type());
    p.block.tokens = static_cast<int32_t>(x.size(0));
    p.block.block_size = static_cast<int32_t>(config.attention_sink_size);
    p.block.head_dim = static_cast<int32_t>(x.size(2));
    p.block.blocks = reinterpret_cast<uint8_t* const*>(pointers[row].const_data_ptr<int64_t>());
    p.bits = static_cast<int32_t>(bits);
    p.first_row = static_cast<int32_t>(first);
    cuda::pack_sinks(backend.queue(), p, static_cast<int>(x.size(1)));
  };
  pack(keys, config.key_bits_sink_outlier, 0);
  pack(values, config.value_bits_sink_outlier, 1);
}

cuda::IngestParams ingest_params(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                 int64_t block_size, bool rotates_values) {
  cuda::IngestParams p;
  p.queries = activation(q);
  p.keys = activation(k);
  p.values = activation(v);
  p.dtype = kernel_dtype(q.scalar_type());
  p.heads = static_cast<int32_t>(q.size(1));
  p.kv_heads = static_cast<int32_t>(k.size(1));
  p.head_dim = static_cast<int32_t>(q.size(2));
  p.block_size = static_cast<int32_t>(block_size);
  p.tokens = static_cast<int32_t>(q.size(0));
  p.rotate_values = rotates_values ? 1 : 0;
  return p;
}

void run_attention(CudaBackend& backend, const kernels::AttentionParams& params,
                   const uint16_t* in_block_half, int64_t key_block_bytes,
                   const SliceOptions& slices) {
  const cuda::AttentionParams mine = {params, in_block_half, static_cast<int32_t>(key_block_bytes)};
  if (attend_by_slices(backend, mine, slices)) return;
  cuda::Queue& queue = backend.queue();
  const size_t bytes = cuda::attention_workspace_bytes(queue, &mine, 1);
  const at::Tensor workspace = at::empty(
      {static_cast<int64_t>(bytes)}, at::TensorOptions().dtype(at::kByte).device(backend.device()));
  cuda::attend(queue, &mine, 1, workspace.mutable_data_ptr(), bytes);
}

}  // namespace rillkv
