#include "kernels/cpu/generic/elementwise_simd.h"

#include "kernels/cpu/avx2/simd.h"
#include "kernels/cpu/isa.h"

namespace rillkv::kernels::cpu::avx2 {

constinit const ElementwiseKernels kElementwise = elementwise_kernels_simd<Simd>();

}  // namespace rillkv::kernels::cpu::avx2
