// (a1) One pass over a chunk: squares of queries and the energies of the blocks they complete, the
// values' rotation, the tail, and what cannot be quantised. CTAs have roles, by blockIdx.x:
//
//   queries  a kv head's group and a slice of its channels; a thread has one channel of one head.
//            The order of its sum is part of the format's byte identity (it decides widths), so
//            tokens are not split over threads: kAhead loads are under way instead.
//   keys     a kv head and kIngestRows tokens, 16 bytes a thread where alignment allows
//   values   the same; rotated, a warp has kRows rows at once, element lane + 32 k in lane `lane`:
//            the butterflies' spans 1 to 16 are shuffles, and loads need no alignment
//
// blockIdx.z is the sequence of params.steps.
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/entry_params.h"
#include "kernels/cuda/shared_layout.h"
#include "kernels/packed_format.h"

namespace rillkv::kernels::cuda {
namespace {

extern __shared__ __align__(16) uint8_t shared_memory[];

/// Loads of a thread's channel under way; 4-byte elements have no registers for more.
template <typename T>
constexpr int kAhead = sizeof(T) == 2 ? 32 : 24;
constexpr uint32_t kAllLanes = 0xffffffffu;
enum class What : uint32_t { kKeys = 1, kValues = 2, kQueries = 3 };

/// What is different from sequence to sequence.
struct Sequence {
  int tokens, sink_tokens, tail_count;
  int64_t row;  // of the activations, the first
  bool seen;
  float *energy_sums, *energy_ema, *energies;
  void *tail_keys, *tail_values;
  unsigned long long* error;
};

__device__ Sequence this_sequence(const IngestParams& p) {
  if (p.steps == nullptr) {
    return {p.tokens,    p.sink_tokens, p.tail_count, 0,
            p.seen != 0, p.energy_sums, p.energy_ema, p.energies,
            p.tail_keys, p.tail_values, p.error};
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

// ---- queries ----

/// Calls use(x) for the elements from[0], from[stride], ... , in order.
template <typename T, typename Use>
__device__ void run_ahead(const T* from, int64_t stride, int count, const Use& use) {
  constexpr int kLoads = kAhead<T>;
  int t = 0;
  if (count >= kLoads) {
    T x[kLoads];
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      x[i] = *from;
      from += stride;
    }
    // A register is loaded again as soon as it is used.
#pragma unroll 1
    for (t = kLoads; t + kLoads <= count; t += kLoads) {
#pragma unroll
      for (int i = 0; i < kLoads; ++i) {
        const T now = x[i];
        x[i] = *from;
        from += stride;
        use(to_float(now));
      }
    }
#pragma unroll
    for (int i = 0; i < kLoads; ++i) use(to_float(x[i]));
  }
  if (t == count) return;
  T x[kLoads];
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
    if (t + i < count) x[i] = from[i * stride];
  }
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
    if (t + i < count) use(to_float(x[i]));
  }
}

/// Energy of channel `c` of the CTA's slice from the sums of its group, as QueryEnergy::preview has
/// it.
__device__ float energy_of(const float* sums, int c, int group, int slice, int tokens, bool seen,
                           float ema, const IngestParams& p) {
  float sum = 0.0f;
  for (int g = 0; g < group; ++g) sum = __fadd_rn(sum, sums[g * slice + c]);
  const float now = __fdiv_rn(sum, static_cast<float>(tokens * group));
  return seen ? __fadd_rn(__fmul_rn(p.keep, ema), __fmul_rn(p.take, now)) : now;
}

template <typename T>
__device__ void queries_role(const IngestParams& p, const Sequence& s, int cta) {
  if (s.energy_sums == nullptr) return;
  const int group = p.heads / p.kv_heads, slice = ingest_slice(group);
  const int slices = (p.head_dim + slice - 1) / slice;
  const int kv_head = cta / slices, first_channel = cta % slices * slice;
  const int channels = min(slice, p.head_dim - first_channel);
  auto* sums = reinterpret_cast<float*>(shared_memory);  // [group, slice]
  const auto* queries = static_cast<const T*>(p.queries.data) + s.row * p.queries.token_stride;

  int open = s.tail_count;  // tokens of the open block
  bool seen = s.seen;
  int block = 0;
  for (int t = 0;;) {
    // Sinks go first, and add nothing.
    const bool sinks = t < s.sink_tokens;
    const int end = sinks ? s.sink_tokens : min(s.tokens, t + p.block_size - open);
    for (int i = static_cast<int>(threadIdx.x); i < group * slice;
         i += static_cast<int>(blockDim.x)) {
      const int c = i % slice, head = kv_head * group + i / slice;
      if (c >= channels) continue;
      float sum = block == 0
                      ? s.energy_sums[static_cast<int64_t>(head) * p.head_dim + first_channel + c]
                      : 0.0f;
      uint32_t most = 0;
      const T* from =
          queries + t * p.queries.token_stride + head * p.queries.head_stride + first_channel + c;
      run_ahead(from, p.queries.token_stride, end - t, [&](float x) {
        most = max(most, magnitude_bits(x));
        sum = __fadd_rn(sum, __fmul_rn(x, x));
      });
      if (!sinks) sums[i] = sum;
      check(p, s, What::kQueries, head, most);
    }
    if (!sinks) open += end - t;
    t = end;
    if (sinks) continue;
    __syncthreads();
    const bool full = open == p.block_size;
    for (int c = static_cast<int>(threadIdx.x); c < channels; c += static_cast<int>(blockDim.x)) {
      const int64_t at = static_cast<int64_t>(kv_head) * p.head_dim + first_channel + c;
      if (full) {
        const float energy = energy_of(sums, c, group, slice, open, seen, s.energy_ema[at], p);
        s.energy_ema[at] = energy;
        s.energies[static_cast<int64_t>(block) * p.kv_heads * p.head_dim + at] = energy;
      } else if (p.preview != nullptr && open > 0) {
        p.preview[at] = energy_of(sums, c, group, slice, open, seen, s.energy_ema[at], p);
      }
    }
    if (full) {
      seen = true;
      open = 0;
      ++block;
    }
    if (t == s.tokens) break;
    __syncthreads();
  }
  for (int i = static_cast<int>(threadIdx.x); i < group * slice;
       i += static_cast<int>(blockDim.x)) {
    const int c = i % slice, head = kv_head * group + i / slice;
    if (c < channels) {
      s.energy_sums[static_cast<int64_t>(head) * p.head_dim + first_channel + c] =
          open == 0 ? 0.0f : sums[i];
    }
  }
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

template <typename T>
__device__ void ingest(const IngestParams& p) {
  const Sequence s = this_sequence(p);
  const IngestGrid grid(p);
  int cta = static_cast<int>(blockIdx.x);
  if (cta < grid.query_ctas) return queries_role<T>(p, s, cta);
  cta -= grid.query_ctas;
  rows_role<T>(p, s, cta % grid.row_ctas, cta >= grid.row_ctas);
}

}  // namespace
}  // namespace rillkv::kernels::cuda

extern "C" __global__ void __launch_bounds__(rillkv::kernels::cuda::kIngestThreads, 4)
    rillkv_ingest_bf16(const __grid_constant__ rillkv::kernels::cuda::IngestParams p) {
  rillkv::kernels::cuda::ingest<__nv_bfloat16>(p);
}

extern "C" __global__ void __launch_bounds__(rillkv::kernels::cuda::kIngestThreads, 4)
    rillkv_ingest_fp16(const __grid_constant__ rillkv::kernels::cuda::IngestParams p) {
  rillkv::kernels::cuda::ingest<__half>(p);
}

extern "C" __global__ void __launch_bounds__(rillkv::kernels::cuda::kIngestThreads, 4)
    rillkv_ingest_fp32(const __grid_constant__ rillkv::kernels::cuda::IngestParams p) {
  rillkv::kernels::cuda::ingest<float>(p);
}
