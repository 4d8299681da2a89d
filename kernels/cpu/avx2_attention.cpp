// AVX2 attention: fp32 tiles for every dtype.
#include "kernels/cpu/attention_tiled.h"
#include "kernels/cpu/avx2_simd.h"
#include "kernels/cpu/isa.h"

namespace rillkv::kernels::cpu::avx2 {

size_t attention_workspace_bytes(const AttentionParams& params, int32_t query_tokens) {
  return tiled::lay_out<Fp32>(params, static_cast<size_t>(query_tokens), nullptr).bytes;
}

void attend(const AttentionParams& params, const AttentionTask& task, void* workspace) {
  tiled::Attention<Fp32>(params, task, workspace).run();
}

}  // namespace rillkv::kernels::cpu::avx2
