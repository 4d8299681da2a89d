// Pointers and counters that CUDA kernels read from device memory.
#pragma once

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "core/cuda_backend.h"

namespace rillkv {

/// A table of 64-bit words on the device that grows by doubling; new rows are zero.
class DeviceTable {
 public:
  DeviceTable(int64_t columns, CudaBackend& backend)
      : backend_(&backend),
        rows_(at::zeros({8, columns},
                        at::TensorOptions().dtype(at::kLong).device(backend.device()))) {}
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
    backend_->upload(static_cast<const void*>(pointers.data()), rows_[index]);
  }
  const at::Tensor& rows() const { return rows_; }

 private:
  CudaBackend* backend_;
  at::Tensor rows_;  // [capacity, columns] i64
};

}  // namespace rillkv
