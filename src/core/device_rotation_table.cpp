#include "core/device_rotation_table.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "kernels/cuda/entry_params.h"
#include "kernels/cuda/tile_order.h"

namespace rillkv {
namespace {

constexpr int64_t kGranule = 64;  // blocks an upload; 8192 tokens

}  // namespace

DeviceRotationTable::DeviceRotationTable(std::vector<double> inverse_frequencies, int64_t sinks,
                                         int64_t block_size, at::Device device)
    : RotationTable(std::move(inverse_frequencies), sinks, block_size), device_(device) {
  const kernels::Rotations host = RotationTable::in_block();
  in_block_cos_ = upload(host.in_block_cos, pairs(), block_size);
  in_block_sin_ = upload(host.in_block_sin, pairs(), block_size);
  if (block_size == kernels::cuda::kAttentionTile) {
    const auto dim = static_cast<int>(2 * pairs());
    const at::Tensor staged =
        at::empty({static_cast<int64_t>(kernels::cuda::half_rotation_elements(dim))}, at::kShort);
    kernels::cuda::fill_half_rotations(
        host.in_block_cos, host.in_block_sin, dim,
        reinterpret_cast<uint16_t*>(staged.mutable_data_ptr<int16_t>()));
    in_block_half_ = at::empty(staged.sizes(), staged.options().device(device_));
    in_block_half_.copy_(staged, /*non_blocking=*/true);
  }
  sink_cos_ = upload(RotationTable::sink_cos(), sinks, pairs());
  sink_sin_ = upload(RotationTable::sink_sin(), sinks, pairs());
}

at::Tensor DeviceRotationTable::upload(const float* data, int64_t rows, int64_t columns) const {
  at::Tensor copy = at::empty({rows, columns}, at::TensorOptions().device(device_));
  if (rows > 0) {
    // Not blocking: pageable memory has been read when the call returns.
    copy.copy_(at::from_blob(const_cast<float*>(data), {rows, columns}), /*non_blocking=*/true);
  }
  return copy;
}

kernels::Rotations DeviceRotationTable::in_block() const {
  return {in_block_cos_.const_data_ptr<float>(), in_block_sin_.const_data_ptr<float>()};
}

const uint16_t* DeviceRotationTable::in_block_half() const {
  if (!in_block_half_.defined()) return nullptr;
  return reinterpret_cast<const uint16_t*>(in_block_half_.const_data_ptr<int16_t>());
}

const float* const* DeviceRotationTable::blocks(int64_t count) {
  const auto have = [&] { return static_cast<int64_t>(granules_.size()) * kGranule; };
  if (have() < count) {
    while (have() < count) {
      const int64_t first = have();
      const float* const* host = RotationTable::blocks(first + kGranule);
      const at::Tensor staged = at::empty({kGranule, 2 * pairs()});
      for (int64_t n = 0; n < kGranule; ++n) {
        std::copy_n(host[first + n], 2 * pairs(),
                    staged.mutable_data_ptr<float>() + n * 2 * pairs());
      }
      granules_.push_back(upload(staged.const_data_ptr<float>(), kGranule, 2 * pairs()));
    }
    const at::Tensor pointers = at::empty({have()}, at::kLong);
    int64_t* out = pointers.mutable_data_ptr<int64_t>();
    for (const at::Tensor& granule : granules_) {
      for (int64_t n = 0; n < kGranule; ++n) {
        *out++ = reinterpret_cast<int64_t>(granule.const_data_ptr<float>() + n * 2 * pairs());
      }
    }
    block_pointers_ = at::empty({have()}, pointers.options().device(device_));
    block_pointers_.copy_(pointers, /*non_blocking=*/true);
  }
  return reinterpret_cast<const float* const*>(block_pointers_.const_data_ptr<int64_t>());
}

RotationTable::Rows DeviceRotationTable::rows(int64_t first, int64_t count) {
  if (!row_cos_.defined() || first != first_row_ || count != row_count_) {
    const Rows host = RotationTable::rows(first, count);
    row_cos_ = upload(host.cos, count, pairs());
    row_sin_ = upload(host.sin, count, pairs());
    first_row_ = first;
    row_count_ = count;
  }
  return {row_cos_.const_data_ptr<float>(), row_sin_.const_data_ptr<float>()};
}

}  // namespace rillkv
