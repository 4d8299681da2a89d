// CUDA kernels as the layer above sees them: plain pointers, no CUDA headers. Every function plans
// its launches (grid, shared memory, which instantiation) in portable C++ and hands them to a
// Queue: a CUDA stream in production, the PTX executor in tests.
//
// Pointers in the parameters are device pointers. Launches are asynchronous and in the queue's
// order; they do not allocate, and need the buffers until they have run.
#pragma once

#include <cstddef>
#include <functional>

#include "kernels/cuda/entry_params.h"
#include "kernels/cuda/queue.h"

namespace rillkv::kernels::cuda {

// ---- packing; the bytes are those of kernels/cpu. Policy "adaptive": ingest.h ----
/// Blocks = tokens / block_size rounded up.
void pack_channels_symmetric(Queue& queue, const PackChannelsSymmetricParams& params, int kv_heads);
/// Rows first_row .. first_row + tokens - 1 of one block a kv head (`blocks` is [kv_heads]) of
/// block_size rows; the others are left alone.
void pack_sinks(Queue& queue, const PackSinksParams& params, int kv_heads);

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
/// Decode attention of one new token of each of `count` sequences, whose counts and pointers are in
/// device memory: see AttentionLaunchParams::steps. `shape` stands for every sequence; its prefix's
/// block_count and tail's count are what to plan for (the largest now, say): any others are
/// computed rightly with the same launches. Fast shapes only (attend_steps_takes).
bool attend_steps_takes(const Queue& queue, const AttentionParams& shape);
size_t attend_steps_workspace_bytes(const Queue& queue, const AttentionParams& shape, int count);
void attend_steps(Queue& queue, const AttentionParams& shape, const SequenceStep* steps, int count,
                  int layer, void* workspace, size_t workspace_bytes);
/// Attention of one sequence by the fused prefill kernel, with something folded in before its parts
/// are merged (slices.h). `fold` is called once, after the kernel's launch; what it launches may
/// add to the first part of every kv head, and finds it unnormalised, as rillkv_merge_* reads it.
struct AttentionParts {
  float* out = nullptr;      // row r of kv head h: [D] at (h * stride + r) * D
  float* max_sum = nullptr;  // max * log2(e) and sum, at (h * stride + r) * 2
  int64_t stride = 0;        // rows
};
bool attend_folding_takes(const Queue& queue, const AttentionParams& sequence);
size_t attend_folding_workspace_bytes(const Queue& queue, const AttentionParams& sequence);
void attend_folding(Queue& queue, const AttentionParams& sequence, void* workspace,
                    size_t workspace_bytes, const std::function<void(const AttentionParts&)>& fold);
/// The entry that attend would use for these sequences, for tests and benchmarks.
const char* attention_entry(const Queue& queue, const AttentionParams* sequences, int count);

}  // namespace rillkv::kernels::cuda
