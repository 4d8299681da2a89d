// The pool of threads, and the rule that tells it to sleep rather than spin.
// Where a test waits, it waits for something that must happen: a broken pool hangs until ctest's
// limit.
#include "core/thread_pool.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <stdexcept>
#include <thread>
#include <vector>

#include "core/contention.h"

namespace rillkv {
namespace {

template <typename Task>
void run(ThreadPool& pool, int64_t count, int threads, const Task& task) {
  pool.run(
      count, threads,
      [](const void* context, int64_t i) { (*static_cast<const Task*>(context))(i); }, &task);
}

void wait_for(const std::atomic<bool>& event) {
  while (!event) std::this_thread::yield();
}

/// How often each index was called; plain integers, so that a sanitizer sees two calls at once.
std::vector<int> calls_of(ThreadPool& pool, int64_t count, int threads) {
  std::vector<int> calls(static_cast<size_t>(count));
  run(pool, count, threads, [&](int64_t i) { ++calls[static_cast<size_t>(i)]; });
  return calls;
}

TEST(ThreadPool, EveryIndexOnce) {
  ThreadPool pool;
  // 65535 is the most tasks of a region; beyond it a task is a run of indices.
  for (const int64_t count : {0, 1, 2, 3, 7, 1000, 65534, 65535, 65536, 65537, 200001}) {
    for (const int threads : {-1, 0, 1, 2, 3, 8}) {
      EXPECT_EQ(calls_of(pool, count, threads), std::vector<int>(static_cast<size_t>(count), 1))
          << count << " tasks on " << threads << " threads";
    }
  }
}

TEST(ThreadPool, ManyShortRegions) {
  ThreadPool pool;
  int64_t sum = 0, expected = 0;
  for (int64_t region = 0; region < 2000; ++region) {
    int64_t parts[5] = {};
    run(pool, 5, 3, [&](int64_t i) { parts[i] = region * i; });
    for (const int64_t part : parts) sum += part;
    expected += region * 10;
  }
  EXPECT_EQ(sum, expected);
}

TEST(ThreadPool, WorkersAreMadeWhenWanted) {
  ThreadPool pool;
  EXPECT_EQ(pool.workers(), 0);
  calls_of(pool, 100, 1);
  EXPECT_EQ(pool.workers(), 0);
  calls_of(pool, 100, 3);
  EXPECT_EQ(pool.workers(), 2);
  calls_of(pool, 2, 8);  // more threads than tasks
  EXPECT_EQ(pool.workers(), 2);
  calls_of(pool, 100, 2);
  EXPECT_EQ(pool.workers(), 2);
  calls_of(pool, 100, 5);
  EXPECT_EQ(pool.workers(), 4);
}

TEST(ThreadPool, NoMoreThreadsThanAskedFor) {
  ThreadPool pool;
  calls_of(pool, 100, 6);
  for (int round = 0; round < 20; ++round) {
    std::atomic<int> inside{0}, most{0};
    run(pool, 50, 2, [&](int64_t) {
      const int now = ++inside;
      for (int seen = most; now > seen && !most.compare_exchange_weak(seen, now);) {
      }
      std::this_thread::yield();
      --inside;
    });
    EXPECT_LE(most, 2);
  }
}

TEST(ThreadPool, AllThreadsReallyRun) {
  ThreadPool pool;
  for (int round = 0; round < 20; ++round) {
    std::atomic<int> started{0};
    run(pool, 4, 4, [&](int64_t) {  // each waits until the others have started
      ++started;
      while (started < 4) std::this_thread::yield();
    });
    EXPECT_EQ(started, 4);
  }
}

// A worker that does not get to the region is not waited for: here the only one is in a task of
// another caller's, which ends only after this caller's region is over.
TEST(ThreadPool, ABlockedWorkerHoldsUpNobody) {
  ThreadPool pool;
  std::atomic<bool> inside{false}, may_leave{false};
  std::atomic<int> blocked{0};
  std::thread other([&] {
    run(pool, 2, 2, [&](int64_t) {
      if (++blocked == 2) inside = true;
      wait_for(may_leave);
    });
  });
  wait_for(inside);
  ASSERT_EQ(pool.workers(), 1);
  for (int round = 0; round < 100; ++round) {
    EXPECT_EQ(calls_of(pool, 10, 2), std::vector<int>(10, 1));
  }
  may_leave = true;
  other.join();
}

TEST(ThreadPool, TheCallerWaitsForWhatAWorkerHasStarted) {
  ThreadPool pool;
  for (int round = 0; round < 50; ++round) {
    const std::thread::id caller = std::this_thread::get_id();
    std::atomic<bool> worker_started{false};
    std::atomic<int> done{0};
    run(pool, 2, 2, [&](int64_t) {
      if (std::this_thread::get_id() == caller) {
        wait_for(worker_started);
      } else {
        worker_started = true;
        // Longer than a caller spins for its own short task: it sleeps and must be woken.
        std::this_thread::sleep_for(std::chrono::milliseconds(round % 2 == 0 ? 2 : 0));
      }
      ++done;
    });
    EXPECT_EQ(done, 2);
  }
}

TEST(ThreadPool, SleepingWorkersAreWoken) {
  ThreadPool pool;
  for (int round = 0; round < 5; ++round) {
    std::atomic<int> started{0};
    run(pool, 3, 3, [&](int64_t) {
      ++started;
      while (started < 3) std::this_thread::yield();
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(20));  // they spin for one
  }
}

TEST(ThreadPool, TheFirstExceptionReachesTheCaller) {
  ThreadPool pool;
  for (const int threads : {1, 2, 4}) {
    for (int round = 0; round < 200; ++round) {
      std::atomic<int> calls{0};
      try {
        run(pool, 100, threads, [&](int64_t i) {
          ++calls;
          if (i == 7) throw std::runtime_error("seven");
        });
        FAIL() << "expected an exception on " << threads << " threads";
      } catch (const std::runtime_error& e) {
        EXPECT_STREQ(e.what(), "seven");
      }
      // Indices are claimed in order, but what another thread has claimed need not have started.
      EXPECT_GE(calls, 8 - (threads - 1));
      EXPECT_EQ(calls_of(pool, 10, threads), std::vector<int>(10, 1));
    }
  }
}

TEST(ThreadPool, AfterAnExceptionNothingNewStarts) {
  ThreadPool pool;
  std::atomic<int> calls{0};
  EXPECT_THROW(run(pool, 1000, 2,
                   [&](int64_t i) {
                     ++calls;
                     if (i == 0) throw std::runtime_error("0");
                     // The other thread stays in its first task until this one has failed.
                     std::this_thread::sleep_for(std::chrono::milliseconds(1));
                   }),
               std::runtime_error);
  EXPECT_LT(calls, 1000);
}

TEST(ThreadPool, ARegionInATaskRunsOnItsThread) {
  ThreadPool pool;
  std::vector<std::vector<int>> calls(8);
  run(pool, 8, 4, [&](int64_t i) {
    const std::thread::id outer = std::this_thread::get_id();
    calls[static_cast<size_t>(i)].resize(20);
    run(pool, 20, 4, [&](int64_t k) {
      EXPECT_EQ(std::this_thread::get_id(), outer);
      ++calls[static_cast<size_t>(i)][static_cast<size_t>(k)];
    });
  });
  EXPECT_EQ(calls, std::vector<std::vector<int>>(8, std::vector<int>(20, 1)));
}

// More callers than places for regions: the rest work alone.
TEST(ThreadPool, SeveralCallersAtOnce) {
  ThreadPool pool;
  std::atomic<int> wrong{0};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 24; ++caller) {
    callers.emplace_back([&pool, &wrong, caller] {
      for (int round = 0; round < 100; ++round) {
        const int64_t count = 1 + (caller * 7 + round) % 40;
        if (calls_of(pool, count, 1 + (caller + round) % 4) !=
            std::vector<int>(static_cast<size_t>(count), 1)) {
          ++wrong;
        }
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(wrong, 0);
}

TEST(ThreadPool, EndsWithBusyAndSleepingWorkers) {
  for (int round = 0; round < 50; ++round) {
    ThreadPool pool;
    calls_of(pool, 10, 1 + round % 4);
    if (round % 10 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(3));
  }
}

/// The exit status of a child that runs `body`; -1 if it did not end by itself.
template <typename Body>
int status_of_child(const Body& body) {
  const pid_t child = fork();
  if (child == 0) {
    alarm(60);  // ends a child that hangs
    _exit(body());
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

int exit_status_of_shared_pool() {
  return calls_of(ThreadPool::shared(), 100, 3) == std::vector<int>(100, 1) ? 0 : 1;
}

TEST(ThreadPool, AForkedChildMakesItsOwnWorkers) {
  EXPECT_EQ(exit_status_of_shared_pool(), 0);
  const auto child = [] {
    if (ThreadPool::shared().workers() != 0) return 2;
    std::atomic<int> started{0};
    run(ThreadPool::shared(), 3, 3, [&](int64_t) {
      ++started;
      while (started < 3) std::this_thread::yield();
    });
    // A grandchild, too.
    return status_of_child(exit_status_of_shared_pool);
  };
  for (int round = 0; round < 5; ++round) EXPECT_EQ(status_of_child(child), 0);
  EXPECT_EQ(exit_status_of_shared_pool(), 0);
}

TEST(ThreadPool, ForkWhileOthersAreInRegions) {
  std::atomic<bool> stop{false};
  std::thread other([&] {
    while (!stop) exit_status_of_shared_pool();
  });
  for (int round = 0; round < 20; ++round) {
    EXPECT_EQ(status_of_child(exit_status_of_shared_pool), 0);
  }
  stop = true;
  other.join();
}

TEST(ThreadPoolDeathTest, TheProgramEndsWithWorkersOfAnyState) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  // From the caller, with workers that spin; from a task of a worker or of the caller.
  EXPECT_EXIT(
      {
        exit_status_of_shared_pool();
        std::exit(3);
      },
      ::testing::ExitedWithCode(3), "");
  EXPECT_EXIT(
      {
        std::atomic<int> started{0};
        const std::thread::id caller = std::this_thread::get_id();
        run(ThreadPool::shared(), 2, 2, [&](int64_t) {
          ++started;
          while (started < 2) std::this_thread::yield();
          if (std::this_thread::get_id() != caller) std::exit(4);
          for (;;) std::this_thread::yield();
        });
      },
      ::testing::ExitedWithCode(4), "");
  EXPECT_EXIT(
      {
        std::atomic<int> started{0};
        const std::thread::id caller = std::this_thread::get_id();
        run(ThreadPool::shared(), 2, 2, [&](int64_t) {
          ++started;
          while (started < 2) std::this_thread::yield();
          if (std::this_thread::get_id() == caller) std::exit(5);
          for (;;) std::this_thread::yield();  // never ends: the program does not wait for it
        });
      },
      ::testing::ExitedWithCode(5), "");
}

TEST(Contention, IsAQuarterOfTheTimeOrMore) {
  Contention contention;
  EXPECT_FALSE(contention.contended());
  int64_t now = 0;
  constexpr int64_t kMs = 1'000'000, kYear = INT64_C(31'557'600'000) * kMs;
  struct Case {
    int64_t running, waiting;
    bool contended;
  };
  for (const Case& c : std::vector<Case>{{25 * kMs, 25 * kMs, true},  // a busy loop on our core
                                         {50 * kMs, 0, false},        // nobody
                                         {33 * kMs, 17 * kMs, true},  // one beside two threads
                                         {45 * kMs, 5 * kMs, false},  // the machine's own work
                                         {30 * kMs, 10 * kMs, true},
                                         {31 * kMs, 10 * kMs, false},
                                         {0, 0, false},  // slept
                                         {0, 10 * kMs, true},
                                         {kYear, kYear, true},  // no overflow
                                         {kYear, kYear / 4, false}}) {
    now += Contention::kMemory;  // what was before is forgotten
    contention.judge({c.running, c.waiting}, now);
    EXPECT_EQ(contention.contended(), c.contended) << c.running << " " << c.waiting;
  }
}

TEST(Contention, IsRemembered) {
  Contention contention;
  contention.judge({0, 1000}, 5);
  contention.judge({1000, 0}, 4 + Contention::kMemory);
  EXPECT_TRUE(contention.contended());
  contention.judge({1000, 0}, 5 + Contention::kMemory);
  EXPECT_FALSE(contention.contended());
}

TEST(Contention, ReadsWhatTheKernelTells) {
  const auto times = Contention::parse("3328001 125000 17\n");
  ASSERT_TRUE(times.has_value());
  EXPECT_EQ(times->running, 3328001);
  EXPECT_EQ(times->waiting, 125000);
  for (const char* text : {"", "\n", "12", "x 1 2", "1 x 2", "-1 5 2", "1 -5 2"}) {
    EXPECT_FALSE(Contention::parse(text).has_value()) << text;
  }
}

TEST(Contention, LooksOnceAWindow) {
  std::thread([] {  // a thread's looks are its own
    Contention contention;
    contention.look(Contention::kWindow);
    contention.judge({0, 1000}, Contention::kWindow);
    contention.look(2 * Contention::kWindow - 1);  // too early to read anything
    EXPECT_TRUE(contention.contended());
  })
      .join();
}

}  // namespace
}  // namespace rillkv
