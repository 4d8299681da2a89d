// What the tests of attention by slices (kernels/cuda/slices.h) share.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/cuda/slices.h"
#include "tests/cuda/device_scenario.h"
#include "tests/reference/half.h"

namespace rillkv::test {

inline constexpr double kHalfUnit = 1.0 / 2048;  // roundings to fp16's 11 significant bits

inline double half_of(uint16_t bits) {
  static const std::vector<double> values = [] {
    std::vector<double> all;
    for (uint32_t i = 0; i < 65536; ++i) {
      all.push_back(reference::half_value(static_cast<uint16_t>(i)));
    }
    return all;
  }();
  return values[bits];
}

/// A slice on the device.
struct Slice {
  Slice(ptx::Device& device, int kv_heads, int blocks, int D)
      : keys(device, static_cast<size_t>(kv_heads) * static_cast<size_t>(blocks * 128 * D)),
        values(device, keys.size()) {}
  ptx::DeviceArray<uint16_t> keys, values;
};

/// A library's result for one slice, [kv_heads * parts, rows, D] and [kv_heads * parts, rows], to
/// fold into `to`.
inline kernels::cuda::FoldSliceParams fold_params(const ptx::DeviceArray<uint16_t>& out,
                                                  const ptx::DeviceArray<float>& log_sum_exp,
                                                  const kernels::cuda::SlicePlan& plan,
                                                  const kernels::cuda::AttentionParts& to) {
  kernels::cuda::FoldSliceParams p;
  p.out = out.data();
  p.out_head_stride = int64_t{plan.rows} * plan.head_dim;
  p.out_row_stride = plan.head_dim;
  p.log_sum_exp = log_sum_exp.data();
  p.log_sum_exp_head_stride = plan.rows;
  p.log_sum_exp_row_stride = 1;
  p.parts = plan.parts;
  p.rows = plan.rows;
  p.head_dim = plan.head_dim;
  p.part_out = to.out;
  p.part_max_sum = to.max_sum;
  p.part_stride = to.stride;
  return p;
}

}  // namespace rillkv::test
