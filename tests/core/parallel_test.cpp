// at::parallel_for is silently serial in a file compiled without -fopenmp.
#include "core/parallel.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <set>
#include <thread>

namespace rillkv {
namespace {

TEST(ParallelTasks, TwoThreadsReallyRun) {
  const int before = at::get_num_threads();
  at::set_num_threads(2);
  // Each task waits until the other has started: a serial loop would never see two.
  std::atomic<int> started{0};
  std::atomic<bool> together{false};
  parallel_tasks(2, [&](int64_t) {
    ++started;
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (started < 2 && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
    if (started == 2) together = true;
  });
  at::set_num_threads(before);
  EXPECT_TRUE(together);
}

TEST(ParallelTasks, EveryIndexOnce) {
  std::vector<std::atomic<int>> calls(1000);
  parallel_tasks(1000, [&](int64_t i) { ++calls[i]; });
  for (const auto& count : calls) EXPECT_EQ(count, 1);
  parallel_tasks(0, [&](int64_t) { FAIL(); });
}

TEST(ParallelTasks, ExceptionsReachTheCaller) {
  EXPECT_THROW(parallel_tasks(100,
                              [](int64_t i) {
                                if (i == 57) throw std::runtime_error("57");
                              }),
               std::runtime_error);
}

}  // namespace
}  // namespace rillkv
