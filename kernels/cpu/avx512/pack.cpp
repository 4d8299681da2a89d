#include "kernels/cpu/generic/pack.h"

#include "kernels/cpu/avx512/simd.h"
#include "kernels/cpu/generic/statistics.h"
#include "kernels/cpu/isa.h"

namespace rillkv::kernels::cpu::avx512 {

constinit const StatisticsKernels kStatistics = statistics_kernels<Simd>();
constinit const PackKernels kPack = pack_kernels<Simd>();

}  // namespace rillkv::kernels::cpu::avx512
