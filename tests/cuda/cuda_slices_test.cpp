// Attention by slices (kernels/cuda/slices.h): slices against the packed bytes read in double,
// queries and folding against their definitions, and all of it, with a library written here,
// against naive attention in double.
#include <cmath>

#include "benchmarks/slice_model.h"
#include "kernels/cuda/slices.h"
#include "tests/cuda/device_scenario.h"
#include "tests/reference/half.h"

namespace rillkv::test {
namespace {

namespace cuda = kernels::cuda;

constexpr double kHalfUnit = 1.0 / 2048;  // roundings to fp16's 11 significant bits
constexpr Dtype kFastDtypes[] = {Dtype::kBFloat16, Dtype::kFloat16};

double half_of(uint16_t bits) {
  static const std::vector<double> values = [] {
    std::vector<double> all;
    for (uint32_t i = 0; i < 65536; ++i) {
      all.push_back(reference::half_value(static_cast<uint16_t>(i)));
    }
    return all;
  }();
  return values[bits];
}

/// Dequantised values of a packed block [token][channel], and what their fp16 arithmetic is off by
/// relative to: the largest |centre| + |unit| that the block's scale has there (expand_codes.cuh).
struct Decoded {
  std::vector<std::vector<double>> values, sizes;
};

Decoded decode(const std::vector<uint8_t>& bytes, const Shape& s, bool keys) {
  const bool by_channel = keys || s.ema, symmetric = s.ema;
  const int D = s.head_dim, B = s.block_size;
  const auto block = by_channel ? reference::read_channel_block(bytes.data(), B, D, symmetric)
                                : reference::read_token_block(bytes.data(), B, D, s.value_groups,
                                                              false, s.value_bits);
  Decoded result;
  result.values = by_channel ? reference::channel_block_values(block, symmetric)
                             : reference::token_block_values(block, D, s.value_groups, false);
  for (int t = 0; t < B; ++t) {
    result.sizes.emplace_back();
    for (int c = 0; c < D; ++c) {
      const auto at =
          static_cast<size_t>(by_channel ? c : reference::group_of(c, s.value_groups, D) * B + t);
      const int width = by_channel ? block.widths[at] : s.value_bits;
      const double unit = half_of(block.step[at]) * std::ldexp(1.0, width - 1);
      const double centre = symmetric ? 0 : half_of(block.lo[at]) + unit;
      result.sizes.back().push_back(std::fabs(centre) + std::fabs(unit));
    }
  }
  return result;
}

/// A slice on the device.
struct Slice {
  Slice(ptx::Device& device, int kv_heads, int blocks, int D)
      : keys(device, static_cast<size_t>(kv_heads) * static_cast<size_t>(blocks * 128 * D)),
        values(device, keys.size()) {}
  ptx::DeviceArray<uint16_t> keys, values;
};

class CudaSlices : public EveryDevice {
 protected:
  /// Blocks first .. first + blocks - 1 against the packed bytes.
  void check_expansion(const Shape& shape, int first, int blocks) {
    Scenario scenario(shape);
    DeviceScenario on_device(device(), scenario);
    DeviceQueue queue(device(), 1);
    const int D = shape.head_dim;
    const Slice slice(device(), shape.kv_heads, blocks, D);
    cuda::expand_slice(queue, on_device.params(), first, blocks, slice.keys.data(),
                       slice.values.data());
    const auto keys = slice.keys.to_vector(), values = slice.values.to_vector();
    double worst = 0;  // over tolerance
    for (int h = 0; h < shape.kv_heads; ++h) {
      for (int n = 0; n < blocks; ++n) {
        const Decoded k = decode(scenario.key_block(first + n, h), shape, true);
        const Decoded v = decode(scenario.value_block(first + n, h), shape, false);
        for (int j = 0; j < 128; ++j) {
          const size_t row = static_cast<size_t>(((h * blocks + n) * 128 + j) * D);
          const auto t = static_cast<size_t>(j);
          const int64_t position =
              shape.sink_capacity + 128 * (first + n) + j + shape.position_shift;
          for (int c = 0; c < D; ++c) {
            const auto at = row + static_cast<size_t>(c);
            // Scale and offset are rounded to fp16, and so is the sum of the product.
            const double value_error = std::fabs(half_of(values[at]) - v.values[t][size_t(c)]);
            worst = larger(worst, value_error / (2 * kHalfUnit * v.sizes[t][size_t(c)]));
            // Of S = the sizes of both channels: u and v each by three roundings of their factors
            // and two of sums, together at most 3; sqrt(2) times that after R(j), of which cosine
            // and sine bring half a unit each, the product and the sum of sqrt(2) S one and 1.5
            // more: less than 8 units.
            const int p = c % (D / 2);
            const double angle = double(position) * std::pow(10000.0, -2.0 * p / D);
            const double a = k.values[t][size_t(p)], b = k.values[t][size_t(p + D / 2)];
            const double exact = c < D / 2 ? a * std::cos(angle) - b * std::sin(angle)
                                           : b * std::cos(angle) + a * std::sin(angle);
            const double size = k.sizes[t][size_t(p)] + k.sizes[t][size_t(p + D / 2)];
            worst =
                larger(worst, std::fabs(2 * half_of(keys[at]) - exact) / (8 * kHalfUnit * size));
          }
        }
      }
    }
    EXPECT_TRUE(worst <= 1) << worst << " times the tolerance: " << shape;
    worst_ratio_ = std::max(worst_ratio_, worst);
  }
  /// The larger, or NaN.
  static double larger(double worst, double x) { return !(x <= worst) ? x : worst; }

  struct Cut {
    int multiprocessors = 1;
    int most_blocks = 2, least_blocks = 1;
  };
  /// Attention by slices of a scenario, whose plan is returned.
  cuda::SlicePlan attend(Scenario& scenario, const Cut& cut, double* rounding = nullptr) {
    DeviceScenario on_device(device(), scenario);
    DeviceQueue queue(device(), cut.multiprocessors);
    const cuda::AttentionParams& p = on_device.params();
    const int D = p.head_dim;
    const size_t block_bytes = static_cast<size_t>(2 * p.kv_heads * 128 * D) * sizeof(uint16_t);
    const cuda::SlicePlan plan = cuda::plan_slices(
        queue, p, block_bytes * static_cast<size_t>(cut.most_blocks), cut.least_blocks);
    if (plan.blocks == 0) return plan;
    const cuda::AttentionParams rest = cuda::without_blocks(p, plan.blocks);
    const ptx::DeviceArray<uint16_t> queries(device(), plan.query_bytes() / sizeof(uint16_t));
    cuda::slice_queries(queue, p, plan, queries.data());
    const std::vector<uint16_t> q = queries.to_vector();
    const size_t bytes = cuda::attend_folding_workspace_bytes(queue, rest);
    const ptx::DeviceArray<uint8_t> workspace(device(), bytes);
    cuda::attend_folding(queue, rest, workspace.data(), bytes, [&](const auto& parts) {
      for (int first = 0, blocks = 0; first < plan.blocks; first += blocks) {
        blocks = plan.slice_at(first);
        const Slice slice(device(), p.kv_heads, blocks, D);
        cuda::expand_slice(queue, p, first, blocks, slice.keys.data(), slice.values.data());
        const Result result = library(plan, q, slice, blocks, p.scale * cuda::kSliceScale);
        if (rounding != nullptr) {
          *rounding =
              std::max(*rounding, kHalfUnit * (p.rotate_output ? result.longest : result.largest));
        }
        const ptx::DeviceArray<uint16_t> out(device(), result.out);
        const ptx::DeviceArray<float> sums(device(), result.log_sum_exp);
        cuda::FoldSliceParams fold;
        fold.out = out.data();
        fold.out_head_stride = int64_t{plan.rows} * D;
        fold.out_row_stride = D;
        fold.log_sum_exp = sums.data();
        fold.log_sum_exp_head_stride = plan.rows;
        fold.log_sum_exp_row_stride = 1;
        fold.parts = plan.parts;
        fold.rows = plan.rows;
        fold.head_dim = D;
        fold.part_out = parts.out;
        fold.part_max_sum = parts.max_sum;
        fold.part_stride = parts.stride;
        cuda::fold_slice(queue, fold, plan.kv_heads);
      }
    });
    on_device.download();
    return plan;
  }

  void check(const Shape& shape, const Cut& cut, int blocks_in_slices, int parts = 0) {
    Scenario scenario(shape);
    double rounding = 0;
    const cuda::SlicePlan plan = attend(scenario, cut, &rounding);
    ASSERT_EQ(plan.blocks, blocks_in_slices) << shape;
    if (parts > 0) {
      EXPECT_EQ(plan.parts, parts) << shape;
    }
    // As the fused kernels (cuda_attention_test.cpp), whose keys and values these are, and what
    // rounding a slice's result to fp16 costs: its weights are at most 1 in all, and a Hadamard
    // transform leaves the length of the error what it is.
    const double tiles = scenario.bfloat16_tolerance();
    const double fused =
        shape.dtype == Dtype::kBFloat16 ? tiles : tiles / 4 + scenario.float32_tolerance();
    const double error = scenario.error(), tolerance = fused + rounding;
    EXPECT_TRUE(error <= tolerance) << "error " << error << " > " << tolerance << ": " << shape;
    worst_ratio_ = std::max(worst_ratio_, error / tolerance);
  }

  void TearDown() override {
    RecordProperty("worst_error_over_tolerance", std::to_string(worst_ratio_));
  }

 private:
  struct Result {
    std::vector<uint16_t> out;       // [kv_heads * parts, rows, D]
    std::vector<float> log_sum_exp;  // [kv_heads * parts, rows]
    double largest = 0, longest = 0;
  };
  /// What a library does, in double: a part is a head.
  static Result library(const cuda::SlicePlan& plan, const std::vector<uint16_t>& q,
                        const Slice& slice, int blocks, double scale) {
    const auto keys = slice.keys.to_vector(), values = slice.values.to_vector();
    const auto D = static_cast<size_t>(plan.head_dim), rows = static_cast<size_t>(plan.rows);
    const size_t tokens = static_cast<size_t>(blocks * 128 / plan.parts);
    Result result;
    std::vector<double> weights(tokens), out(D);
    for (size_t head = 0; head < static_cast<size_t>(plan.kv_heads * plan.parts); ++head) {
      for (size_t r = 0; r < rows; ++r) {
        double most = -INFINITY, sum = 0, length = 0;
        for (size_t t = 0; t < tokens; ++t) {
          double score = 0;
          for (size_t c = 0; c < D; ++c) {
            score +=
                half_of(q[(head * rows + r) * D + c]) * half_of(keys[(head * tokens + t) * D + c]);
          }
          weights[t] = scale * score;
          most = std::max(most, weights[t]);
        }
        std::fill(out.begin(), out.end(), 0.0);
        for (size_t t = 0; t < tokens; ++t) {
          const double weight = std::exp(weights[t] - most);
          sum += weight;
          for (size_t c = 0; c < D; ++c) {
            out[c] += weight * half_of(values[(head * tokens + t) * D + c]);
          }
        }
        for (size_t c = 0; c < D; ++c) {
          const double x = out[c] / sum;
          result.out.push_back(reference::half_round(x, reference::Direction::kNearest));
          result.largest = std::max(result.largest, std::fabs(x));
          length += x * x;
        }
        result.longest = std::max(result.longest, std::sqrt(length));
        result.log_sum_exp.push_back(static_cast<float>(most + std::log(sum)));
      }
    }
    return result;
  }

  double worst_ratio_ = 0;
};

TEST_P(CudaSlices, SlicesAreThePackedBlocks) {
  under_every_order([&] {
    for (int head_dim : {64, 128}) {
      for (bool ema : {false, true}) {
        check_expansion({.heads = 2,
                         .kv_heads = 2,
                         .head_dim = head_dim,
                         .dtype = Dtype::kBFloat16,
                         .ema = ema,
                         .value_groups = head_dim / 64,
                         .blocks = 4,
                         .position_shift = 1000,
                         .seed = 200},
                        1, 2);
      }
    }
  });
}

TEST_P(CudaSlices, SlicesOfEveryWidth) {
  for (int head_dim : {64, 128}) {
    for (int width = 1; width <= 8; ++width) {
      check_expansion({.heads = 1,
                       .head_dim = head_dim,
                       .dtype = Dtype::kBFloat16,
                       .key_widths = {width},
                       .value_bits = std::max(2, width),
                       .value_groups = head_dim == 128 && width % 2 == 0 ? 2 : 1,
                       .blocks = 1,
                       .seed = 210},
                      0, 1);
    }
    // Any two widths of policy "ema", channels apart.
    for (int width = 2; width < 8; ++width) {
      check_expansion({.heads = 1,
                       .head_dim = head_dim,
                       .dtype = Dtype::kFloat16,
                       .ema = true,
                       .key_widths = {width, 8},
                       .blocks = 1,
                       .seed = 211},
                      0, 1);
    }
  }
}

/// A tolerance that no wrong code exceeds would be none.
TEST_P(CudaSlices, OneWrongCodeIsSeen) {
  const Shape shape = {.dtype = Dtype::kFloat16,
                       .key_widths = {4},
                       .sink_capacity = 0,
                       .sinks = 0,
                       .blocks = 1,
                       .tail = 0,
                       .queries = 40,
                       .query_deviation = 0.1,
                       .seed = 220};
  const size_t value_codes = 2 * 2 * 128, key_codes = (2 * 2 * 64 + 32 + 63) / 64 * 64;
  Scenario right(shape);
  const int D = shape.head_dim;
  for (bool keys : {false, true}) {
    Scenario wrong(shape);
    (keys ? wrong.key_block(0, 0)[key_codes] : wrong.value_block(0, 0)[value_codes]) ^= 8;
    int differ[2] = {};
    std::vector<uint16_t> slices[2][2];
    for (Scenario* scenario : {&right, &wrong}) {
      DeviceScenario on_device(device(), *scenario);
      DeviceQueue queue(device(), 1);
      const Slice slice(device(), 1, 1, D);
      cuda::expand_slice(queue, on_device.params(), 0, 1, slice.keys.data(), slice.values.data());
      slices[scenario == &wrong][0] = slice.keys.to_vector();
      slices[scenario == &wrong][1] = slice.values.to_vector();
    }
    for (int which : {0, 1}) {
      for (size_t i = 0; i < slices[0][which].size(); ++i) {
        const double change =
            std::fabs(half_of(slices[0][which][i]) - half_of(slices[1][which][i]));
        // Half of the code's eight steps, of sixteen that are at least 2 wide together.
        if (change > 0.05) ++differ[which];
      }
    }
    EXPECT_EQ(differ[0] > 0, keys);
    EXPECT_EQ(differ[1], keys ? 0 : 1);
  }
}

// Sinks, slices, a block left over, tail and chunk: every combination of dtype, head_dim and
// policy.
TEST_P(CudaSlices, AttentionIsTheWholeContexts) {
  under_every_order([&] {
    for (int head_dim : {64, 128}) {
      for (Dtype dtype : kFastDtypes) {
        for (bool ema : {false, true}) {
          check({.heads = 6,
                 .kv_heads = 2,
                 .head_dim = head_dim,
                 .dtype = dtype,
                 .ema = ema,
                 .key_widths = ema ? std::vector<int>{4, 8} : std::vector<int>{3, 4, 5, 8},
                 .value_groups = ema ? 1 : head_dim / 64,
                 .rotate_output = !ema,
                 .blocks = 3,
                 .tail = 37,
                 .queries = 23,
                 .position_shift = 300,
                 .seed = 230},
                {.multiprocessors = 5, .most_blocks = 2, .least_blocks = 2}, 2, 2);
        }
      }
    }
  });
}

// Slices of 4, 2 and 1 blocks, the last ones shorter than the first; and one slice for everything.
TEST_P(CudaSlices, ManySlicesAndOne) {
  const Shape shape = {.heads = 4,
                       .kv_heads = 2,
                       .dtype = Dtype::kBFloat16,
                       .key_widths = {4},
                       .rotate_output = true,
                       .blocks = 7,
                       .tail = 5,
                       .queries = 30,
                       .seed = 240};
  check(shape, {.most_blocks = 4, .least_blocks = 1}, 7, 1);
  check(shape, {.most_blocks = 1, .least_blocks = 1}, 7, 1);
  check(shape, {.most_blocks = 8, .least_blocks = 4}, 4);
  check(shape, {.most_blocks = 1, .least_blocks = 4}, 7, 1);  // less room than the smallest wants
}

TEST_P(CudaSlices, PartsOfASlice) {
  const Shape shape = {.heads = 2,
                       .head_dim = 128,
                       .dtype = Dtype::kFloat16,
                       .key_widths = {4},
                       .blocks = 8,
                       .queries = 33,
                       .seed = 250};
  for (const auto& [multiprocessors, parts] : {std::pair{1, 1}, {2, 2}, {7, 4}, {132, 8}}) {
    check(shape, {.multiprocessors = multiprocessors, .most_blocks = 8, .least_blocks = 8}, 8,
          parts);
  }
}

// Nothing but slices and the chunk, a chunk of many rows, one head, groups.
TEST_P(CudaSlices, PartsOfTheContextAlone) {
  for (int group : {1, 5}) {
    for (int queries : {33, 140}) {
      check({.heads = group,
             .dtype = Dtype::kBFloat16,
             .key_widths = {4},
             .sink_capacity = 0,
             .sinks = 0,
             .blocks = 2,
             .tail = 0,
             .queries = queries,
             .seed = 260},
            {.multiprocessors = 16}, 2);
    }
  }
}

// Under the stress protocol the last blocks hold the queries' own tokens: those that not every
// query sees are the fused kernel's, with their mask.
TEST_P(CudaSlices, StressProtocol) {
  for (bool ema : {false, true}) {
    const auto run = [&](int blocks, int queries, int provisional, int in_slices) {
      check({.heads = 2,
             .dtype = Dtype::kBFloat16,
             .ema = ema,
             .key_widths = {4, 8},
             .blocks = blocks,
             .queries = queries,
             .provisional = provisional,
             .seed = 270},
            {.multiprocessors = 4}, in_slices);
    };
    run(3, 200, 100, 1);
    run(2, 128, 128, 1);
    run(2, 129, 128, 1);  // the first query is the first block's last token
    run(3, 130, 128, 1);
    run(2, 40, 40, 1);
  }
}

// Large scores: sums far apart, in either direction.
TEST_P(CudaSlices, OneSliceOutweighsTheOthers) {
  for (double growth : {0.5, 2.0}) {
    check({.heads = 2,
           .dtype = Dtype::kFloat16,
           .key_widths = {4, 5},
           .blocks = 4,
           .queries = 40,
           .key_growth = growth,
           .seed = 280},
          {.most_blocks = 1}, 4);
  }
}

// Bounded whatever the context, and the size that it is said to be.
TEST_P(CudaSlices, ScratchIsBounded) {
  DeviceQueue queue(device(), 132);
  const auto plan_of = [&](int heads, int kv_heads, int head_dim, int64_t context) {
    cuda::AttentionParams p;
    p.heads = heads;
    p.kv_heads = kv_heads;
    p.head_dim = head_dim;
    p.dtype = Dtype::kBFloat16;
    p.query_count = 256;
    p.prefix.block_count = static_cast<int32_t>(context / 128);
    p.prefix.value_groups = head_dim / 64;
    p.prefix.sink_count = p.prefix.sink_capacity = 8;
    p.first_query_index = 8 + p.prefix.block_count * int64_t{128};
    p.chunk.count = 256;
    p.key_block_bytes = 4096;
    return cuda::plan_slices(queue, p);
  };
  for (int64_t context : {4096, 32768, 131072, 1 << 20}) {
    const cuda::SlicePlan plan = plan_of(32, 8, 128, context);
    EXPECT_EQ(plan.blocks, context / 128);
    EXPECT_EQ(plan.most_blocks, 32);
    EXPECT_EQ(plan.parts, 2);  // 8 heads of 1024 rows are 64 row tiles: 128 of 132 multiprocessors
    EXPECT_EQ(2 * plan.tile_bytes(), 16777216u);  // 16.8 MB
    EXPECT_LE(2 * plan.tile_bytes(), 17000000u);
    EXPECT_EQ(plan.query_bytes(), 4194304u);
  }
  for (const auto& [heads, kv_heads, head_dim] :
       {std::tuple{9, 3, 64}, {32, 32, 128}, {128, 128, 128}, {1, 1, 64}}) {
    const cuda::SlicePlan plan = plan_of(heads, kv_heads, head_dim, 1 << 20);
    EXPECT_LE(2 * plan.tile_bytes(), cuda::kMostSliceBytes) << heads;
    EXPECT_GT(4 * plan.tile_bytes(), cuda::kMostSliceBytes) << heads;
    // The slices, in order, are the blocks.
    int first = 0;
    while (first < plan.blocks) {
      const int blocks = plan.slice_at(first);
      ASSERT_GE(blocks, plan.least_blocks);
      ASSERT_LE(blocks, plan.most_blocks);
      first += blocks;
    }
    EXPECT_EQ(first, plan.blocks);
  }
  EXPECT_EQ(plan_of(32, 8, 128, 1023).blocks, 0);
  EXPECT_EQ(plan_of(32, 8, 128, 1024).blocks, 8);
  EXPECT_EQ(plan_of(32, 8, 128, 2047).blocks, 8);
}

// What the fused prefill kernels do not take has no slices.
TEST_P(CudaSlices, OtherShapesHaveNone) {
  const auto blocks_of = [&](const Shape& shape, int shared_limit = 163 * 1024) {
    Scenario scenario(shape);
    DeviceScenario on_device(device(), scenario);
    DeviceQueue queue(device(), 1);
    queue.set_shared_memory_limit(shared_limit);
    return cuda::plan_slices(queue, on_device.params(), size_t{1} << 24, 1).blocks;
  };
  const Shape good = {.dtype = Dtype::kBFloat16, .blocks = 2, .queries = 40, .seed = 290};
  EXPECT_EQ(blocks_of(good), 2);
  Shape shape = good;
  shape.queries = 10;  // decode's 30 rows
  EXPECT_EQ(blocks_of(shape), 0);
  shape = good;
  shape.dtype = Dtype::kFloat32;
  EXPECT_EQ(blocks_of(shape), 0);
  shape = good;
  shape.head_dim = 96;
  EXPECT_EQ(blocks_of(shape), 0);
  shape = good;
  shape.block_size = 64;
  EXPECT_EQ(blocks_of(shape), 0);
  shape = good;
  shape.blocks = 0;
  EXPECT_EQ(blocks_of(shape), 0);
  EXPECT_EQ(blocks_of(good, 40 * 1024), 0);
}

TEST_P(CudaSlices, FoldingRefusesWhatItCannotRead) {
  DeviceQueue queue(device(), 1);
  cuda::FoldSliceParams good;
  good.head_dim = 64;
  good.out_head_stride = good.out_row_stride = 64;
  EXPECT_NO_THROW(cuda::fold_slice(queue, good, 0));
  const auto refused = [&](auto change) {
    cuda::FoldSliceParams p = good;
    change(p);
    EXPECT_THROW(cuda::fold_slice(queue, p, 1), std::invalid_argument);
  };
  refused([](auto& p) { p.head_dim = 96; });
  refused([](auto& p) { p.parts = 3; });
  refused([](auto& p) { p.parts = 16; });
  refused([](auto& p) { p.parts = 0; });
  refused([](auto& p) { p.out_row_stride = 68; });
  refused([](auto& p) { p.out_head_stride = 4; });
  alignas(16) static constexpr uint16_t kRows[8] = {};
  refused([](auto& p) { p.out = kRows + 4; });
}

RILLKV_INSTANTIATE_FOR_EVERY_DEVICE(CudaSlices);

// ---- what the executor counts ----

/// Of one launch of each of the kernels: `blocks` blocks of one kv head, `queries` queries of four
/// heads, a slice in `parts`.
struct Counted {
  ptx::Report queries, expansion, fold;
};
Counted count(Shape shape, int blocks, int queries, int parts) {
  shape.heads = 4;
  shape.kv_heads = 1;
  shape.blocks = std::max(blocks, 1);
  shape.queries = queries;
  const auto device = make_executor(0, true);
  DeviceQueue queue(*device, 1);
  Scenario scenario(shape);
  DeviceScenario on_device(*device, scenario);
  const auto D = static_cast<size_t>(shape.head_dim), rows = static_cast<size_t>(4 * queries);
  const auto heads = static_cast<size_t>(parts);
  cuda::SlicePlan plan;
  plan.parts = parts;
  plan.rows = 4 * queries;
  plan.kv_heads = 1;
  plan.head_dim = shape.head_dim;
  const ptx::DeviceArray<uint16_t> q(*device, heads * rows * D), out(*device, heads * rows * D);
  const ptx::DeviceArray<float> part(*device, rows * D), sums(*device, rows * 2);
  const ptx::DeviceArray<float> log_sum_exp(*device, heads * rows);
  const Slice slice(*device, 1, blocks, shape.head_dim);
  cuda::slice_queries(queue, on_device.params(), plan, q.data());
  cuda::expand_slice(queue, on_device.params(), 0, blocks, slice.keys.data(), slice.values.data());
  cuda::FoldSliceParams fold;
  fold.out = out.data();
  fold.out_head_stride = static_cast<int64_t>(rows * D);
  fold.out_row_stride = shape.head_dim;
  fold.log_sum_exp = log_sum_exp.data();
  fold.log_sum_exp_head_stride = static_cast<int64_t>(rows);
  fold.log_sum_exp_row_stride = 1;
  fold.parts = parts;
  fold.rows = plan.rows;
  fold.head_dim = shape.head_dim;
  fold.part_out = part.data();
  fold.part_max_sum = sums.data();
  fold.part_stride = static_cast<int64_t>(rows);
  cuda::fold_slice(queue, fold, 1);
  return {device->reports().at(0), device->reports().at(1), device->reports().at(2)};
}

void expect_no_waste(const ptx::Report& report, const Shape& shape) {
  uint64_t sectors = 0;
  for (const ptx::SiteProfile& site : report.sites) {
    EXPECT_EQ(site.wavefronts, site.min_wavefronts) << site.source << ": " << shape;
    EXPECT_EQ(site.sectors, site.min_sectors) << site.source << ": " << shape;
    sectors += site.sectors;
  }
  EXPECT_GT(sectors, 0u);
}

TEST(CudaSliceProfile, NoBankConflictsAndNoWastedSectors) {
  for (Dtype dtype : kFastDtypes) {
    for (bool ema : {false, true}) {
      for (int head_dim : {64, 128}) {
        const Shape shape = {
            .head_dim = head_dim,
            .dtype = dtype,
            .ema = ema,
            .key_widths = ema ? std::vector<int>{4, 8} : std::vector<int>{1, 2, 3, 4, 5, 6, 7, 8},
            .value_groups = head_dim / 64,
            .seed = 5};
        const Counted counted = count(shape, 3, 32, 2);
        expect_no_waste(counted.queries, shape);
        expect_no_waste(counted.expansion, shape);
        expect_no_waste(counted.fold, shape);
      }
    }
  }
}

// What slice_model.h counts: preset balanced, whose widths are 4 or 5 bits for most channels.
TEST(CudaSliceProfile, InstructionsAreThoseOfTheModel) {
  const auto expect_near = [](uint64_t counted, double model, const std::string& what) {
    // Another nvcc may emit a few more or less.
    EXPECT_NEAR(static_cast<double>(counted), model, 0.05 * model) << what;
  };
  for (int head_dim : {64, 128}) {
    const Shape shape = {.head_dim = head_dim,
                         .dtype = Dtype::kBFloat16,
                         .key_widths = {4, 4, 4, 5},
                         .equal_shares = true,
                         .value_groups = head_dim / 64,
                         .seed = 5};
    const Counted few = count(shape, 2, 32, 2), many = count(shape, 6, 64, 2);
    const std::string of = " at head_dim " + std::to_string(head_dim);
    expect_near((many.expansion.warp_instructions - few.expansion.warp_instructions) / 4,
                bench::instructions_a_block(head_dim), "expansion of a block" + of);
    const double rows = 4 * 32;
    expect_near(many.queries.warp_instructions - few.queries.warp_instructions,
                rows * bench::instructions_a_query_row(head_dim), "queries" + of);
    expect_near(many.fold.warp_instructions - few.fold.warp_instructions,
                rows * bench::instructions_a_folded_row(head_dim, 2), "fold" + of);
    const Counted in_8_parts = count(shape, 2, 32, 8);
    expect_near(in_8_parts.fold.warp_instructions,
                rows * bench::instructions_a_folded_row(head_dim, 8), "fold of 8 parts" + of);
  }
}

// Printed for benchmarks/performance_model.md.
TEST(CudaSliceModel, Predictions) {
  const bench::Gpu gpu = bench::h100();
  for (const int cached : {4096, 32768, 131072}) {
    const auto p = bench::slice_model_params(32, 8, 128, 256, cached);
    const bench::Prediction fused = bench::predict(gpu, p, bench::model_cache_bytes(p));
    for (const double flops : {bench::kFlashFlops, bench::kCudnnFlops}) {
      const bench::SlicePrediction r = bench::predict_slices(gpu, p, flops);
      std::printf(
          "%6d tokens, library at %.0f TFLOP/s: fused %.1f us; %d slices of %d parts %.1f us: "
          "expand %.1f, library %.1f, fold %.1f, rest %.1f, gaps %.1f\n",
          cached, flops / 1e12, 1e6 * fused.expected_s(), r.slices, r.parts, 1e6 * r.expected_s(),
          1e6 * r.expand_s, 1e6 * r.library_s, 1e6 * r.fold_s, 1e6 * r.rest_s, 1e6 * r.launches_s);
      EXPECT_TRUE(r.expected_s() > 0 && r.expected_s() < 1);
      EXPECT_EQ(r.parts, 2);
      EXPECT_GE(r.slices, cached / 4096 - 1);
    }
  }
}

}  // namespace
}  // namespace rillkv::test
