// What bench_cuda runs on a GPU, on the executor: its inputs arrive there complete and are computed
// right, so that the first to have a GPU can trust the figures.
#include <cstdlib>
#include <memory>

#include "benchmarks/counting_backend.h"
#include "benchmarks/cuda_model.h"
#include "benchmarks/cuda_steps.h"
#include "benchmarks/cuda_works.h"
#include "benchmarks/launch_model.h"
#include "tests/cuda_core/cuda_fixture.h"
#include "tests/support/random_llama.h"

namespace rillkv::testing {
namespace {

constexpr bench::Shape kShapes[] = {{3, 1, 64}, {2, 1, 128}};

void expect_right(const bench::Work& work, CudaBackend& backend) {
  SCOPED_TRACE(work.name);
  work.run(backend.queue());
  const double error = work.error();
  EXPECT_TRUE(error <= work.allowed) << error;
  EXPECT_GE(work.bytes, 0);
}

TEST(BenchCuda, ChunksAreTakenInRight) {
  const auto backend = make_executor_backend(1);
  for (const bench::Shape& shape : kShapes) {
    expect_right(bench::ingest_work(shape, 256, backend->device()), *backend);
    expect_right(bench::pack_work(shape, 256, backend->device()), *backend);
  }
}

TEST(BenchCuda, ABatchIsDecodedRightByValueAndBySteps) {
  const auto backend = make_executor_backend(1);
  for (const bench::Shape& shape : kShapes) {
    for (const int count : {1, 7}) {  // one launch, and two by value
      for (const bench::Work& work : bench::decode_works(shape, 300, count, *backend)) {
        expect_right(work, *backend);
      }
    }
  }
}

TEST(BenchCuda, AModelsOwnKernelsAreComputedRight) {
  const auto backend = make_executor_backend(1);
  const at::Device device = backend->device();
  for (const int rows : {1, 5}) {
    expect_right(bench::norm_work(rows, 576, device), *backend);
    expect_right(bench::gate_work(rows, 1536, device), *backend);
    expect_right(bench::embed_work(rows, 100, 576, device), *backend);
  }
  for (const int count : {1, 60}) {  // one launch, and two
    expect_right(bench::begin_pass_work(kShapes[0], count, device), *backend);
  }
}

/// As the executor's back end counts by itself.
bench::Traffic as_counted(const DeviceTraffic& t) {
  return {.launches = t.launches,
          .captures = t.captures,
          .replays = t.replays,
          .uploads = t.uploads,
          .downloads = t.downloads,
          .waits = t.waits};
}

TEST(BenchCuda, AModelsLaunchesCopiesAndWaitsAreReported) {
  const auto executor = make_executor_backend(0);
  const auto backend = std::make_shared<bench::CountingBackend>(executor);
  ModelConfig config;
  config.vocab_size = 64;
  config.hidden_size = config.intermediate_size = 64;
  config.num_hidden_layers = 3;
  config.num_attention_heads = 2;
  config.num_key_value_heads = 1;
  config.head_dim = 64;
  config.tie_word_embeddings = true;
  LlamaModel model(config, at::kBFloat16);
  model->load_weights(random_llama("three", config));
  ModelAccess::use(*model, backend);
  for (const char* graphs : {"0", "1"}) {
    setenv("RILLKV_CUDA_GRAPHS", graphs, 1);
    for (const int64_t batch : {1, 2}) {
      const auto result = bench::time_model_at(
          model, CompressionConfig::preset("balanced"),
          {.depth = 20, .batch = batch, .prompt = 30, .tokens = 4, .untimed = 2}, *backend);
      // The same counts as those of the device that did the work.
      EXPECT_EQ(backend->traffic().json(), as_counted(traffic(*executor)).json());
      const auto& token = result.at("token_did");
      EXPECT_EQ(token.at("waits"), 1);
      EXPECT_EQ(token.at("uploads"), 0);
      EXPECT_EQ(token.at("downloads"), 1 + batch);  // logits, and an error word of each
      EXPECT_EQ(token.at("graph_captures"), 0);     // of the second token
      const bool replayed = *graphs == '1';
      EXPECT_EQ(token.at("graph_replays"), replayed ? 1 : 0);
      if (replayed) {
        EXPECT_EQ(token.at("launches"), 1);  // where the sequences are
      } else {
        // And the embedding, last norm and head; a layer has two norms, four products, the gate,
        // ingest and attention, with a merge where it is split.
        EXPECT_GE(token.at("launches"), 4 + 3 * 9);
        EXPECT_LE(token.at("launches"), 4 + 3 * 10);
      }
      EXPECT_GT(result.at("prompt_did").at("launches"), 3 * 9);
      EXPECT_GE(result.at("prompt_did").at("waits"), 1);
    }
  }
  unsetenv("RILLKV_CUDA_GRAPHS");
}

// A work that computes something else must not pass: the sums of a wrong answer are seen.
TEST(BenchCuda, AWrongResultIsSeen) {
  const auto backend = make_executor_backend(1);
  const bench::Work work = bench::norm_work(2, 576, backend->device());
  EXPECT_FALSE(work.error() <= work.allowed);  // nothing has run
}

TEST(BenchCuda, AGraphIsNeverExpectedToBeSlower) {
  for (const int launches : {1, 350, 1150}) {
    EXPECT_LE(bench::graph_token_seconds(launches, 1, 1e-3),
              bench::eager_token_seconds(launches, 1, 1e-3));
  }
}

}  // namespace
}  // namespace rillkv::testing
