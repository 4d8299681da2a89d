// elementwise.h, compiled for this file's instruction set.
#include "kernels/cpu/elementwise.h"

#include "kernels/cpu/isa.h"

namespace rillkv::kernels::cpu::scalar {

void rms_norm(const NormParams& params, int64_t begin, int64_t end) {
  rms_norm_any(params, begin, end);
}

void gate(const GateParams& params, int64_t begin, int64_t end) { gate_any(params, begin, end); }

void rope(const RopeParams& params, int64_t begin, int64_t end) { rope_any(params, begin, end); }

}  // namespace rillkv::kernels::cpu::scalar
