// The launches use the threads and the shared memory that the resource budget records; what ptxas
// says of the entries is compared with it by cmake/checks/cuda_resources.cmake.
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <sstream>

#include "kernels/cuda/ingest.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/model_ops.h"
#include "kernels/cuda/slices.h"
#include "kernels/packed_format.h"

namespace rillkv::test {
namespace {

namespace cuda = kernels::cuda;
using kernels::Dtype;

struct Use {
  uint32_t threads = 0;
  size_t shared = 0;
};

/// Keeps what is launched and runs nothing.
class RecordingQueue final : public cuda::Queue {
 public:
  void launch(const cuda::Launch& launch) override {
    uses[launch.entry] = {launch.threads, launch.shared_bytes};
  }
  int multiprocessors() const override { return 1; }
  int shared_memory_limit() const override { return 99 * 1024; }  // the least of sm_80 to sm_120

  std::map<std::string, Use> uses;
};

/// Sequences that fast paths over trellis blocks take, and how many queries.
constexpr int kTrellisQueries[] = {256};
cuda::AttentionParams trellis_shape(int head_dim, Dtype dtype) {
  cuda::AttentionParams p;
  p.heads = p.kv_heads = 1;
  p.head_dim = head_dim;
  p.dtype = dtype;
  p.prefix.block_count = 4;
  p.prefix.trellis = true;
  p.prefix.value_width = 4;
  p.prefix.value_wide_pairs = head_dim / 2 * 5 / 8;
  p.key_block_bytes =
      static_cast<int32_t>(format::trellis_key_bytes(head_dim, 128, head_dim * 65 / 16));
  return p;
}

/// Launches every entry at block_size 128 with the shapes of presets balanced and balanced-trellis.
std::map<std::string, Use> launched() {
  RecordingQueue queue;
  alignas(256) static uint8_t unused = 0;  // a workspace that nothing writes to
  for (int head_dim : {64, 128}) {
    for (auto dtype : {kernels::Dtype::kBFloat16, kernels::Dtype::kFloat16}) {
      for (int queries : {1, 256}) {
        kernels::cuda::AttentionParams p;
        p.heads = p.kv_heads = 1;
        p.head_dim = head_dim;
        p.dtype = dtype;
        p.query_count = queries;
        p.prefix.block_count = 4;
        p.prefix.value_groups = head_dim / 64;
        p.key_block_bytes = static_cast<int32_t>(
            format::channel_block_bytes(head_dim, 128, false, head_dim * 17 / 4));
        cuda::attend(queue, &p, 1, &unused, size_t{1} << 30);
      }
    }
  }
  // Preset balanced-trellis.
  for (int head_dim : {64, 128}) {
    for (auto dtype : {kernels::Dtype::kBFloat16, kernels::Dtype::kFloat16}) {
      kernels::cuda::AttentionParams p;
      p.heads = p.kv_heads = 1;
      p.head_dim = head_dim;
      p.dtype = dtype;
      p.query_count = 1;
      p.prefix.block_count = 4;
      p.prefix.trellis = true;
      p.prefix.value_wide_pairs = 5 * head_dim / 16;
      p.key_block_bytes =
          static_cast<int32_t>(format::trellis_key_bytes(head_dim, 128, head_dim * 65 / 16));
      cuda::attend(queue, &p, 1, &unused, size_t{1} << 30);
    }
  }
  for (int head_dim : {64, 128}) {
    kernels::cuda::AttentionParams p = trellis_shape(head_dim, Dtype::kBFloat16);
    for (auto dtype : {Dtype::kBFloat16, Dtype::kFloat16}) {
      for (int queries : kTrellisQueries) {
        p.dtype = dtype;
        p.query_count = queries;
        cuda::attend(queue, &p, 1, &unused, size_t{1} << 30);
      }
    }
    cuda::expand_slice(queue, p, 0, 4, nullptr, nullptr);
  }
  for (int head_dim : {64, 128}) {
    kernels::cuda::AttentionParams p;
    p.heads = p.kv_heads = 1;
    p.head_dim = head_dim;
    p.dtype = kernels::Dtype::kBFloat16;
    p.query_count = 256;
    p.prefix.value_groups = head_dim / 64;
    p.key_block_bytes =
        static_cast<int32_t>(format::channel_block_bytes(head_dim, 128, false, head_dim * 17 / 4));
    cuda::SlicePlan slices;
    slices.rows = 256;
    slices.kv_heads = 1;
    slices.head_dim = head_dim;
    cuda::slice_queries(queue, p, slices, nullptr);
    cuda::expand_slice(queue, p, 0, 4, nullptr, nullptr);
    cuda::FoldSliceParams fold;
    fold.rows = 256;
    fold.head_dim = head_dim;
    cuda::fold_slice(queue, fold, 1);
  }
  kernels::cuda::AttentionParams generic;
  generic.heads = generic.kv_heads = 1;
  generic.head_dim = 128;
  generic.query_count = 1;
  cuda::attend(queue, &generic, 1, nullptr, 0);

  for (auto dtype :
       {kernels::Dtype::kBFloat16, kernels::Dtype::kFloat16, kernels::Dtype::kFloat32}) {
    cuda::IngestParams ingest;
    ingest.dtype = dtype;
    ingest.heads = 4;
    ingest.kv_heads = ingest.tokens = 1;
    ingest.head_dim = 128;
    cuda::ingest(queue, ingest, 1);
    cuda::PackParams pack;
    pack.dtype = dtype;
    pack.kv_heads = pack.blocks = 1;
    pack.head_dim = pack.tokens = 128;
    cuda::pack(queue, pack);
    ingest.error_feedback = pack.error_feedback = 1;
    cuda::ingest(queue, ingest, 1);
    cuda::pack(queue, pack);
    pack.trellis = pack.class_count = 1;
    pack.classes[0] = 4;
    cuda::pack(queue, pack);
  }

  cuda::BlockPackParams block;
  block.tokens = block.block_size = 128;
  block.head_dim = 128;
  cuda::pack_channels_symmetric(queue, {.block = block}, 1);
  cuda::pack_sinks(queue, {.block = block}, 1);
  cuda::RotateParams rotation;
  rotation.tokens = rotation.heads = 1;
  rotation.head_dim = 128;
  cuda::rope(queue, rotation);
  cuda::hadamard(queue, rotation);
  cuda::dequantise(queue, {.tokens = 128, .head_dim = 128}, 1);

  for (Dtype dtype : {Dtype::kBFloat16, Dtype::kFloat16, Dtype::kFloat32}) {
    cuda::rms_norm(queue, {.rows = 1, .columns = 4096, .dtype = dtype});
    cuda::gate(queue, {.rows = 1, .columns = 4096, .dtype = dtype});
  }
  cuda::embed(queue, {.rows = 1, .columns = 4096});
  const int32_t id = 0;
  cuda::set_ids(queue, &id, 1, nullptr);
  const cuda::SequenceStep step;
  cuda::begin_pass(queue, {.head_dim = 128}, &step, &id, 1);
  cuda::rope_rows(queue, {.count = 1, .head_dim = 128});
  return queue.uses;
}

TEST(CudaBudgetTest, LaunchesUseWhatTheBudgetRecords) {
  std::map<std::string, Use> uses = launched();
  std::ifstream file(RILLKV_CUDA_BUDGET);
  ASSERT_TRUE(file.is_open());
  for (std::string line; std::getline(file, line);) {
    if (line.empty() || line[0] == '#') continue;
    std::istringstream fields(line);
    std::string entry;
    int registers = 0;
    Use budget;
    ASSERT_TRUE(fields >> entry >> registers >> budget.threads >> budget.shared) << line;
    ASSERT_EQ(uses.count(entry), 1u) << entry << " is not launched";
    EXPECT_EQ(uses[entry].threads, budget.threads) << entry;
    EXPECT_EQ(uses[entry].shared, budget.shared) << entry;
    uses.erase(entry);
  }
  for (const auto& [entry, use] : uses) ADD_FAILURE() << entry << " is not in the budget";
}

}  // namespace
}  // namespace rillkv::test
