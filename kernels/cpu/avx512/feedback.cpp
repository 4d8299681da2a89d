#include "kernels/cpu/generic/feedback.h"

#include "kernels/cpu/avx512/simd.h"
#include "kernels/cpu/isa.h"

namespace rillkv::kernels::cpu::avx512 {

constinit const FeedbackKernels kFeedback = feedback_kernels<Simd>();

}  // namespace rillkv::kernels::cpu::avx512
