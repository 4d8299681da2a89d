// (a1) with error feedback: as rillkv_ingest_*, but queries add to the second moment of their kv
// head (moments.cuh) instead of to squares.
#include "kernels/cuda/ingest_rows.cuh"
#include "kernels/cuda/moments.cuh"

namespace rillkv::kernels::cuda {
namespace {

template <typename T>
__device__ void ingest_feedback(const IngestParams& p) {
  const Sequence s = this_sequence(p);
  const IngestGrid grid(p, true);
  int cta = static_cast<int>(blockIdx.x);
  if (cta < grid.query_ctas) return MomentTiles<T>(p, s, cta).run();
  cta -= grid.query_ctas;
  rows_role<T>(p, s, cta % grid.row_ctas, cta >= grid.row_ctas);
}

}  // namespace
}  // namespace rillkv::kernels::cuda

extern "C" __global__ void __launch_bounds__(rillkv::kernels::cuda::kIngestThreads, 4)
    rillkv_ingest_feedback_bf16(const __grid_constant__ rillkv::kernels::cuda::IngestParams p) {
  rillkv::kernels::cuda::ingest_feedback<__nv_bfloat16>(p);
}

extern "C" __global__ void __launch_bounds__(rillkv::kernels::cuda::kIngestThreads, 4)
    rillkv_ingest_feedback_fp16(const __grid_constant__ rillkv::kernels::cuda::IngestParams p) {
  rillkv::kernels::cuda::ingest_feedback<__half>(p);
}

extern "C" __global__ void __launch_bounds__(rillkv::kernels::cuda::kIngestThreads, 4)
    rillkv_ingest_feedback_fp32(const __grid_constant__ rillkv::kernels::cuda::IngestParams p) {
  rillkv::kernels::cuda::ingest_feedback<float>(p);
}
