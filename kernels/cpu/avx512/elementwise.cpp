#include "kernels/cpu/generic/elementwise.h"

#include "kernels/cpu/isa.h"

namespace rillkv::kernels::cpu::avx512 {

constinit const ElementwiseKernels kElementwise = elementwise_kernels();

}  // namespace rillkv::kernels::cpu::avx512
