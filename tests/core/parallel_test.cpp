// The templates over the pool: how work is divided, and when it stays on one thread.
#include "core/parallel.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace rillkv {
namespace {

/// at::set_num_threads for a test.
class Threads {
 public:
  explicit Threads(int threads) { at::set_num_threads(threads); }
  ~Threads() { at::set_num_threads(before_); }

 private:
  const int before_ = at::get_num_threads();
};

/// Runs on Torch's threads, then on the library's own.
class Parallel : public ::testing::TestWithParam<bool> {
 private:
  const LoopThreads threads_{GetParam()};
};
INSTANTIATE_TEST_SUITE_P(Threads, Parallel, ::testing::Bool(), [](const auto& info) {
  return std::string(info.param ? "Own" : "Torchs");
});

TEST_P(Parallel, TwoThreadsReallyRun) {
  const Threads set(2);
  // Each task waits until the other has started: a serial loop would never see two.
  std::atomic<int> started{0};
  std::atomic<bool> together{false};
  parallel_tasks(2, [&](int64_t) {
    ++started;
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (started < 2 && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
    if (started == 2) together = true;
  });
  EXPECT_TRUE(together);
}

TEST_P(Parallel, EveryIndexOnce) {
  const Threads set(3);
  std::vector<std::atomic<int>> calls(1000);
  parallel_tasks(1000, [&](int64_t i) { ++calls[static_cast<size_t>(i)]; });
  for (const auto& count : calls) EXPECT_EQ(count, 1);
  parallel_tasks(0, [&](int64_t) { FAIL(); });
}

TEST_P(Parallel, ExceptionsReachTheCaller) {
  const Threads set(2);
  EXPECT_THROW(parallel_tasks(100,
                              [](int64_t i) {
                                if (i == 57) throw std::runtime_error("57");
                              }),
               std::runtime_error);
}

TEST_P(Parallel, RunsCoverTheRowsOnce) {
  for (const int threads : {1, 2, 3, 8}) {
    const Threads set(threads);
    for (const int64_t grain : {1, 3, 16, 1000}) {
      for (const int64_t rows : {0, 1, 2, 15, 16, 17, 100, 1001}) {
        std::vector<int> calls(static_cast<size_t>(rows));
        std::atomic<int64_t> runs{0}, short_runs{0};
        parallel_rows(rows, grain, [&](int64_t begin, int64_t end) {
          ++runs;
          if (end - begin < grain) ++short_runs;
          for (int64_t i = begin; i < end; ++i) ++calls[static_cast<size_t>(i)];
        });
        EXPECT_EQ(calls, std::vector<int>(static_cast<size_t>(rows), 1));
        EXPECT_LE(runs, std::max<int64_t>(1, 4 * threads)) << rows << " rows, grain " << grain;
        EXPECT_LE(short_runs, 1);
      }
    }
  }
}

TEST_P(Parallel, FollowsTorchsNumberOfThreads) {
  const Threads set(1);
  const std::thread::id caller = std::this_thread::get_id();
  parallel_tasks(100, [&](int64_t) { EXPECT_EQ(std::this_thread::get_id(), caller); });
  parallel_rows(100, 1, [&](int64_t, int64_t) { EXPECT_EQ(std::this_thread::get_id(), caller); });
}

TEST_P(Parallel, SerialInsideARegionOfTorchs) {
  const Threads set(2);
  std::atomic<int> calls{0};
  at::parallel_for(0, 2, 1, [&](int64_t begin, int64_t end) {
    const LoopThreads mine(GetParam());  // it is a thread's own setting
    const std::thread::id outer = std::this_thread::get_id();
    for (int64_t i = begin; i < end; ++i) {
      parallel_tasks(10, [&](int64_t) {
        EXPECT_EQ(std::this_thread::get_id(), outer);
        ++calls;
      });
    }
  });
  EXPECT_EQ(calls, 20);
}

TEST(LoopThreads, NestAndEnd) {
  EXPECT_FALSE(LoopThreads::own());
  {
    const LoopThreads own(true);
    EXPECT_TRUE(LoopThreads::own());
    {
      const LoopThreads torchs(false);
      EXPECT_FALSE(LoopThreads::own());
    }
    EXPECT_TRUE(LoopThreads::own());
    std::thread([] { EXPECT_FALSE(LoopThreads::own()); }).join();
  }
  EXPECT_FALSE(LoopThreads::own());
}

}  // namespace
}  // namespace rillkv
