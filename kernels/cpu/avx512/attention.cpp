// AVX-512 attention. bfloat16 streams what few rows read, in integers, and uses bf16 tiles
// (vdpbf16ps), or fp32 tiles on chips that multiply those faster; float32 and float16 use fp32
// tiles, so that neither loses accuracy.
//
// No fp16 tiles, though AVX512-FP16 has twice fp32's rate on some of those chips: its multiply-add
// accumulates in fp16, which is off by up to 2^-11 of the sum a step, over D channels and every
// token, and bf16 input beyond 65504 or below 2^-24 has no fp16.
#include "kernels/cpu/generic/attention.h"

#include "kernels/cpu/avx512/decode/decode.h"
#include "kernels/cpu/avx512/simd.h"
#include "kernels/cpu/generic/streaming.h"
#include "kernels/cpu/isa.h"

namespace rillkv::kernels::cpu::avx512 {
namespace {

template <class Tiles>
size_t workspace_bytes(const AttentionParams& params, int32_t query_tokens) {
  return params.dtype == Dtype::kBFloat16
             ? tiled::workspace_bytes<Tiles, StreamedDecode>(params, query_tokens)
             : tiled::workspace_bytes<Fp32, NoStreaming>(params, query_tokens);
}

template <class Tiles>
void attend(const AttentionParams& params, const AttentionTask& task, void* workspace) {
  if (params.dtype == Dtype::kBFloat16) {
    tiled::attend<Tiles, StreamedDecode>(params, task, workspace);
  } else {
    tiled::attend<Fp32, NoStreaming>(params, task, workspace);
  }
}

}  // namespace

constinit const AttentionKernels kAttention = {
    .attention_workspace_bytes = workspace_bytes<Bf16>,
    .attend = attend<Bf16>,
};
constinit const AttentionKernels kAttentionFp32 = {
    .attention_workspace_bytes = workspace_bytes<Fp32>,
    .attend = attend<Fp32>,
};

}  // namespace rillkv::kernels::cpu::avx512
