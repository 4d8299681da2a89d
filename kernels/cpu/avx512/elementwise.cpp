#include "kernels/cpu/generic/elementwise_simd.h"

#include "kernels/cpu/avx512/simd.h"
#include "kernels/cpu/isa.h"

namespace rillkv::kernels::cpu::avx512 {

constinit const ElementwiseKernels kElementwise = elementwise_kernels_simd<Simd>();

}  // namespace rillkv::kernels::cpu::avx512
