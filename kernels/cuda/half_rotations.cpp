#include "kernels/cpu/generic/half.h"
#include "kernels/cuda/tile_order.h"

namespace rillkv::kernels::cuda {

void fill_half_rotations(const float* cosines, const float* sines, int head_dim, uint16_t* out) {
  for (int pair = 0; pair < head_dim / 2; ++pair) {
    for (int position = 0; position < 128; ++position) {
      const int token = token_at_position(position);
      const auto from = 128 * static_cast<size_t>(pair) + static_cast<size_t>(token);
      const uint16_t cosine = cpu::float_to_half(cosines[from]);
      const uint16_t sine = cpu::float_to_half(sines[from]);
      const size_t to = half_rotation_index(pair, position);
      out[to] = cosine;
      out[pair_rotations_offset(head_dim) / 2 + to] = sine;
      const size_t both = pair_rotation_index(head_dim, pair, token);
      out[both] = cosine;
      out[both + 1] = sine;
    }
  }
}

}  // namespace rillkv::kernels::cuda
