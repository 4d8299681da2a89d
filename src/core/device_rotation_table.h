// A RotationTable whose pointers are a device's.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "core/rotation_table.h"

namespace rillkv {

/// Computes on the CPU in double, as its base does, and uploads what is new. Uploads and the
/// kernels that read them are in the order of LibTorch's current stream.
class DeviceRotationTable final : public RotationTable {
 public:
  DeviceRotationTable(std::vector<double> inverse_frequencies, int64_t sinks, int64_t block_size,
                      at::Device device);

  kernels::Rotations in_block() const override;
  /// R(j) in fp16 as the fast kernels read it (kernels/cuda/tile_order.h), for blocks of 128;
  /// otherwise null.
  const uint16_t* in_block_half() const;
  const float* sink_cos() const override { return sink_cos_.const_data_ptr<float>(); }
  const float* sink_sin() const override { return sink_sin_.const_data_ptr<float>(); }
  const float* const* blocks(int64_t count) override;
  Rows rows(int64_t first, int64_t count) override;

 private:
  at::Tensor upload(const float* data, int64_t rows, int64_t columns) const;

  at::Device device_;
  at::Tensor in_block_cos_, in_block_sin_;  // [D/2, block_size]
  at::Tensor in_block_half_;                // i16 [D * block_size], or undefined
  at::Tensor sink_cos_, sink_sin_;          // [sinks, D/2]
  std::vector<at::Tensor> granules_;        // [kGranule, D], rotations of as many blocks each
  at::Tensor block_pointers_;               // [kGranule * granules] i64
  at::Tensor row_cos_, row_sin_;            // [row_count_, D/2]
  int64_t first_row_ = 0, row_count_ = 0;
};

}  // namespace rillkv
