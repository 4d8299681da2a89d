// What every variant of rillkv_ingest_* does with a chunk's keys and values, and the word that says
// what cannot be quantised (ingest.cu draws the roles).
#pragma once

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/entry_params.h"
#include "kernels/cuda/shared_layout.h"
#include "kernels/packed_format.h"

namespace rillkv::kernels::cuda {
namespace {

extern __shared__ __align__(16) uint8_t shared_memory[];

constexpr uint32_t kAllLanes = 0xffffffffu;
enum class What : uint32_t { kKeys = 1, kValues = 2, kQueries = 3 };

/// What is different from sequence to sequence.
struct Sequence {
  int tokens, sink_tokens, tail_count;
  int64_t row;  // of the activations, the first
  bool seen;
  float *energy_sums, *energy_ema, *energies;
  float *moments, *block_moments;
  void *tail_keys, *tail_values;
  unsigned long long* error;
};

__device__ Sequence this_sequence(const IngestParams& p) {
  if (p.steps == nullptr) {
    return {p.tokens,      p.sink_tokens, p.tail_count, 0,         p.seen != 0,
            p.energy_sums, p.energy_ema,  p.energies,   p.moments, p.block_moments,
            p.tail_keys,   p.tail_values, p.error};
  }
  const SequenceStep& step = p.steps[blockIdx.z];
  const LayerState& layer = step.layers[p.layer];
  return {1,
          0,
          step.tail_count,
          static_cast<int64_t>(blockIdx.z),
          step.block_count > 0,
          layer.energy_sums,
          layer.energy_ema,
          layer.energies,
          layer.moments,
          nullptr,
          layer.tail_keys,
          layer.tail_values,
          step.error};
}

/// `most`: a magnitude's bits.
__device__ void check(const IngestParams& p, const Sequence& s, What what, int head,
                      uint32_t most) {
  if (most <= __float_as_uint(format::kMaxMagnitude) || s.error == nullptr) return;
  const auto word = static_cast<unsigned long long>(canonical_magnitude(most)) << 32 |
                    static_cast<unsigned long long>(p.layer & 0xffff) << 16 |
                    static_cast<unsigned long long>(head & 0x3fff) << 2 |
                    static_cast<unsigned long long>(what);
  atomicCAS(s.error, 0ull, word);
}

// ---- keys, and values ----

/// Where a role's rows come from and go.
template <typename T>
struct Rows {
  const T* from;  // token 0 of this head
  int64_t from_stride;
  T* stored;  // or null
  int64_t stored_stride;
  T* tail;  // row of the first token after the sinks, or null
  int64_t tail_stride;
  uint32_t* absmax;  // shared memory, [head_dim], or null
  int first, count;  // this CTA's tokens
};

/// Copies rows as they are; returns their largest magnitude.
template <typename T>
__device__ uint32_t copy_rows(const Rows<T>& r, const IngestParams& p, const Sequence& s) {
  uint32_t most = 0;
  constexpr int kElements = Chunk<T>::kElements;
  const bool wide = chunks_fit<T>(r.from, r.from_stride, 0, p.head_dim) &&
                    chunks_fit<T>(r.stored, r.stored_stride, 0, p.head_dim) &&
                    chunks_fit<T>(r.tail, r.tail_stride, 0, p.head_dim);
  if (wide) {
    const int chunks = p.head_dim / kElements;
#pragma unroll 2
    for (int i = static_cast<int>(threadIdx.x); i < r.count * chunks;
         i += static_cast<int>(blockDim.x)) {
      const int t = r.first + i / chunks, c = i % chunks * kElements;
      const Chunk<T> x = {*reinterpret_cast<const uint4*>(r.from + t * r.from_stride + c)};
      const bool kept = t >= s.sink_tokens;
#pragma unroll
      for (int k = 0; k < kElements; ++k) {
        const uint32_t magnitude = magnitude_bits(x.element(k));
        most = max(most, magnitude);
        if (r.absmax != nullptr && kept)
          atomicMax(r.absmax + c + k, canonical_magnitude(magnitude));
      }
      if (r.stored != nullptr) {
        *reinterpret_cast<uint4*>(r.stored + t * r.stored_stride + c) = x.bits;
      }
      if (r.tail != nullptr && kept) {
        *reinterpret_cast<uint4*>(r.tail + (t - s.sink_tokens) * r.tail_stride + c) = x.bits;
      }
    }
    return most;
  }
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x); i < r.count * p.head_dim;
       i += static_cast<int>(blockDim.x)) {
    const int t = r.first + i / p.head_dim, c = i % p.head_dim;
    const T x = r.from[t * r.from_stride + c];
    const uint32_t magnitude = magnitude_bits(to_float(x));
    most = max(most, magnitude);
    if (r.stored != nullptr) r.stored[t * r.stored_stride + c] = x;
    if (t >= s.sink_tokens) {
      if (r.absmax != nullptr) atomicMax(r.absmax + c, canonical_magnitude(magnitude));
      if (r.tail != nullptr) r.tail[(t - s.sink_tokens) * r.tail_stride + c] = x;
    }
  }
  return most;
}

/// Rotates rows; kElements of 32 channels each in a lane (head_dim below 32: the first lanes').
/// Returns the largest magnitude as stored.
template <typename T, int kElements>
__device__ uint32_t rotate_rows(const Rows<T>& r, const IngestParams& p, const Sequence& s) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int warps = static_cast<int>(blockDim.x) / 32;
  const bool mine = lane < p.head_dim;
  constexpr int kRows =
      kElements == 8 ? 2 : 4;  // of a warp at once: head_dim 256 has no registers for more
  uint32_t most = 0;
  for (int row = warp * kRows; row < r.count; row += warps * kRows) {
    T raw[kRows][kElements];
    float x[kRows][kElements];
#pragma unroll
    for (int n = 0; n < kRows; ++n) {
#pragma unroll
      for (int k = 0; k < kElements; ++k) {
        raw[n][k] = from_float<T>(0.0f);
        if (mine && row + n < r.count) {
          raw[n][k] = r.from[(r.first + row + n) * r.from_stride + lane + 32 * k];
        }
      }
    }
#pragma unroll
    for (int n = 0; n < kRows; ++n) {
#pragma unroll
      for (int k = 0; k < kElements; ++k) x[n][k] = to_float(raw[n][k]);
    }
#pragma unroll
    for (int span = 1; span < 32; span *= 2) {
      if (span >= p.head_dim) break;
      const bool high = (lane & span) != 0;
#pragma unroll
      for (int n = 0; n < kRows; ++n) {
#pragma unroll
        for (int k = 0; k < kElements; ++k) {
          const float other = __shfl_xor_sync(kAllLanes, x[n][k], span);
          x[n][k] = __fadd_rn(other, high ? -x[n][k] : x[n][k]);
        }
      }
    }
#pragma unroll
    for (int span = 1; span < kElements; span *= 2) {
#pragma unroll
      for (int n = 0; n < kRows; ++n) {
#pragma unroll
        for (int k = 0; k < kElements; ++k) {
          if ((k & span) != 0) continue;
          const float a = x[n][k], b = x[n][k + span];
          x[n][k] = __fadd_rn(a, b);
          x[n][k + span] = __fsub_rn(a, b);
        }
      }
    }
#pragma unroll
    for (int n = 0; n < kRows; ++n) {
      if (row + n >= r.count || !mine) continue;
      const int t = r.first + row + n;
      const bool kept = t >= s.sink_tokens;
#pragma unroll
      for (int k = 0; k < kElements; ++k) {
        const int c = lane + 32 * k;
        const T y = from_float<T>(__fmul_rn(x[n][k], p.hadamard_factor));
        const uint32_t magnitude = magnitude_bits(to_float(y));
        most = max(most, magnitude);
        if (r.stored != nullptr) r.stored[t * r.stored_stride + c] = y;
        if (kept && r.tail != nullptr) r.tail[(t - s.sink_tokens) * r.tail_stride + c] = y;
        if (kept && r.absmax != nullptr) atomicMax(r.absmax + c, canonical_magnitude(magnitude));
      }
    }
  }
  return most;
}

template <typename T>
__device__ void rows_role(const IngestParams& p, const Sequence& s, int cta, bool values) {
  const int kv_head = cta % p.kv_heads;
  const Activation& in = values ? p.values : p.keys;
  void* tail = values ? s.tail_values : s.tail_keys;
  float* absmax = values ? p.value_absmax : p.key_absmax;
  const int64_t width = static_cast<int64_t>(p.kv_heads) * p.head_dim;
  Rows<T> r;
  r.from = static_cast<const T*>(in.data) + s.row * in.token_stride + kv_head * in.head_stride;
  r.from_stride = in.token_stride;
  r.stored = nullptr;
  r.stored_stride = 0;
  if (values && p.rotated.data != nullptr) {
    r.stored = static_cast<T*>(p.rotated.data) + s.row * p.rotated.token_stride +
               kv_head * p.rotated.head_stride;
    r.stored_stride = p.rotated.token_stride;
  }
  r.tail = nullptr;
  r.tail_stride = width;
  if (tail != nullptr) {
    r.tail = static_cast<T*>(tail) + s.tail_count * width + kv_head * p.head_dim;
  }
  r.first = cta / p.kv_heads * kIngestRows;
  r.count = min(kIngestRows, s.tokens - r.first);
  r.absmax = absmax != nullptr ? reinterpret_cast<uint32_t*>(shared_memory) : nullptr;
  if (r.absmax != nullptr) {
    for (int c = static_cast<int>(threadIdx.x); c < p.head_dim; c += static_cast<int>(blockDim.x)) {
      r.absmax[c] = 0;
    }
    __syncthreads();
  }
  uint32_t most = 0;
  if (!values || p.rotate_values == 0) {
    most = copy_rows(r, p, s);
  } else if (p.head_dim <= 32) {
    most = rotate_rows<T, 1>(r, p, s);
  } else if (p.head_dim == 64) {
    most = rotate_rows<T, 2>(r, p, s);
  } else if (p.head_dim == 128) {
    most = rotate_rows<T, 4>(r, p, s);
  } else {
    most = rotate_rows<T, 8>(r, p, s);
  }
  check(p, s, values ? What::kValues : What::kKeys, kv_head, most);
  if (r.absmax != nullptr) {
    __syncthreads();
    for (int c = static_cast<int>(threadIdx.x); c < p.head_dim; c += static_cast<int>(blockDim.x)) {
      if (r.absmax[c] == 0) continue;
      atomicMax(
          reinterpret_cast<uint32_t*>(absmax) + static_cast<int64_t>(kv_head) * p.head_dim + c,
          r.absmax[c]);
    }
  }
}

}  // namespace
}  // namespace rillkv::kernels::cuda
