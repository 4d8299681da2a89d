#include "kernels/cpu/generic/trellis.h"

#include "kernels/cpu/avx2/simd.h"
#include "kernels/cpu/isa.h"

namespace rillkv::kernels::cpu::avx2 {

constinit const TrellisKernels kTrellis = trellis_kernels<Simd>();

}  // namespace rillkv::kernels::cpu::avx2
