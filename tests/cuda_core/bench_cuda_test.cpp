// What bench_cuda runs on a GPU, on the executor: its inputs arrive there complete and are computed
// right, so that the first to have a GPU can trust the figures.
#include "benchmarks/cuda_steps.h"
#include "benchmarks/cuda_works.h"
#include "benchmarks/launch_model.h"
#include "tests/cuda_core/cuda_fixture.h"

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
