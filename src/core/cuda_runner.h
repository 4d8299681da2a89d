// What layers on a CUDA device share, whoever keeps their statistics.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "core/block_device.h"
#include "core/cuda_backend.h"
#include "core/slice_attention.h"
#include "kernels/cuda/ingest_params.h"
#include "kernels/params.h"
#include "rillkv/compression_config.h"

namespace rillkv {

/// Throws Error for a head_dim that no CUDA kernel takes.
void check_head_dim_for_cuda(int64_t head_dim);

/// Pointers to the sinks of every kv head, [2, kv_heads] i64 on the device: keys, values.
at::Tensor upload_sink_pointers(CudaBackend& backend, const PackedSinks& sinks);

/// Packs tokens as sinks `first` and on. keys, values: [tokens, kv_heads, head_dim], values as
/// stored; pointers: of upload_sink_pointers.
void pack_sinks_on_device(CudaBackend& backend, const CompressionConfig& config,
                          const at::Tensor& pointers, const at::Tensor& keys,
                          const at::Tensor& values, int64_t first);

/// What rows of a pass are to ingest, whoever's they are: no counts, no places. q: [tokens, heads,
/// head_dim], k, v: [tokens, kv_heads, head_dim].
kernels::cuda::IngestParams ingest_params(const at::Tensor& q, const at::Tensor& k,
                                          const at::Tensor& v, int64_t block_size,
                                          bool rotates_values);

/// Attention of one sequence; in_block_half: DeviceRotationTable's; key_block_bytes: of the largest
/// key block, one kv head; slices: whether prefill goes that way.
void run_attention(CudaBackend& backend, const kernels::AttentionParams& params,
                   const uint16_t* in_block_half, int64_t key_block_bytes,
                   const SliceOptions& slices);

}  // namespace rillkv
