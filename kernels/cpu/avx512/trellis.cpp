#include "kernels/cpu/isa.h"

namespace rillkv::kernels::cpu::avx512 {

const TrellisKernels kTrellis = scalar::kTrellis;

}  // namespace rillkv::kernels::cpu::avx512
