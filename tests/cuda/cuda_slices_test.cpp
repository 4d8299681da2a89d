// Attention by slices: all of it, with a library written here, against naive attention in double;
// how slices are cut, and what folding refuses.
#include <cmath>

#include "tests/cuda/slice_fixture.h"

namespace rillkv::test {
namespace {

namespace cuda = kernels::cuda;

class CudaSlices : public ToleranceTest {
 protected:
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
        cuda::fold_slice(queue, fold_params(out, sums, plan, parts), plan.kv_heads);
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
    took(error / tolerance);
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
};

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

TEST_P(CudaSlices, TrellisBlocks) {
  for (int head_dim : {64, 128}) {
    for (Dtype dtype : kFastDtypes) {
      check({.heads = 6,
             .kv_heads = 2,
             .head_dim = head_dim,
             .dtype = dtype,
             .trellis = true,
             .key_widths = {1, 3, 4, 5, 7},
             .value_wide_pairs = head_dim / 4 + 1,
             .rotate_output = true,
             .blocks = 3,
             .tail = 37,
             .queries = 23,
             .position_shift = 300,
             .seed = 235},
            {.multiprocessors = 5, .most_blocks = 2, .least_blocks = 2}, 2, 2);
    }
  }
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

}  // namespace
}  // namespace rillkv::test
