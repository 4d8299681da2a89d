// Pointers and counters that CUDA kernels read from device memory.
#pragma once

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

namespace rillkv {

/// A table of 64-bit words on the device that grows by doubling; new rows are zero.
class DeviceTable {
 public:
  DeviceTable(int64_t columns, at::Device device)
      : rows_(at::zeros({8, columns}, at::TensorOptions().dtype(at::kLong).device(device))) {}
  void ensure(int64_t rows) {
    if (rows <= rows_.size(0)) return;
    // Made under a model's inference mode it could not be written to outside of it.
    const c10::InferenceMode normal(false);
    at::Tensor larger =
        at::zeros({std::max(rows, 2 * rows_.size(0)), rows_.size(1)}, rows_.options());
    larger.slice(0, 0, rows_.size(0)).copy_(rows_);
    rows_ = std::move(larger);
  }
  template <typename T>
  T* row(int64_t index) const {
    static_assert(sizeof(T) == sizeof(int64_t));
    return reinterpret_cast<T*>(rows_.mutable_data_ptr<int64_t>() + index * rows_.size(1));
  }
  void set_pointers(int64_t index, const std::vector<const uint8_t*>& pointers) {
    ensure(index + 1);
    const at::Tensor host = at::empty({rows_.size(1)}, at::kLong);
    for (size_t i = 0; i < pointers.size(); ++i) {
      host.mutable_data_ptr<int64_t>()[i] = reinterpret_cast<int64_t>(pointers[i]);
    }
    rows_[index].copy_(host, /*non_blocking=*/true);
  }
  const at::Tensor& rows() const { return rows_; }

 private:
  at::Tensor rows_;  // [capacity, columns] i64
};

}  // namespace rillkv
