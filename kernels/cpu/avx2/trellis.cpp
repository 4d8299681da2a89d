#include "kernels/cpu/isa.h"

namespace rillkv::kernels::cpu::avx2 {

const TrellisKernels kTrellis = scalar::kTrellis;

}  // namespace rillkv::kernels::cpu::avx2
