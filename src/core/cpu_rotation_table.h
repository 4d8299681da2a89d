// A RotationTable with what the CPU kernels want beside it.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "core/rotation_table.h"
#include "kernels/cpu/fixed_rotations.h"

namespace rillkv {

class CpuRotationTable final : public RotationTable {
 public:
  CpuRotationTable(std::vector<double> inverse_frequencies, int64_t sinks, int64_t block_size)
      : RotationTable(std::move(inverse_frequencies), sinks, block_size),
        in_block_fixed_(in_block().in_block_cos, in_block().in_block_sin, pairs() * block_size) {}

  /// R(j) in fixed point, kernels::cpu::AttentionParams::in_block_fixed.
  const int16_t* in_block_fixed() const { return in_block_fixed_.data(); }

 private:
  kernels::cpu::FixedRotations in_block_fixed_;
};

}  // namespace rillkv
