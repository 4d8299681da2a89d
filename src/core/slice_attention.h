// Prefill attention by slices (kernels/cuda/slices.h) with one of LibTorch's attention kernels: the
// path for GPUs whose tensor cores only such a library fills. Off by default.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>

#include "core/cuda_backend.h"
#include "kernels/cuda/slices.h"

namespace rillkv {

/// Which path prefill takes on a CUDA device.
enum class PrefillPath {
  kFused,        // the fused kernel alone
  kSlices,       // slices by cuDNN's attention
  kSlicesFlash,  // slices by LibTorch's flash attention
  kAuto,         // kSlices on compute capability 9.0 where slices_pay, else kFused
};

/// What RILLKV_PREFILL names: fused (and unset or empty), slices, slices-flash or auto. Throws
/// UsageError for anything else.
PrefillPath prefill_path();

/// Whether `auto` takes slices: from what sizes on benchmarks/slice_model.h has them ahead.
bool slices_pay(int compute_capability, const kernels::cuda::SlicePlan& plan);

/// What a library returns for one slice.
struct SliceResult {
  at::Tensor out;          // [heads, rows, D] f16, any strides of heads and rows
  at::Tensor log_sum_exp;  // [heads, rows] f32, natural
};
/// softmax(scale * q k^T) v without a mask. q: [heads, rows, D], k, v: [heads, tokens, D], f16.
using SliceLibrary = std::function<SliceResult(const at::Tensor& q, const at::Tensor& k,
                                               const at::Tensor& v, double scale)>;
/// cuDNN's or flash attention on a CUDA device, flash attention for the CPU elsewhere.
SliceLibrary slice_library(at::Device device, PrefillPath path);

struct SliceOptions {
  PrefillPath path = PrefillPath::kFused;
  SliceLibrary library = {};  // null: slice_library's
  size_t most_bytes = kernels::cuda::kMostSliceBytes;
  int least_blocks = kernels::cuda::kLeastSliceBlocks;
};

/// Attention of one sequence by slices; false, with nothing done, where `options` or the sequence
/// has none. Its memory depends on the queries, and not on the context: keys and values of a slice
/// (SliceOptions::most_bytes), the queries once a part, the library's result and the fused kernel's
/// parts.
bool attend_by_slices(CudaBackend& backend, const kernels::cuda::AttentionParams& sequence,
                      const SliceOptions& options);

}  // namespace rillkv
