#include "kernels/cpu/generic/feedback.h"

#include "kernels/cpu/avx2/simd.h"
#include "kernels/cpu/isa.h"

namespace rillkv::kernels::cpu::avx2 {

constinit const FeedbackKernels kFeedback = feedback_kernels<Simd>();

}  // namespace rillkv::kernels::cpu::avx2
