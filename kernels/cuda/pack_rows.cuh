// The virtual tokens of rillkv_pack_*: first the tail's rows, then the chunk's.
#pragma once

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/ingest_params.h"
#include "kernels/cuda/shared_layout.h"

namespace rillkv::kernels::cuda {

/// Keys or values of one kv head.
template <typename T>
struct VirtualRows {
  T* tail;
  const T* chunk;
  int64_t tail_stride, chunk_stride;
  int tail_count;

  __device__ VirtualRows(const PackParams& p, const Activation& input, void* tail_rows, int kv_head)
      : tail(static_cast<T*>(tail_rows) + kv_head * p.head_dim),
        chunk(static_cast<const T*>(input.data) + kv_head * input.head_stride),
        tail_stride(static_cast<int64_t>(p.kv_heads) * p.head_dim),
        chunk_stride(input.token_stride),
        tail_count(p.tail_count) {}

  /// Rows are aligned 16-byte chunks, in the tail and in the chunk.
  __device__ bool wide(int head_dim) const {
    return chunks_fit<T>(tail, tail_stride, 0, head_dim) &&
           chunks_fit<T>(chunk, chunk_stride, 0, head_dim);
  }

  __device__ const T* row(int n) const {
    return n < tail_count ? tail + n * tail_stride : chunk + (n - tail_count) * chunk_stride;
  }
  /// f(r, element `channel` of row n + r) for r = 0, kStep, ... below kCount.
  template <int kCount, int kStep, typename F>
  __device__ void each_row(int n, uint32_t channel, F f) const {
    const T* from_tail = tail + n * tail_stride + channel;
    const T* from_chunk = chunk + (n - tail_count) * chunk_stride + channel;
    const int of_tail = tail_count - n;
    unrolled<0, kCount, kStep>([&](auto r) {
      f(r, r.value < of_tail ? from_tail : from_chunk);
      from_tail += kStep * tail_stride;
      from_chunk += kStep * chunk_stride;
    });
  }
  /// Channels thread, thread + threads, ... (or 16-byte chunks of them) of virtual token n to the
  /// tail's row.
  __device__ void move(int n, int row_of_tail, int head_dim, int thread, int threads) const {
    const T* from = row(n);
    T* to = tail + row_of_tail * tail_stride;
    if (wide(head_dim)) {
      const auto* chunks = reinterpret_cast<const uint4*>(from);
      for (int i = thread; i < head_dim / Chunk<T>::kElements; i += threads) {
        reinterpret_cast<uint4*>(to)[i] = chunks[i];
      }
    } else {
      for (int i = thread; i < head_dim; i += threads) to[i] = from[i];
    }
  }
};

/// Tokens that no block takes; they follow the last block's.
__device__ inline int leftover(const PackParams& p) {
  return p.keep_rest != 0 ? max(0, p.tokens - p.blocks * p.block_size) : 0;
}
/// To the tail, by all warps of a CTA all of whose reads of the tail lie before a barrier.
template <typename T>
__device__ void move_leftover(const PackParams& p, const VirtualRows<T>& rows) {
  for (int n = warp_id(); n < leftover(p); n += kPackBlockThreads / 32) {
    rows.move(p.blocks * p.block_size + n, n, p.head_dim, lane_id(), 32);
  }
}

}  // namespace rillkv::kernels::cuda
