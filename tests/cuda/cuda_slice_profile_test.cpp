// Attention by slices as the executor counts it: nothing wasted, and the instructions that
// benchmarks/slice_model.h goes by.
#include <algorithm>
#include <cstdio>
#include <string>

#include "benchmarks/slice_model.h"
#include "tests/cuda/slice_fixture.h"

namespace rillkv::test {
namespace {

namespace cuda = kernels::cuda;

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
  const cuda::AttentionParts parts_out = {part.data(), sums.data(), static_cast<int64_t>(rows)};
  cuda::fold_slice(queue, fold_params(out, log_sum_exp, plan, parts_out), 1);
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

TEST(CudaSliceProfile, TrellisBlocksHaveNoBankConflictsAndWasteNoSectors) {
  for (int head_dim : {64, 128}) {
    for (int width = 1; width < 7; ++width) {
      const Shape shape = {.head_dim = head_dim,
                           .dtype = Dtype::kFloat16,
                           .trellis = true,
                           .key_widths = {1, 2, 3, 4, 5, 6, 7},
                           .value_width = width,
                           .value_wide_pairs = head_dim / 2 - 9,
                           .seed = 6};
      expect_no_waste(count(shape, 2, 32, 2).expansion, shape);
    }
  }
}

// What slice_model.h counts: preset balanced, whose widths are 4 or 5 bits for most channels; and
// the expansion of balanced-trellis.
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
    Shape trellis = shape;
    trellis.trellis = true;
    trellis.key_widths = {3, 4, 4, 4, 4, 4, 4, 5};
    trellis.value_wide_pairs = head_dim / 2 * 5 / 8;
    expect_near((count(trellis, 6, 32, 2).expansion.warp_instructions -
                 count(trellis, 2, 32, 2).expansion.warp_instructions) /
                    4,
                bench::instructions_a_block(head_dim, true), "expansion of a trellis block" + of);
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
