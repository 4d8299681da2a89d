// What a pass over a model's layers is made of besides their weights.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "core/cuda_backend.h"
#include "rillkv/chunked_attention.h"

namespace rillkv {

struct Pass {
  CudaBackend* backend = nullptr;  // null: the CPU
  /// Attention of a layer's new rows, and their way into the caches. q: [rows, heads, head_dim], k,
  /// v: [rows, kv_heads, head_dim] -> [rows, heads, head_dim].
  std::function<at::Tensor(int64_t layer, const at::Tensor& q, const at::Tensor& k,
                           const at::Tensor& v)>
      attend;
};

/// A pass over rows that belong to these sequences, each of which attends by itself.
Pass pass_over(const std::vector<SequenceRows>& sequences, CudaBackend* backend);

}  // namespace rillkv
