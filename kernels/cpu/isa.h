// The parts of the tables of kernels.h, one namespace and one folder an instruction set. A file of
// the folder defines each part, most from a template of generic/; dispatch.cpp puts tables
// together.
#pragma once

#include "kernels/cpu/kernels.h"

namespace rillkv::kernels::cpu {

namespace scalar {
extern const AttentionKernels kAttention;
extern const StatisticsKernels kStatistics;
extern const PackKernels kPack;
extern const FeedbackKernels kFeedback;
extern const TrellisKernels kTrellis;
extern const ElementwiseKernels kElementwise;
}  // namespace scalar

namespace avx2 {
extern const AttentionKernels kAttention;
extern const StatisticsKernels kStatistics;
extern const PackKernels kPack;
extern const FeedbackKernels kFeedback;
extern const TrellisKernels kTrellis;
extern const ElementwiseKernels kElementwise;
}  // namespace avx2

/// Whether this machine runs what the folder avx512 is compiled for.
bool has_avx512();

namespace avx512 {
// Of bfloat16 models: tiles of bf16, or of fp32 where fp32 is the faster (profile.h).
extern const AttentionKernels kAttention, kAttentionFp32;
extern const StatisticsKernels kStatistics;
extern const PackKernels kPack;
extern const FeedbackKernels kFeedback;
extern const TrellisKernels kTrellis;
extern const ElementwiseKernels kElementwise;
extern const LinearKernels kLinear;      // vdpbf16ps
extern const LinearKernels kLinearFp32;  // fp32 multiply-adds, where those are faster
}  // namespace avx512

// Of the two, what chip_profile() chose: for what the tile unit leaves to AVX-512.
const AttentionKernels& profiled_attention();
const LinearKernels& profiled_linear();

// What a tile unit takes over; the rest is avx512's. kPlain*: the same on tiles in plain C++.
namespace amx {
extern const AttentionKernels kAttention;
extern const AttentionKernels kPlainAttention;
extern const LinearKernels kLinear;
extern const LinearKernels kPlainLinear;
}  // namespace amx

}  // namespace rillkv::kernels::cpu
