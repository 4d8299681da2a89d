// CUDA kernels as the layer above sees them: plain pointers, no CUDA headers. Every function plans
// its launches (grid, shared memory, which instantiation) in portable C++ and hands them to a
// Queue: a CUDA stream in production, the PTX executor in tests.
//
// Pointers in the parameters are device pointers. Launches are asynchronous and in the queue's
// order; they do not allocate, and need the buffers until they have run.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "kernels/cuda/entry_params.h"

struct CUstream_st;  // cudaStream_t is CUstream_st*

namespace rillkv::kernels::cuda {

using Stream = CUstream_st*;

/// One launch of an entry: an `extern "C" __global__` function taking a struct by value.
struct Launch {
  const char* entry = nullptr;
  uint32_t grid[3] = {1, 1, 1};
  uint32_t threads = 1;
  size_t shared_bytes = 0;  // dynamic
  const void* params = nullptr;
  size_t params_bytes = 0;
  std::string what;  // the shapes, for error messages
};

/// Where launches go, in order.
class Queue {
 public:
  virtual ~Queue() = default;
  virtual void launch(const Launch& launch) = 0;
  /// Streaming multiprocessors to fill.
  virtual int multiprocessors() const = 0;
  /// Bytes of shared memory that a block may have, by opting in.
  virtual int shared_memory_limit() const = 0;
};

/// True if the library was built with CUDA and a device answers.
bool cuda_available();
/// 0 without a device or without CUDA.
int device_count();
/// A queue over a stream of the device that is current when it is made; launches go to that device.
/// Every launch is checked at once: failures throw std::runtime_error naming the entry, its shapes
/// and CUDA's message. Throws "built without CUDA" in a build without it.
std::unique_ptr<Queue> make_stream_queue(Stream stream);

// ---- statistics ----
/// absmax [heads, head_dim] (NaN if any is NaN) and squares [heads, head_dim] += x^2, either may be
/// null. Per channel tokens are added in ascending order, fp32, without contraction.
void column_statistics(Queue& queue, const ColumnStatisticsParams& params, int heads);

// ---- packing; the bytes are those of kernels/cpu ----
/// Affine channel blocks; `params.drops` is filled in. Blocks = tokens / block_size rounded up.
void pack_channels_affine(Queue& queue, PackChannelsAffineParams params, int kv_heads);
void pack_channels_symmetric(Queue& queue, const PackChannelsSymmetricParams& params, int kv_heads);
void pack_tokens_affine(Queue& queue, const PackTokensParams& params, int kv_heads);
/// Rows first_row .. first_row + tokens - 1 of one block a kv head (`blocks` is [kv_heads]) of
/// block_size rows; the others are left alone.
void pack_sinks(Queue& queue, const PackTokensParams& params, int kv_heads);

// ---- rotations ----
void rope(Queue& queue, const RotateParams& params);
/// head_dim a power of two; params.hadamard_factor is filled in.
void hadamard(Queue& queue, RotateParams params);

// ---- utility ----
void dequantise(Queue& queue, const DequantiseParams& params, int kv_heads);

// ---- attention ----
/// Bytes of device memory that `attend` needs for these sequences, 16-byte aligned; depends on the
/// queries and on the device, not on the context's length beyond a fixed number of splits.
size_t attention_workspace_bytes(const Queue& queue, const AttentionParams* sequences, int count);
/// Attention of a batch: `sequences` [count] is host memory (its pointers are the device's), read
/// before the call returns. All have the same heads, kv_heads, head_dim and dtype; lengths differ.
/// Throws std::invalid_argument for shapes that no kernel takes (head_dim odd or above 256).
void attend(Queue& queue, const AttentionParams* sequences, int count, void* workspace,
            size_t workspace_bytes);
/// The entry that attend would use for these sequences, for tests and benchmarks.
const char* attention_entry(const Queue& queue, const AttentionParams* sequences, int count);

}  // namespace rillkv::kernels::cuda
