#include "kernels/cpu/generic/elementwise.h"

#include "kernels/cpu/isa.h"

namespace rillkv::kernels::cpu::scalar {

constinit const ElementwiseKernels kElementwise = elementwise_kernels();

}  // namespace rillkv::kernels::cpu::scalar
