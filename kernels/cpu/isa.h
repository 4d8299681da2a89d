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
extern const ElementwiseKernels kElementwise;
}  // namespace scalar

namespace avx2 {
extern const AttentionKernels kAttention;
extern const StatisticsKernels kStatistics;
extern const PackKernels kPack;
extern const ElementwiseKernels kElementwise;
}  // namespace avx2

namespace avx512 {
extern const AttentionKernels kAttention;
extern const StatisticsKernels kStatistics;
extern const PackKernels kPack;
extern const ElementwiseKernels kElementwise;
extern const LinearKernels kLinear;
}  // namespace avx512

// What a tile unit takes over; the rest is avx512's. kPlain*: the same on tiles in plain C++.
namespace amx {
extern const AttentionKernels kAttention;
extern const AttentionKernels kPlainAttention;
}  // namespace amx

}  // namespace rillkv::kernels::cpu
