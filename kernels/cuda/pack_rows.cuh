// The virtual tokens of rillkv_pack_*: first the tail's rows, then the chunk's.
#pragma once

#include "kernels/cuda/element.cuh"
#include "kernels/cuda/ingest_params.h"

namespace rillkv::kernels::cuda {

/// Keys or values of one kv head.
template <typename T>
struct VirtualRows {
  T* tail;
  const T* chunk;
  int64_t tail_stride, chunk_stride;
  int tail_count;
  bool wide;  // rows are aligned 16-byte chunks, in the tail and in the chunk

  __device__ VirtualRows(const PackParams& p, const Activation& input, void* tail_rows, int kv_head)
      : tail(static_cast<T*>(tail_rows) + kv_head * p.head_dim),
        chunk(static_cast<const T*>(input.data) + kv_head * input.head_stride),
        tail_stride(static_cast<int64_t>(p.kv_heads) * p.head_dim),
        chunk_stride(input.token_stride),
        tail_count(p.tail_count),
        wide(chunks_fit<T>(tail, tail_stride, 0, p.head_dim) &&
             chunks_fit<T>(chunk, chunk_stride, 0, p.head_dim)) {}

  __device__ const T* row(int n) const {
    return n < tail_count ? tail + n * tail_stride : chunk + (n - tail_count) * chunk_stride;
  }
  /// Channels thread, thread + threads, ... (or 16-byte chunks of them) of virtual token n to the
  /// tail's row.
  __device__ void move(int n, int row_of_tail, int head_dim, int thread, int threads) const {
    const T* from = row(n);
    T* to = tail + row_of_tail * tail_stride;
    if (wide) {
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

}  // namespace rillkv::kernels::cuda
