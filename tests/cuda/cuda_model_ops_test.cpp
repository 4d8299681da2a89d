// A model's own CUDA kernels against double precision and against kernels/cpu.
#include <cmath>
#include <limits>
#include <random>

#include "kernels/cpu/kernels.h"
#include "kernels/cuda/model_ops.h"
#include "tests/cuda/device_fixture.h"

namespace rillkv::test {
namespace {

namespace cuda = kernels::cuda;

constexpr double kUnit = 0x1p-24;  // half an ulp of fp32, relative

/// Largest relative error of rounding to a dtype, and the absolute one below its normal range.
double rounding(Dtype dtype) {
  return dtype == Dtype::kFloat32 ? 0x1p-24 : dtype == Dtype::kBFloat16 ? 0x1p-8 : 0x1p-11;
}
double smallest(Dtype dtype) { return dtype == Dtype::kFloat16 ? 0x1p-25 : 1e-30; }

/// Numbers in a dtype, on the host and, `shift` elements behind an aligned address, on a device.
class Numbers {
 public:
  Numbers(Dtype dtype, size_t count, double spread, uint32_t seed, int shift = 0)
      : dtype_(dtype), count_(count), shift_(static_cast<size_t>(shift)) {
    bytes_.resize((count + shift_) * dtype_bytes(dtype));
    std::mt19937 random(seed);
    std::normal_distribution<double> normal(0, spread);
    for (size_t i = 0; i < count; ++i) set(i, normal(random));
  }
  void set(size_t i, double x) { store_element(x, dtype_, at(i)); }
  double get(size_t i) const { return load_element(dtype_, const_cast<Numbers*>(this)->at(i)); }
  void* at(size_t i) { return bytes_.data() + (shift_ + i) * dtype_bytes(dtype_); }

  void upload(ptx::Device& device) {
    on_device_ = std::make_unique<ptx::DeviceArray<uint8_t>>(device, bytes_);
  }
  void download() { bytes_ = on_device_->to_vector(); }
  void* device_data() { return on_device_->data() + shift_ * dtype_bytes(dtype_); }
  size_t size() const { return count_; }

 private:
  Dtype dtype_;
  size_t count_, shift_;
  std::vector<uint8_t> bytes_;
  std::unique_ptr<ptx::DeviceArray<uint8_t>> on_device_;
};

class CudaModelOpsTest : public EveryDevice {
 protected:
  const kernels::cpu::KernelTable* scalar_ = kernels::cpu::find_kernels("scalar");
  void expect_norms(Dtype dtype, int rows, int columns, bool with_delta, int shift);
  void expect_gates(Dtype dtype, int rows, int columns, int shift);
};

// u = 2^-24. A thread adds columns / 256 + 32 squares at most, with an fma each; then 5 + 8 more
// additions: (columns / 256 + 46) u of the sum, halved by the root. The reciprocal of columns (2
// ulp), its product and epsilon's addition: 6 u, halved. rsqrt.approx: 2^-22.9 = 2.2 u. Two
// products: 2 u.
// Then one rounding to the dtype.
void CudaModelOpsTest::expect_norms(Dtype dtype, int rows, int columns, bool with_delta,
                                    int shift) {
  SCOPED_TRACE(std::string(dtype_name(dtype)) + " rows " + std::to_string(rows) + " columns " +
               std::to_string(columns) + (with_delta ? " delta" : "") + " shift " +
               std::to_string(shift));
  const size_t count = static_cast<size_t>(rows) * static_cast<size_t>(columns);
  Numbers x(dtype, count, 3, 1, shift), delta(dtype, count, 1, 2);
  Numbers weight(dtype, static_cast<size_t>(columns), 1, 3), out(dtype, count, 1, 4);
  Numbers cpu_x = Numbers(dtype, count, 3, 1), cpu_out = Numbers(dtype, count, 1, 4);
  kernels::cpu::NormParams on_cpu;
  on_cpu.x = cpu_x.at(0);
  on_cpu.delta = with_delta ? delta.at(0) : nullptr;
  on_cpu.weight = weight.at(0);
  on_cpu.out = cpu_out.at(0);
  on_cpu.columns = columns;
  on_cpu.epsilon = 1e-5f;
  on_cpu.dtype = dtype;
  scalar_->rms_norm(on_cpu, 0, rows);
  for (Numbers* numbers : {&x, &delta, &weight, &out}) numbers->upload(device());
  DeviceQueue queue(device(), 1);
  cuda::NormParams p;
  p.x = x.device_data();
  p.delta = with_delta ? delta.device_data() : nullptr;
  p.weight = weight.device_data();
  p.out = out.device_data();
  p.rows = rows;
  p.columns = columns;
  p.epsilon = 1e-5f;
  p.dtype = dtype;
  cuda::rms_norm(queue, p);
  x.download();
  out.download();
  const double fp32 = ((columns / 256.0 + 46 + 6) / 2 + 2.2 + 2) * kUnit;
  const double cpu_fp32 = ((columns / 16.0 + 4) / 2 + 5) * kUnit;
  for (int row = 0; row < rows; ++row) {
    const size_t begin = static_cast<size_t>(row) * static_cast<size_t>(columns);
    double squares = 0;
    for (size_t i = begin; i < begin + static_cast<size_t>(columns); ++i) {
      ASSERT_EQ(x.get(i), cpu_x.get(i)) << "sum at " << i;
      squares += x.get(i) * x.get(i);
    }
    const double scale = 1 / std::sqrt(squares / columns + static_cast<double>(1e-5f));
    for (size_t i = begin; i < begin + static_cast<size_t>(columns); ++i) {
      const double expected = x.get(i) * scale * weight.get(i - begin);
      const double tolerance = std::fabs(expected) * (fp32 + 1.01 * rounding(dtype));
      ASSERT_TRUE(std::fabs(out.get(i) - expected) <= tolerance + smallest(dtype))
          << "at " << i << ": " << out.get(i) << ", expected " << expected;
      const double both = std::fabs(expected) * (fp32 + cpu_fp32 + 2.02 * rounding(dtype));
      ASSERT_TRUE(std::fabs(out.get(i) - cpu_out.get(i)) <= both + 2 * smallest(dtype))
          << "at " << i << ": " << out.get(i) << ", kernels/cpu " << cpu_out.get(i);
    }
  }
}

TEST_P(CudaModelOpsTest, RmsNorm) {
  under_every_order([&] {
    for (Dtype dtype : kDtypes) {
      for (bool with_delta : {false, true}) {
        for (int columns : {1, 7, 8, 33, 64, 576, 1000, 2048}) {
          expect_norms(dtype, 3, columns, with_delta, 0);
        }
        expect_norms(dtype, 2, 576, with_delta, 1);  // not 16-byte aligned
      }
    }
  });
}

TEST_P(CudaModelOpsTest, RmsNormOfLongRowsAndManyRows) {
  for (Dtype dtype : kDtypes) {
    for (int columns : {4096, 8192, 8200, 16384}) expect_norms(dtype, 2, columns, true, 0);
    expect_norms(dtype, 100, 64, false, 0);
    expect_norms(dtype, 0, 64, false, 0);
  }
}

// Not a number spoils its row and no other.
TEST_P(CudaModelOpsTest, RmsNormKeepsNotANumber) {
  for (Dtype dtype : kDtypes) {
    const int rows = 3, columns = 72;
    Numbers x(dtype, rows * columns, 1, 5), weight(dtype, columns, 1, 6);
    Numbers out(dtype, rows * columns, 1, 7);
    x.set(columns + 70, std::numeric_limits<double>::quiet_NaN());
    for (Numbers* numbers : {&x, &weight, &out}) numbers->upload(device());
    DeviceQueue queue(device(), 1);
    cuda::NormParams p;
    p.x = x.device_data();
    p.weight = weight.device_data();
    p.out = out.device_data();
    p.rows = rows;
    p.columns = columns;
    p.dtype = dtype;
    cuda::rms_norm(queue, p);
    out.download();
    for (size_t i = 0; i < out.size(); ++i) {
      ASSERT_EQ(std::isnan(out.get(i)), i / columns == 1) << dtype_name(dtype) << " at " << i;
    }
  }
}

// expf errs by 2 ulp = 4 u, of which the sum 1 + exp(-g) takes over no more; the sum 1 u, the
// division 2 ulp = 4 u, the product 1 u: 10 u. kernels/cpu: (|g| / 2 + 14) u, see its test. Below
// -87 both clamp: less than 100 e^-87 |u| apart from the exact value.
void CudaModelOpsTest::expect_gates(Dtype dtype, int rows, int columns, int shift) {
  SCOPED_TRACE(std::string(dtype_name(dtype)) + " rows " + std::to_string(rows) + " columns " +
               std::to_string(columns) + " shift " + std::to_string(shift));
  const size_t count = static_cast<size_t>(rows) * static_cast<size_t>(columns);
  Numbers input(dtype, 2 * count, 6, 8, shift), out(dtype, count, 1, 9),
      cpu_out = Numbers(dtype, count, 1, 9);
  const double extremes[] = {90, -90, -87.5, 1000, -1000, 0};
  for (size_t i = 0; i < std::min<size_t>(6, static_cast<size_t>(columns)); ++i) {
    if (rows > 0) input.set(i, extremes[i]);
  }
  kernels::cpu::GateParams on_cpu;
  on_cpu.gate_up = input.at(0);
  on_cpu.out = cpu_out.at(0);
  on_cpu.columns = columns;
  on_cpu.dtype = dtype;
  scalar_->gate(on_cpu, 0, rows);
  input.upload(device());
  out.upload(device());
  DeviceQueue queue(device(), 1);
  cuda::GateParams p;
  p.gate_up = input.device_data();
  p.out = out.device_data();
  p.rows = rows;
  p.columns = columns;
  p.dtype = dtype;
  cuda::gate(queue, p);
  out.download();
  for (size_t i = 0; i < count; ++i) {
    const size_t row = i / static_cast<size_t>(columns), column = i % static_cast<size_t>(columns);
    const size_t at = 2 * row * static_cast<size_t>(columns) + column;
    const double g = input.get(at), u = input.get(at + static_cast<size_t>(columns));
    const double expected = g / (1 + std::exp(-g)) * u;
    const double tiny = smallest(dtype) + 1e-30 * std::fabs(u);
    const double tolerance = std::fabs(expected) * (10 * kUnit + 1.01 * rounding(dtype)) + tiny;
    ASSERT_TRUE(std::fabs(out.get(i) - expected) <= tolerance)
        << "at " << i << ": g " << g << " u " << u << ": " << out.get(i) << ", " << expected;
    const double cpu_fp32 = (std::fabs(g) / 2 + 14) * kUnit;
    const double both =
        std::fabs(expected) * (10 * kUnit + cpu_fp32 + 2.02 * rounding(dtype)) + 2 * tiny;
    ASSERT_TRUE(std::fabs(out.get(i) - cpu_out.get(i)) <= both)
        << "at " << i << ": g " << g << ": " << out.get(i) << ", kernels/cpu " << cpu_out.get(i);
  }
}

TEST_P(CudaModelOpsTest, Gate) {
  under_every_order([&] {
    for (Dtype dtype : kDtypes) {
      for (int columns : {1, 7, 8, 33, 576, 1536, 4104}) expect_gates(dtype, 2, columns, 0);
      expect_gates(dtype, 3, 64, 1);  // not 16-byte aligned
      expect_gates(dtype, 0, 64, 0);
    }
  });
}

TEST_P(CudaModelOpsTest, GateKeepsNotANumberAndInfinity) {
  const double infinity = std::numeric_limits<double>::infinity();
  for (Dtype dtype : kDtypes) {
    Numbers input(dtype, 16, 1, 10), out(dtype, 8, 1, 11);
    input.set(0, std::numeric_limits<double>::quiet_NaN());
    input.set(8 + 1, std::numeric_limits<double>::quiet_NaN());
    input.set(2, infinity);
    input.set(8 + 2, 2);
    input.set(3, -infinity);
    input.set(8 + 3, 2);
    input.upload(device());
    out.upload(device());
    DeviceQueue queue(device(), 1);
    cuda::gate(queue, {.gate_up = input.device_data(),
                       .out = out.device_data(),
                       .rows = 1,
                       .columns = 8,
                       .dtype = dtype});
    out.download();
    EXPECT_TRUE(std::isnan(out.get(0)) && std::isnan(out.get(1))) << dtype_name(dtype);
    EXPECT_EQ(out.get(2), infinity) << dtype_name(dtype);
    EXPECT_EQ(out.get(3), -infinity) << dtype_name(dtype);  // as kernels/cpu, see elementwise.h
    for (size_t i = 4; i < 8; ++i) EXPECT_TRUE(std::isfinite(out.get(i))) << dtype_name(dtype);
  }
}

TEST_P(CudaModelOpsTest, EmbedCopiesRows) {
  under_every_order([&] {
    for (int element_bytes : {2, 4}) {
      for (int columns : {1, 7, 8, 33, 576, 4104}) {
        for (int shift : {0, 1}) {  // elements behind an aligned address
          const int vocabulary = 11;
          const std::vector<int32_t> ids = {10, 0, 3, 3, 7};
          const size_t row = static_cast<size_t>(columns * element_bytes);
          const size_t offset = static_cast<size_t>(shift * element_bytes);
          std::vector<uint8_t> table(offset + vocabulary * row);
          std::mt19937 random(12);
          for (uint8_t& byte : table) byte = static_cast<uint8_t>(random());
          ptx::DeviceArray<uint8_t> on_device(device(), table), out(device(), ids.size() * row);
          ptx::DeviceArray<int32_t> device_ids(device(), ids);
          DeviceQueue queue(device(), 1);
          cuda::embed(queue, {.table = on_device.data() + offset,
                              .ids = device_ids.data(),
                              .out = out.data(),
                              .rows = static_cast<int32_t>(ids.size()),
                              .columns = columns,
                              .element_bytes = element_bytes});
          const auto got = out.to_vector();
          for (size_t i = 0; i < ids.size(); ++i) {
            ASSERT_EQ(std::memcmp(got.data() + i * row,
                                  table.data() + offset + static_cast<size_t>(ids[i]) * row, row),
                      0)
                << columns << " columns of " << element_bytes << ", row " << i;
          }
        }
      }
    }
  });
  DeviceQueue queue(device(), 1);
  EXPECT_THROW(cuda::embed(queue, {.rows = 1, .columns = 8, .element_bytes = 3}),
               std::invalid_argument);
}

TEST_P(CudaModelOpsTest, IdsTravelAsArguments) {
  under_every_order([&] {
    for (int count : {0, 1, 129, 960, 961, 2500}) {
      std::vector<int32_t> ids;
      for (int i = 0; i < count; ++i) ids.push_back(7 * i - 3);
      ptx::DeviceArray<int32_t> out(device(), std::vector<int32_t>(ids.size() + 1, -1));
      DeviceQueue queue(device(), 1);
      cuda::set_ids(queue, ids.data(), count, out.data());
      EXPECT_EQ(queue.entries().size(), static_cast<size_t>((count + 959) / 960));
      ids.push_back(-1);
      ASSERT_EQ(out.to_vector(), ids);
    }
  });
}

/// Rotations as core's tables hold them, on a device.
class Tables {
 public:
  Tables(ptx::Device& device, int head_dim, int block_size, int sinks, int blocks)
      : half_(head_dim / 2), in_block_(2), sinks_(2) {
    for (int pair = 0; pair < half_; ++pair) {
      for (int j = 0; j < block_size; ++j) push(in_block_, angle(j, pair));
    }
    for (int t = 0; t < sinks; ++t) {
      for (int pair = 0; pair < half_; ++pair) push(sinks_, angle(t, pair));
    }
    std::vector<const float*> pointers;
    for (int n = 0; n < blocks; ++n) {
      std::vector<std::vector<float>> block(2);
      for (int pair = 0; pair < half_; ++pair) push(block, angle(sinks + n * block_size, pair));
      block[0].insert(block[0].end(), block[1].begin(), block[1].end());
      blocks_.emplace_back(device, block[0]);
      pointers.push_back(blocks_.back().data());
    }
    for (const auto* pair : {&in_block_, &sinks_}) {
      for (const auto& values : *pair) arrays_.emplace_back(device, values);
    }
    pointers_ = std::make_unique<ptx::DeviceArray<const float*>>(device, pointers);
  }
  double angle(int64_t position, int pair) const {
    return static_cast<double>(position) * std::pow(10000.0, -static_cast<double>(pair) / half_);
  }
  const float* in_block_cos() const { return arrays_[0].data(); }
  const float* in_block_sin() const { return arrays_[1].data(); }
  const float* sink_cos() const { return arrays_[2].data(); }
  const float* sink_sin() const { return arrays_[3].data(); }
  const float* const* blocks() const { return pointers_->data(); }

 private:
  static void push(std::vector<std::vector<float>>& pair, double angle) {
    pair[0].push_back(static_cast<float>(std::cos(angle)));
    pair[1].push_back(static_cast<float>(std::sin(angle)));
  }
  int half_;
  std::vector<std::vector<float>> in_block_, sinks_;
  std::vector<ptx::DeviceArray<float>> arrays_, blocks_;
  std::unique_ptr<ptx::DeviceArray<const float*>> pointers_;
};

// Entries of the tables err by u / 2 each (they are at most 1): 4 (u / 2) |entry|, and a product
// and an fma add 2 u at most since |c0 cj| + |s0 sj| <= 1. 5 u leaves room for the second order.
constexpr double kRotationTolerance = 5 * kUnit;

TEST_P(CudaModelOpsTest, BeginPassWritesStepsIdsAndRotations) {
  under_every_order([&] {
    for (int head_dim : {2, 64, 80, 128, 256}) {
      for (int sequences : {1, 3, 57}) {
        const int block_size = 32, sinks = 4, half = head_dim / 2;
        const Tables tables(device(), head_dim, block_size, sinks, 8);
        std::vector<ptx::DeviceArray<float>> tails;
        std::vector<cuda::SequenceStep> steps;
        std::vector<int32_t> ids;
        const std::vector<float> untouched(static_cast<size_t>(2 * block_size * half), 7);
        // Only their addresses count.
        const std::vector<cuda::LayerState> places(static_cast<size_t>(sequences));
        for (int s = 0; s < sequences; ++s) {
          cuda::SequenceStep step;
          step.block_count = s % 8;
          step.tail_count = 11 * s % block_size;
          step.length = sinks + step.block_count * block_size + step.tail_count;
          step.block_rotations = tables.blocks();
          tails.emplace_back(device(), untouched);
          step.tail_cos = tails.back().data();
          step.tail_sin = step.tail_cos + block_size * half;
          step.layers = &places[static_cast<size_t>(s)];
          steps.push_back(step);
          ids.push_back(1000 + s);
        }
        ptx::DeviceArray<cuda::SequenceStep> steps_out(device(), steps.size());
        ptx::DeviceArray<int32_t> ids_out(device(), ids.size());
        cuda::BeginPassParams p;
        p.steps = steps_out.data();
        p.ids_out = ids_out.data();
        p.head_dim = head_dim;
        p.block_size = block_size;
        p.in_block_cos = tables.in_block_cos();
        p.in_block_sin = tables.in_block_sin();
        DeviceQueue queue(device(), 1);
        cuda::begin_pass(queue, p, steps.data(), ids.data(), sequences);
        EXPECT_EQ(queue.entries().size(), static_cast<size_t>((sequences + 55) / 56));
        ASSERT_EQ(ids_out.to_vector(), ids);
        const auto got = steps_out.to_vector();
        for (size_t s = 0; s < steps.size(); ++s) {
          ASSERT_EQ(std::memcmp(&got[s], &steps[s], sizeof steps[s]), 0) << "step " << s;
          const auto tail = tails[s].to_vector();
          for (int row = 0; row < block_size; ++row) {
            for (int pair = 0; pair < half; ++pair) {
              const float cosine = tail[static_cast<size_t>(row * half + pair)];
              const float sine = tail[static_cast<size_t>((block_size + row) * half + pair)];
              if (row != steps[s].tail_count) {
                ASSERT_TRUE(cosine == 7 && sine == 7) << "row " << row << " of sequence " << s;
                continue;
              }
              const double angle = tables.angle(steps[s].length, pair);
              ASSERT_TRUE(std::fabs(cosine - std::cos(angle)) <= kRotationTolerance &&
                          std::fabs(sine - std::sin(angle)) <= kRotationTolerance)
                  << "D " << head_dim << " sequence " << s << " pair " << pair;
            }
          }
        }
      }
    }
  });
}

TEST_P(CudaModelOpsTest, RopeRowsOfAnyRange) {
  struct Range {
    int64_t first;
    int32_t count;
  };
  under_every_order([&] {
    for (int head_dim : {2, 64, 80, 256}) {
      for (int sinks : {0, 5}) {
        const int block_size = 32, half = head_dim / 2;
        const Tables tables(device(), head_dim, block_size, sinks, 5);
        for (const Range& range : {Range{0, 0}, Range{0, 1}, Range{0, 120}, Range{3, 5},
                                   Range{5, 32}, Range{36, 2}, Range{100, 37}}) {
          const size_t size = static_cast<size_t>(range.count * half);
          ptx::DeviceArray<float> cosines(device(), size), sines(device(), size);
          cuda::RopeRowsParams p;
          p.cos = cosines.data();
          p.sin = sines.data();
          p.first = range.first;
          p.count = range.count;
          p.head_dim = head_dim;
          p.block_size = block_size;
          p.sinks = sinks;
          p.sink_cos = tables.sink_cos();
          p.sink_sin = tables.sink_sin();
          p.block_rotations = tables.blocks();
          p.in_block_cos = tables.in_block_cos();
          p.in_block_sin = tables.in_block_sin();
          DeviceQueue queue(device(), 1);
          cuda::rope_rows(queue, p);
          const auto cos = cosines.to_vector(), sin = sines.to_vector();
          for (size_t i = 0; i < size; ++i) {
            const auto row = static_cast<int64_t>(i) / half;
            const double angle = tables.angle(range.first + row, static_cast<int>(i) % half);
            ASSERT_TRUE(std::fabs(cos[i] - std::cos(angle)) <= kRotationTolerance &&
                        std::fabs(sin[i] - std::sin(angle)) <= kRotationTolerance)
                << "D " << head_dim << " sinks " << sinks << " token " << range.first + row;
          }
        }
      }
    }
  });
  DeviceQueue queue(device(), 1);
  EXPECT_THROW(cuda::rope_rows(queue, {.first = -1, .count = 1, .head_dim = 2}),
               std::invalid_argument);
  EXPECT_THROW(cuda::rope_rows(queue, {.first = 0x7fffffff, .count = 1, .head_dim = 2}),
               std::invalid_argument);
}

RILLKV_INSTANTIATE_FOR_EVERY_DEVICE(CudaModelOpsTest);

}  // namespace
}  // namespace rillkv::test
