// AVX-512 attention. bfloat16 uses bf16 tiles (vdpbf16ps) and streams what few rows read; float32
// and float16 use fp32 tiles, so that neither loses accuracy.
#include "kernels/cpu/generic/attention.h"

#include "kernels/cpu/avx512/decode/decode.h"
#include "kernels/cpu/avx512/simd.h"
#include "kernels/cpu/generic/streaming.h"
#include "kernels/cpu/isa.h"

namespace rillkv::kernels::cpu::avx512 {
namespace {

size_t workspace_bytes(const AttentionParams& params, int32_t query_tokens) {
  return params.dtype == Dtype::kBFloat16
             ? tiled::workspace_bytes<Bf16, StreamedDecode>(params, query_tokens)
             : tiled::workspace_bytes<Fp32, NoStreaming>(params, query_tokens);
}

void attend(const AttentionParams& params, const AttentionTask& task, void* workspace) {
  if (params.dtype == Dtype::kBFloat16) {
    tiled::attend<Bf16, StreamedDecode>(params, task, workspace);
  } else {
    tiled::attend<Fp32, NoStreaming>(params, task, workspace);
  }
}

}  // namespace

constinit const AttentionKernels kAttention = {
    .attention_workspace_bytes = workspace_bytes,
    .attend = attend,
};

}  // namespace rillkv::kernels::cpu::avx512
