// A RotationTable whose pointers are a device's.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "core/cuda_backend.h"
#include "core/rotation_table.h"

namespace rillkv {

/// What grows with the context by one rotation a block is computed on the CPU in double, as its
/// base does, and uploaded when it is new, 64 blocks at a time. Rows are computed on the device,
/// R(t0 + j) = R(t0) R(j) in fp32 of tables that were computed in double: off by 3 * 2^-24 at most.
class DeviceRotationTable final : public RotationTable {
 public:
  /// `backend` must outlive the table.
  DeviceRotationTable(std::vector<double> inverse_frequencies, int64_t sinks, int64_t block_size,
                      CudaBackend& backend);

  kernels::Rotations in_block() const override;
  /// R(j) in fp16 as the fast kernels read it (kernels/cuda/tile_order.h), for blocks of 128;
  /// otherwise null.
  const uint16_t* in_block_half() const;
  const float* sink_cos() const override { return sink_cos_.const_data_ptr<float>(); }
  const float* sink_sin() const override { return sink_sin_.const_data_ptr<float>(); }
  const float* const* blocks(int64_t count) override;
  /// One launch where the range is another one than the last.
  Rows rows(int64_t first, int64_t count) override;
  /// The same into memory of the caller's, [count, D/2] each: always a launch.
  void compute_rows(int64_t first, int64_t count, float* cos, float* sin);
  /// All that kernels may read.
  std::vector<at::Tensor> tensors() const;

 private:
  at::Tensor upload(const void* data, at::IntArrayRef sizes, at::ScalarType dtype) const;

  CudaBackend& backend_;
  int64_t sinks_, block_size_;
  at::Tensor in_block_cos_, in_block_sin_;  // [D/2, block_size]
  at::Tensor in_block_half_;                // i16 [D * block_size], or undefined
  at::Tensor sink_cos_, sink_sin_;          // [sinks, D/2]
  std::vector<at::Tensor> granules_;        // [kGranule, D], rotations of as many blocks each
  at::Tensor block_pointers_;               // [kGranule * granules] i64
  at::Tensor row_cos_, row_sin_;            // [row_count_, D/2]
  int64_t first_row_ = 0, row_count_ = 0;
};

}  // namespace rillkv
