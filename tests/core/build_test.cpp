// What the build system promises: Torch is linked, and parallel code is.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <mutex>
#include <set>
#include <string>
#include <thread>

#include "rillkv/version.h"

namespace {

TEST(Build, LibraryHasAVersion) {
  EXPECT_EQ(std::string(rillkv::version()).find_first_not_of("0123456789."), std::string::npos);
}

// at::parallel_for is inline and silently serial in a file compiled without -fopenmp.
TEST(Build, ParallelForRunsOnTwoThreads) {
  const int before = at::get_num_threads();
  at::set_num_threads(2);
  std::mutex mutex;
  std::set<std::thread::id> threads;
  at::parallel_for(0, 2, 1, [&](int64_t, int64_t) {
    const std::lock_guard<std::mutex> lock(mutex);
    threads.insert(std::this_thread::get_id());
  });
  at::set_num_threads(before);
  EXPECT_EQ(threads.size(), 2u);
}

}  // namespace
