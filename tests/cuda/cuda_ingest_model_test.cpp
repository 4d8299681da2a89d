// What benchmarks/ingest_model.h counts, against the executor; and its estimate.
#include <cstdio>

#include "benchmarks/ingest_model.h"
#include "kernels/cuda/ingest.h"
#include "kernels/cuda/shared_layout.h"
#include "tests/cuda/ingest_oracle.h"
#include "tests/cuda/pack_scenario.h"

namespace rillkv::test {
namespace {

namespace cuda = kernels::cuda;

constexpr bench::IngestShape kShapes[] = {{32, 8, 128}, {9, 3, 64}};
constexpr int kTokens = 256, kBlocks = 2, kBlockSize = 128;

/// Launches the first CTAs of x and z only.
class FirstCtasQueue final : public cuda::Queue {
 public:
  FirstCtasQueue(DeviceQueue& queue, int x, int z) : queue_(queue), x_(x), z_(z) {}
  void launch(const cuda::Launch& launch) override {
    cuda::Launch fewer = launch;
    fewer.grid[0] = static_cast<uint32_t>(x_);
    fewer.grid[2] = static_cast<uint32_t>(z_);
    queue_.launch(fewer);
  }
  int multiprocessors() const override { return queue_.multiprocessors(); }
  int shared_memory_limit() const override { return queue_.shared_memory_limit(); }

 private:
  DeviceQueue& queue_;
  int x_, z_;
};

/// Warp instructions of the first `x` CTAs of an ingest of a chunk.
uint64_t ingest_instructions(const bench::IngestShape& shape, int x) {
  const auto device = make_executor(0, true);
  DeviceQueue all(*device, 1);
  FirstCtasQueue queue(all, x, 1);
  FusedChunk chunk(Dtype::kBFloat16, kTokens, shape.heads, shape.kv_heads, shape.head_dim, 0, 1);
  const int kv = shape.kv_heads * shape.head_dim;
  const ptx::DeviceArray<uint8_t> data(*device, chunk.bytes);
  const ptx::DeviceArray<uint8_t> rotated(*device, static_cast<size_t>(2 * kTokens * kv));
  const auto zeros = [&](int count) { return std::vector<float>(static_cast<size_t>(count), 0); };
  const ptx::DeviceArray<float> sums(*device, zeros(shape.heads * shape.head_dim));
  const ptx::DeviceArray<float> ema(*device, zeros(kv)), energies(*device, zeros(kBlocks * kv));
  const ptx::DeviceArray<unsigned long long> error(*device, std::vector<unsigned long long>{0});
  const auto slice = [&](int offset) {
    return kernels::Activation{data.data() + 2 * offset, chunk.stride(), shape.head_dim};
  };
  cuda::IngestParams p;
  p.queries = slice(0);
  p.keys = slice(chunk.key_offset());
  p.values = slice(chunk.value_offset());
  p.rotated = {rotated.data(), kv, shape.head_dim};
  p.dtype = Dtype::kBFloat16;
  p.heads = shape.heads;
  p.kv_heads = shape.kv_heads;
  p.head_dim = shape.head_dim;
  p.tokens = kTokens;
  p.rotate_values = 1;
  p.error = error.data();
  p.keep = 0.9f;
  p.take = 0.1f;
  p.energy_sums = sums.data();
  p.energy_ema = ema.data();
  p.energies = energies.data();
  cuda::ingest(queue, p, 1);
  return device->reports().at(0).warp_instructions;
}

/// Of the CTAs of a pack with z below `z`, of one kv head and kBlocks blocks.
uint64_t pack_instructions(const bench::IngestShape& shape, int z) {
  const auto device = make_executor(0, true);
  DeviceQueue all(*device, 1);
  FirstCtasQueue queue(all, 1, z);
  const PackScenario scenario(*device, Dtype::kBFloat16, shape.head_dim, kBlockSize, kBlocks);
  cuda::pack(queue, scenario.params());
  return device->reports().at(0).warp_instructions;
}

TEST(CudaIngestModelTest, InstructionsAreThoseOfTheModel) {
  const auto expect_near = [](uint64_t counted, double model, const std::string& what) {
    // Another nvcc may emit a few more or less.
    EXPECT_NEAR(static_cast<double>(counted), model, 0.05 * model) << what;
  };
  for (const bench::IngestShape& shape : kShapes) {
    cuda::IngestParams p;
    p.heads = shape.heads;
    p.kv_heads = shape.kv_heads;
    p.head_dim = shape.head_dim;
    p.tokens = shape.tokens;
    float sums = 0;
    p.energy_sums = &sums;
    const cuda::IngestGrid grid(p);
    const uint64_t queries = ingest_instructions(shape, grid.query_ctas);
    const uint64_t keys = ingest_instructions(shape, grid.query_ctas + grid.row_ctas) - queries;
    const uint64_t values = ingest_instructions(shape, grid.ctas()) - queries - keys;
    const uint64_t key_blocks = pack_instructions(shape, 1);
    const int slabs = shape.block_size / cuda::kPackBlockRows;
    const uint64_t value_rows = pack_instructions(shape, 1 + slabs) - key_blocks;
    const std::string of = " at head_dim " + std::to_string(shape.head_dim);
    const auto rows = static_cast<unsigned>(grid.row_ctas);
    const auto blocks = static_cast<unsigned>(shape.blocks());
    expect_near(queries / static_cast<unsigned>(grid.query_ctas),
                bench::instructions_of_query_cta(shape), "queries" + of);
    expect_near(keys / rows, bench::instructions_of_key_cta(shape), "keys" + of);
    expect_near(values / rows, bench::instructions_of_value_cta(shape), "values" + of);
    expect_near(key_blocks / blocks, bench::instructions_of_key_block(shape), "key block" + of);
    expect_near(value_rows / (blocks * static_cast<unsigned>(slabs)),
                bench::instructions_of_value_rows(shape), "rows of a value block" + of);
  }
}

// Printed for benchmarks/performance_model.md.
TEST(CudaIngestModelTest, Estimate) {
  for (const bench::IngestShape& shape : kShapes) {
    const bench::IngestEstimate e = bench::estimate_ingest(bench::h100(), shape);
    std::printf(
        "%d/%d/%d, %d tokens, H100: ingest %.1f us (issue %.1f, bytes %.1f, chain %.1f), pack %.1f "
        "us (issue %.1f, bytes %.1f, chain %.1f), launches %.1f: %.1f us a layer\n",
        shape.heads, shape.kv_heads, shape.head_dim, shape.tokens, 1e6 * e.ingest_s(),
        1e6 * e.ingest_issue_s, 1e6 * e.ingest_bytes_s, 1e6 * e.ingest_chain_s, 1e6 * e.pack_s(),
        1e6 * e.pack_issue_s, 1e6 * e.pack_bytes_s, 1e6 * e.pack_chain_s, 1e6 * e.launches_s,
        1e6 * e.expected_s());
    EXPECT_TRUE(e.expected_s() > 0 && e.expected_s() < 1e-3);
    const auto pack_us = [&](bench::Coder coder) {
      return 1e6 * bench::estimate_ingest(bench::h100(), shape, coder).pack_s();
    };
    const double feedback = pack_us(bench::Coder::kFeedback);
    const double trellis = pack_us(bench::Coder::kTrellis);
    std::printf("  packing with error feedback %.1f us, of policy trellis %.1f us\n", feedback,
                trellis);
    EXPECT_TRUE(1e6 * e.pack_s() < feedback && feedback < trellis);
  }
  const bench::IngestShape& shape = kShapes[0];
  const double ingest = bench::estimate_ingest(bench::h100(), shape).expected_s();
  const double linear = bench::linear_seconds(shape, 4096, 14336);
  for (int cached : {4096, 32768}) {
    const auto params =
        bench::model_params(shape.heads, shape.kv_heads, shape.head_dim, shape.tokens, cached);
    const double attention =
        bench::predict(bench::h100(), params, bench::model_cache_bytes(params)).expected_s();
    const double share = ingest / (ingest + attention + linear);
    std::printf(
        "%d cached: %.1f %% of a layer's prefill with attention of %.0f us and linear layers of "
        "%.0f us\n",
        cached, 100 * share, 1e6 * attention, 1e6 * linear);
  }
  EXPECT_LE(ingest, 10e-6);
}

}  // namespace
}  // namespace rillkv::test
