// AVX-512 attention. bfloat16 uses bf16 tiles (vdpbf16ps); float32 and float16 use fp32 tiles, so
// that neither loses accuracy.
#include "kernels/cpu/attention_tiled.h"
#include "kernels/cpu/avx512_simd.h"
#include "kernels/cpu/isa.h"

namespace rillkv::kernels::cpu::avx512 {

size_t attention_workspace_bytes(const AttentionParams& params, int32_t query_tokens) {
  const size_t tokens = static_cast<size_t>(query_tokens);
  return params.dtype == Dtype::kBFloat16 ? tiled::lay_out<Bf16>(params, tokens, nullptr).bytes
                                          : tiled::lay_out<Fp32>(params, tokens, nullptr).bytes;
}

void attend(const AttentionParams& params, const AttentionTask& task, void* workspace) {
  if (params.dtype == Dtype::kBFloat16) {
    tiled::Attention<Bf16>(params, task, workspace).run();
  } else {
    tiled::Attention<Fp32>(params, task, workspace).run();
  }
}

}  // namespace rillkv::kernels::cpu::avx512
