// Parallel loops on at::get_num_threads() threads: Torch's, or the library's own.
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "core/thread_pool.h"

namespace rillkv {

/// Which threads the loops of this thread run on while it lives: ThreadPool::shared() if `own`,
/// else Torch's (OpenMP's), which is also the default.
///
/// OpenMP's threads spin for milliseconds after each region: who takes turns between the two has
/// more threads than cores (a whole model's decode fell from 100 to 60 tokens a second where Torch
/// worked in between). So the own ones are for stretches of work in which Torch opens no parallel
/// region, and while other programs want the cores (ThreadPool::contended); elsewhere we work on
/// Torch's threads, as Torch does.
class LoopThreads {
 public:
  explicit LoopThreads(bool own) : before_(own_) { own_ = own; }
  ~LoopThreads() { own_ = before_; }
  LoopThreads(const LoopThreads&) = delete;
  LoopThreads& operator=(const LoopThreads&) = delete;

  static bool own() { return own_; }

 private:
  const bool before_;
  inline static thread_local bool own_ = false;
};

/// Calls task(i) for every i in [0, count). Threads take the next index, in order, when they are
/// free, so a slow task (or a busy core of a shared machine) holds up nobody. Serial inside another
/// parallel region, ours or Torch's. The first exception reaches the caller. Tasks call no operator
/// of Torch that is parallel itself.
template <typename Task>
void parallel_tasks(int64_t count, const Task& task) {
  const int threads =
      static_cast<int>(count > 1 ? std::min<int64_t>(at::get_num_threads(), count) : 1);
  if (threads <= 1 || at::in_parallel_region()) {
    for (int64_t i = 0; i < count; ++i) task(i);
  } else if (LoopThreads::own()) {
    ThreadPool::shared().run(
        count, threads,
        [](const void* context, int64_t i) { (*static_cast<const Task*>(context))(i); }, &task);
  } else {
    std::atomic<int64_t> next{0};
    at::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
      for (int64_t i = next.fetch_add(1); i < count; i = next.fetch_add(1)) task(i);
    });
  }
}

/// task(head) for every head of so many tokens: those of one token are not worth waking a thread.
template <typename Task>
void for_each_head(int64_t tokens, int64_t heads, const Task& task) {
  if (tokens > 1) return parallel_tasks(heads, task);
  for (int64_t head = 0; head < heads; ++head) task(head);
}

/// Calls body(begin, end) for runs that together are [0, rows), of `grain` rows or more each but
/// for the last: about four a thread, which even out what the machine's other work takes away.
template <typename Body>
void parallel_rows(int64_t rows, int64_t grain, const Body& body) {
  if (rows <= 0) return;
  const int64_t threads = rows > grain ? at::get_num_threads() : 1;
  const int64_t run = std::max((rows + 4 * threads - 1) / (4 * threads), grain);
  if (threads <= 1 || run >= rows) {
    body(int64_t{0}, rows);
    return;
  }
  parallel_tasks((rows + run - 1) / run,
                 [&](int64_t i) { body(i * run, std::min(rows, (i + 1) * run)); });
}

}  // namespace rillkv
