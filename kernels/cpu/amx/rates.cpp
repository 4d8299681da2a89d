#include "kernels/cpu/rates.h"

#include "kernels/cpu/amx/tiles.h"

namespace rillkv::kernels::cpu::amx {

// Zeros, the fastest case: a product of other numbers takes up to a fifth longer.
void tile_rounds(int64_t rounds) {
  using T = HardwareTiles;
  const T::Session session;
  T::zero<0>(), T::zero<1>(), T::zero<2>(), T::zero<3>();
  T::zero<4>(), T::zero<5>(), T::zero<6>(), T::zero<7>();
  for (int64_t i = 0; i < rounds; ++i) {
    T::dot<0, 4, 6>(), T::dot<1, 4, 7>(), T::dot<2, 5, 6>(), T::dot<3, 5, 7>();
  }
}

}  // namespace rillkv::kernels::cpu::amx
