// The threads that run the library's parallel regions. Knows no Torch.
#pragma once

#include <time.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>

#include "core/contention.h"

namespace rillkv {

/// Workers that share the tasks of a region with the thread that called for it.
///
/// Made for machines where other programs want the cores too:
/// - Tasks are claimed one at a time, by the caller like by any worker. What a thread without a
///   core has not claimed is done by the others, and the caller waits for claimed tasks alone:
///   never for a worker that has not started.
/// - Waiting is spinning for a bounded time, then sleeping. Spinning finds the next of many short
///   regions without a system call. While other programs take our cores the bound is next to
///   nothing: a thread that spins uses up its share of the core, and is then away when there is
///   work.
///
/// Several threads may call at once; they share the workers. Regions inside a task are run by the
/// task's own thread. A child of fork() starts without workers.
///
/// Workers keep the floating-point environment that threads start with: at::set_flush_denormal in
/// the caller does not reach them (work() is where it could), as it does not reach OpenMP's
/// threads.
class ThreadPool {
 public:
  using Function = void (*)(const void* context, int64_t index);

  ThreadPool();
  /// Ends the workers. Nobody may be in run().
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  /// This process's own, made at first use. Its workers end with the program.
  static ThreadPool& shared();

  /// Calls function(context, i) once for each i in [0, count), on this thread and on at most
  /// threads - 1 workers. They are made when first wanted; if the system gives fewer, fewer help.
  /// Indices are claimed in order. Returns when every call has returned. The first exception is
  /// rethrown; what has not been started by then is left out.
  void run(int64_t count, int threads, Function function, const void* context);

  /// Whether other programs want our cores, as far as the calling thread has lately found.
  bool contended();

  /// Workers made so far.
  int workers() const { return worker_count_.load(std::memory_order_acquire); }

 private:
  struct Region;
  struct Worker;
  struct Call;
  struct AtExit;

  /// Makes workers until there are `wanted`. Returns how many of those there are.
  int grow(int wanted);
  Region* take_region();
  void wake(int helpers);
  void wait_for_claimed(Region& region, uint32_t tasks, int64_t longest_task) const;
  void work(Worker& self);
  bool help(Worker& self);
  /// Until there may be a region later than epoch `seen`. Whether it was woken from sleep.
  bool wait_for_region(Worker& self, uint32_t seen, int64_t idle_since) const;
  /// Ends the workers and waits for them at most until `deadline` (CLOCK_REALTIME; null: for ever).
  void stop(const timespec* deadline);

  static constexpr int kMostWorkers = 1023;

  const std::unique_ptr<Region[]> regions_;
  const std::unique_ptr<std::atomic<Worker*>[]> workers_;  // never move, once made
  std::mutex growing_;
  std::atomic<int> worker_count_{0};
  std::atomic<int> most_workers_{kMostWorkers};
  std::atomic<bool> stopping_{false};
  Contention contention_;
  alignas(64) std::atomic<uint32_t> epoch_{0};  // grows with every region
};

}  // namespace rillkv
