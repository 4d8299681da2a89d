#include "core/thread_pool.h"

#include <pthread.h>
#include <signal.h>
#include <time.h>

#include <algorithm>
#include <exception>

#include "core/futex.h"

namespace rillkv {
namespace {

// How long a worker without work spins. The serial parts between two regions of a forward pass take
// microseconds, those between two tokens some hundred.
constexpr int64_t kIdleSpin = 1'000'000;
// How long a caller without tasks of its own spins for those that others have claimed: at least
// this, and as long as tasks plausibly take.
constexpr int64_t kClaimedSpin = 100'000;
constexpr int64_t kPlausibleTask = 4;  // times the longest of its own
// Either, while other programs take our cores: about what a system call costs.
constexpr int64_t kContendedSpin = 5'000;

// Callers at once that get help; one more works alone.
constexpr int kRegions = 16;
// Tasks of a region; with more, each task is a run of them.
constexpr int64_t kMostTasks = 0xffff;

int64_t now_ns() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return int64_t{t.tv_sec} * 1'000'000'000 + t.tv_nsec;
}

/// Tells the core that this is a spin loop.
inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// Spins until done() holds, true, or about `limit` ns have passed since `start`, false.
template <typename Done>
bool spin(int64_t start, int64_t limit, const Done& done) {
  do {
    for (int i = 0; i < 16; ++i) {
      if (done()) return true;
      relax();
    }
  } while (now_ns() - start < limit);
  return done();
}

/// In a task: of a worker, or of a caller.
thread_local bool in_task = false;
thread_local bool is_worker = false;

// The claims of a region, one word: generation (32 bits), tasks (16), next task (16).
uint32_t next_of(uint64_t claims) { return claims & 0xffff; }
uint32_t tasks_of(uint64_t claims) { return (claims >> 16) & 0xffff; }
bool exhausted(uint64_t claims) { return next_of(claims) >= tasks_of(claims); }
uint64_t next_generation(uint64_t claims, uint32_t tasks) {
  return ((claims >> 32) + 1) << 32 | uint64_t{tasks} << 16;
}

}  // namespace

/// One call of run(), on the caller's stack: there as long as a claimed task is not done.
struct ThreadPool::Call {
  Function function;
  const void* context;
  int64_t count;
  int64_t run;  // indices a task
  std::atomic<bool> failed{false};
  std::exception_ptr exception;

  void operator()(uint32_t task) {
    try {
      const int64_t begin = task * run, end = std::min(count, begin + run);
      for (int64_t i = begin; i < end; ++i) {
        if (failed.load(std::memory_order_relaxed)) return;
        function(context, i);
      }
    } catch (...) {
      if (!failed.exchange(true)) exception = std::current_exception();
    }
  }
};

/// A place where a caller offers tasks. It outlives every call, so a worker may look at any time.
///
/// A task is claimed by counting `claims` up in one compare-and-swap. What the worker has read of
/// the region between its load and its swap is then of the same generation: the other fields change
/// only when `claims` is exhausted, and a swap from an earlier value fails from then on. (The
/// generation would have to wrap around, 2^32 regions, within those few instructions.) Who has
/// claimed a task may use `call` until it has counted `done` up.
struct alignas(64) ThreadPool::Region {
  std::atomic<uint64_t> claims{0};
  std::atomic<int> helpers{0};  // workers below this number may claim
  std::atomic<Call*> call{nullptr};
  std::atomic<bool> taken{false};
  alignas(64) std::atomic<uint32_t> done{0};
  std::atomic<bool> caller_sleeps{false};  // on `done`
};

struct alignas(64) ThreadPool::Worker {
  std::atomic<uint32_t> asleep{0};
  ThreadPool* pool = nullptr;
  int number = 0;
  pthread_t thread{};
  bool joined = false;
};

ThreadPool::ThreadPool()
    : regions_(new Region[kRegions]), workers_(new std::atomic<Worker*>[kMostWorkers]) {
  for (int i = 0; i < kMostWorkers; ++i) workers_[i].store(nullptr, std::memory_order_relaxed);
}

ThreadPool::~ThreadPool() {
  stop(nullptr);
  for (int i = 0; i < workers(); ++i) delete workers_[i].load();
}

int ThreadPool::grow(int wanted) {
  wanted = std::min(wanted, most_workers_.load(std::memory_order_relaxed));
  if (workers() >= wanted) return wanted;
  const std::lock_guard<std::mutex> lock(growing_);
  // The program's signal handlers are for the program's threads.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int have = workers();
  for (; have < wanted && !stopping_; ++have) {
    auto worker = std::make_unique<Worker>();
    worker->pool = this;
    worker->number = have;
    const auto body = [](void* w) -> void* {
      auto& self = *static_cast<Worker*>(w);
      self.pool->work(self);
      return nullptr;
    };
    if (pthread_create(&worker->thread, nullptr, body, worker.get()) != 0) {
      most_workers_ = have;  // a container's limit, say: those that there are must do
      break;
    }
    pthread_setname_np(worker->thread, "rillkv");
    workers_[have].store(worker.release(), std::memory_order_release);
    worker_count_.store(have + 1, std::memory_order_release);
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return std::min(wanted, have);
}

ThreadPool::Region* ThreadPool::take_region() {
  for (int i = 0; i < kRegions; ++i) {
    Region& region = regions_[i];
    if (!region.taken.load(std::memory_order_relaxed) &&
        !region.taken.exchange(true, std::memory_order_acquire)) {
      return &region;
    }
  }
  return nullptr;
}

void ThreadPool::run(int64_t count, int threads, Function function, const void* context) {
  Region* region = nullptr;
  int helpers = static_cast<int>(std::min<int64_t>(threads, count)) - 1;
  if (helpers > 0 && !in_task) helpers = grow(helpers);
  if (helpers > 0 && !in_task) region = take_region();
  if (region == nullptr) {
    for (int64_t i = 0; i < count; ++i) function(context, i);
    return;
  }
  int64_t time = now_ns();
  contention_.look(time);

  const int64_t run = (count + kMostTasks - 1) / kMostTasks;
  const auto tasks = static_cast<uint32_t>((count + run - 1) / run);
  Call call{function, context, count, run, false, nullptr};
  region->helpers.store(helpers, std::memory_order_relaxed);
  region->call.store(&call, std::memory_order_relaxed);
  region->done.store(0, std::memory_order_relaxed);
  uint64_t claims = next_generation(region->claims.load(std::memory_order_relaxed), tasks);
  region->claims.store(claims, std::memory_order_release);
  wake(helpers);

  in_task = true;
  int64_t longest = 0;
  while (!exhausted(claims)) {
    if (!region->claims.compare_exchange_weak(claims, claims + 1, std::memory_order_acq_rel)) {
      continue;
    }
    call(next_of(claims));
    region->done.fetch_add(1, std::memory_order_acq_rel);
    const int64_t end = now_ns();
    longest = std::max(longest, end - time);
    time = end;
    claims = region->claims.load(std::memory_order_relaxed);
  }
  in_task = false;
  wait_for_claimed(*region, tasks, longest);
  region->taken.store(false, std::memory_order_release);
  if (call.exception != nullptr) std::rethrow_exception(call.exception);
}

bool ThreadPool::contended() {
  contention_.look(now_ns());
  return contention_.contended();
}

void ThreadPool::wake(int helpers) {
  // Either the worker sees the new epoch before it sleeps, or it is seen to sleep here.
  epoch_.fetch_add(1, std::memory_order_seq_cst);
  for (int i = 0; i < helpers; ++i) {
    Worker& worker = *workers_[i].load(std::memory_order_acquire);
    if (worker.asleep.load(std::memory_order_seq_cst) == 1 && worker.asleep.exchange(0) == 1) {
      futex_wake(worker.asleep);
    }
  }
}

void ThreadPool::wait_for_claimed(Region& region, uint32_t tasks, int64_t longest_task) const {
  const auto complete = [&] { return region.done.load(std::memory_order_acquire) == tasks; };
  if (complete()) return;
  const int64_t limit = contention_.contended()
                            ? kContendedSpin
                            : std::max(kClaimedSpin, kPlausibleTask * longest_task);
  if (spin(now_ns(), limit, complete)) return;
  // As in wake(): the last task either sees this, or is seen below.
  region.caller_sleeps.store(true, std::memory_order_seq_cst);
  for (;;) {
    const uint32_t done = region.done.load(std::memory_order_seq_cst);
    if (done == tasks) break;
    futex_wait(region.done, done);
  }
  region.caller_sleeps.store(false, std::memory_order_relaxed);
}

bool ThreadPool::help(Worker& self) {
  bool helped = false;
  for (int i = 0; i < kRegions; ++i) {
    Region& region = regions_[i];
    uint64_t claims = region.claims.load(std::memory_order_acquire);
    while (!exhausted(claims) && self.number < region.helpers.load(std::memory_order_relaxed)) {
      Call* const call = region.call.load(std::memory_order_relaxed);
      if (!region.claims.compare_exchange_strong(claims, claims + 1, std::memory_order_acq_rel,
                                                 std::memory_order_acquire)) {
        continue;
      }
      (*call)(next_of(claims));
      helped = true;
      // The call may be over from here on, and the region another's: waking that one does no harm.
      if (region.done.fetch_add(1, std::memory_order_seq_cst) + 1 == tasks_of(claims) &&
          region.caller_sleeps.load(std::memory_order_seq_cst)) {
        futex_wake(region.done);
      }
      claims = region.claims.load(std::memory_order_acquire);
    }
  }
  return helped;
}

void ThreadPool::work(Worker& self) {
  in_task = is_worker = true;
  int64_t idle_since = now_ns();
  while (!stopping_.load(std::memory_order_relaxed)) {
    const uint32_t seen = epoch_.load(std::memory_order_acquire);
    if (help(self)) idle_since = now_ns();
    if (wait_for_region(self, seen, idle_since)) idle_since = now_ns();
  }
}

bool ThreadPool::wait_for_region(Worker& self, uint32_t seen, int64_t idle_since) const {
  const int64_t limit = contention_.contended() ? kContendedSpin : kIdleSpin;
  if (spin(idle_since, limit, [&] { return epoch_.load(std::memory_order_acquire) != seen; })) {
    return false;
  }
  self.asleep.store(1, std::memory_order_seq_cst);
  if (epoch_.load(std::memory_order_seq_cst) != seen) {
    self.asleep.store(0, std::memory_order_relaxed);
    return false;
  }
  while (self.asleep.load(std::memory_order_acquire) == 1) futex_wait(self.asleep, 1);
  return true;
}

void ThreadPool::stop(const timespec* deadline) {
  const std::lock_guard<std::mutex> lock(growing_);
  stopping_ = true;
  wake(workers());
  if (is_worker) return;  // a task has called exit()
  for (int i = 0; i < workers(); ++i) {
    Worker& worker = *workers_[i].load();
    if (worker.joined) continue;
    worker.joined =
        (deadline == nullptr ? pthread_join(worker.thread, nullptr)
                             : pthread_timedjoin_np(worker.thread, nullptr, deadline)) == 0;
  }
}

// ---- the process's own pool ----

namespace {

std::atomic<ThreadPool*> shared_pool{nullptr};
std::atomic<ThreadPool*> left_in_parent{nullptr};  // where a leak checker finds it

/// The parent's workers are not in the child, and what they held stays held.
void leave_pool_in_parent() { left_in_parent = shared_pool.exchange(nullptr); }

}  // namespace

/// Ends the workers before their code goes: at the program's end, or with the shared object that
/// the library was linked into. The pool itself stays: what still calls run() then works alone.
struct ThreadPool::AtExit {
  AtExit() { pthread_atfork(nullptr, nullptr, leave_pool_in_parent); }
  ~AtExit() {
    ThreadPool* const pool = shared_pool.load();
    if (pool == nullptr) return;
    timespec deadline;  // a task that waits for the thread that ends the program never returns
    clock_gettime(CLOCK_REALTIME, &deadline);
    ++deadline.tv_sec;
    pool->stop(&deadline);
  }
};

ThreadPool& ThreadPool::shared() {
  ThreadPool* pool = shared_pool.load(std::memory_order_acquire);
  if (pool != nullptr) return *pool;
  static const AtExit at_exit;
  auto made = std::make_unique<ThreadPool>();
  if (shared_pool.compare_exchange_strong(pool, made.get())) return *made.release();
  return *pool;
}

}  // namespace rillkv
