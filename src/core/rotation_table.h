// RoPE rotations of one sequence, computed in double and split as the kernels want them.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/params.h"

namespace rillkv {

/// Angles are position * inverse_frequency[p] for the channel pair (p, p + D/2) (RoFormer, arXiv
/// 2104.09864, in LLaMA's half-split layout). Nothing here is as long as the context except one [2,
/// D/2] rotation a block, in an allocation of its own. Pointers are the CPU's here and the device's
/// in DeviceRotationTable. Not thread-safe.
class RotationTable {
 public:
  RotationTable(std::vector<double> inverse_frequencies, int64_t sinks, int64_t block_size);
  virtual ~RotationTable() = default;

  /// R(j), j < block_size, pair-major.
  virtual kernels::Rotations in_block() const;
  /// R(position) of the sinks, [sinks, D/2].
  virtual const float* sink_cos() const { return sink_cos_.data(); }
  virtual const float* sink_sin() const { return sink_sin_.data(); }
  /// Pointers to R(first position of block n) for n < count: cos[D/2], sin[D/2] each.
  virtual const float* const* blocks(int64_t count);

  struct Rows {
    const float* cos;  // [count, D/2]
    const float* sin;
  };
  /// R(position) for positions first .. first + count - 1; valid until the next call. Consecutive
  /// calls (the layers of one step, the steps of a decode) recompute nothing.
  virtual Rows rows(int64_t first, int64_t count);

  int64_t pairs() const { return pairs_; }

 private:
  void append_row(int64_t position, std::vector<float>& cos, std::vector<float>& sin) const;

  std::vector<double> inverse_frequencies_;
  int64_t pairs_, sinks_, block_size_;
  std::vector<float> in_block_cos_, in_block_sin_, sink_cos_, sink_sin_;
  std::vector<std::unique_ptr<float[]>> blocks_;
  std::vector<const float*> block_pointers_;
  std::vector<float> row_cos_, row_sin_;
  int64_t first_row_ = 0;  // position of the first row in row_cos_
};

}  // namespace rillkv
