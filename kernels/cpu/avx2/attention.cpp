// AVX2 attention: fp32 tiles for every dtype.
#include "kernels/cpu/generic/attention.h"

#include "kernels/cpu/avx2/simd.h"
#include "kernels/cpu/generic/streaming.h"
#include "kernels/cpu/isa.h"

namespace rillkv::kernels::cpu::avx2 {

constinit const AttentionKernels kAttention = {
    .attention_workspace_bytes = tiled::workspace_bytes<Fp32, NoStreaming>,
    .attend = tiled::attend<Fp32, NoStreaming>,
};

}  // namespace rillkv::kernels::cpu::avx2
