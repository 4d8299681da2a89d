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
#include "kernels/cuda/ingest_rows.cuh"

namespace rillkv::kernels::cuda {
namespace {

/// Loads of a thread's channel under way; 4-byte elements have no registers for more.
template <typename T>
constexpr int kAhead = sizeof(T) == 2 ? 32 : 24;

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
