#include "kernels/cpu/isa.h"

namespace rillkv::kernels::cpu::avx2 {

const FeedbackKernels kFeedback = scalar::kFeedback;

}  // namespace rillkv::kernels::cpu::avx2
