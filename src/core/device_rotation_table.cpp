#include "core/device_rotation_table.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "kernels/cuda/entry_params.h"
#include "kernels/cuda/model_ops.h"
#include "kernels/cuda/tile_order.h"

namespace rillkv {
namespace {

constexpr int64_t kGranule = 64;  // blocks an upload; 8192 tokens

}  // namespace

DeviceRotationTable::DeviceRotationTable(std::vector<double> inverse_frequencies, int64_t sinks,
                                         int64_t block_size, CudaBackend& backend)
    : RotationTable(std::move(inverse_frequencies), sinks, block_size),
      backend_(backend),
      sinks_(sinks),
      block_size_(block_size) {
  const kernels::Rotations host = RotationTable::in_block();
  in_block_cos_ = upload(host.in_block_cos, {pairs(), block_size}, at::kFloat);
  in_block_sin_ = upload(host.in_block_sin, {pairs(), block_size}, at::kFloat);
  if (block_size == kernels::cuda::kAttentionTile) {
    const auto dim = static_cast<int>(2 * pairs());
    std::vector<uint16_t> half(kernels::cuda::half_rotation_elements(dim));
    kernels::cuda::fill_half_rotations(host.in_block_cos, host.in_block_sin, dim, half.data());
    in_block_half_ = upload(half.data(), {static_cast<int64_t>(half.size())}, at::kShort);
  }
  sink_cos_ = upload(RotationTable::sink_cos(), {sinks, pairs()}, at::kFloat);
  sink_sin_ = upload(RotationTable::sink_sin(), {sinks, pairs()}, at::kFloat);
}

at::Tensor DeviceRotationTable::upload(const void* data, at::IntArrayRef sizes,
                                       at::ScalarType dtype) const {
  at::Tensor copy = at::empty(sizes, at::TensorOptions().dtype(dtype).device(backend_.device()));
  backend_.upload(data, copy);
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
      std::vector<float> staged(kGranule * 2 * pairs());
      for (int64_t n = 0; n < kGranule; ++n) {
        std::copy_n(host[first + n], 2 * pairs(), staged.data() + n * 2 * pairs());
      }
      granules_.push_back(upload(staged.data(), {kGranule, 2 * pairs()}, at::kFloat));
    }
    std::vector<const float*> pointers;
    for (const at::Tensor& granule : granules_) {
      for (int64_t n = 0; n < kGranule; ++n) {
        pointers.push_back(granule.const_data_ptr<float>() + n * 2 * pairs());
      }
    }
    block_pointers_ = upload(static_cast<const void*>(pointers.data()), {have()}, at::kLong);
  }
  return reinterpret_cast<const float* const*>(block_pointers_.const_data_ptr<int64_t>());
}

void DeviceRotationTable::compute_rows(int64_t first, int64_t count, float* cos, float* sin) {
  if (count == 0) return;
  kernels::cuda::RopeRowsParams p;
  p.cos = cos;
  p.sin = sin;
  p.first = first;
  p.count = static_cast<int32_t>(count);
  p.head_dim = static_cast<int32_t>(2 * pairs());
  p.block_size = static_cast<int32_t>(block_size_);
  p.sinks = static_cast<int32_t>(sinks_);
  p.sink_cos = sink_cos();
  p.sink_sin = sink_sin();
  const int64_t in_blocks = first + count - sinks_;  // a block begins at index sinks_
  p.block_rotations = blocks(std::max<int64_t>(in_blocks + block_size_ - 1, 0) / block_size_);
  p.in_block_cos = in_block_cos_.const_data_ptr<float>();
  p.in_block_sin = in_block_sin_.const_data_ptr<float>();
  kernels::cuda::rope_rows(backend_.queue(), p);
}

RotationTable::Rows DeviceRotationTable::rows(int64_t first, int64_t count) {
  if (!row_cos_.defined() || first != first_row_ || count != row_count_) {
    row_cos_ = at::empty({count, pairs()}, in_block_cos_.options());
    row_sin_ = at::empty_like(row_cos_);
    compute_rows(first, count, row_cos_.mutable_data_ptr<float>(),
                 row_sin_.mutable_data_ptr<float>());
    first_row_ = first;
    row_count_ = count;
  }
  return {row_cos_.const_data_ptr<float>(), row_sin_.const_data_ptr<float>()};
}

std::vector<at::Tensor> DeviceRotationTable::tensors() const {
  std::vector<at::Tensor> all = {in_block_cos_, in_block_sin_, in_block_half_, sink_cos_,
                                 sink_sin_,     row_cos_,      row_sin_,       block_pointers_};
  all.insert(all.end(), granules_.begin(), granules_.end());
  return all;
}

}  // namespace rillkv
