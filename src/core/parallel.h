// Independent tasks of uneven length over Torch's threads.
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace rillkv {

/// Calls task(i) for every i in [0, count). Threads fetch the next index when they are free, so a
/// slow task (or a busy core of a shared machine) holds up nobody. Serial inside another parallel
/// region.
template <typename Task>
void parallel_tasks(int64_t count, const Task& task) {
  const int64_t threads = std::min<int64_t>(at::get_num_threads(), count);
  if (threads <= 1 || at::in_parallel_region()) {
    for (int64_t i = 0; i < count; ++i) task(i);
    return;
  }
  std::atomic<int64_t> next{0};
  at::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
    for (int64_t i = next.fetch_add(1); i < count; i = next.fetch_add(1)) task(i);
  });
}

/// Calls body(begin, end) for runs that together are [0, rows), each of `grain` rows or more (but for
/// the rest). Serial inside another parallel region.
template <typename Body>
void parallel_rows(int64_t rows, int64_t grain, const Body& body) {
  at::parallel_for(0, rows, grain, body);
}

}  // namespace rillkv
