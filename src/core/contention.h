// Whether other programs want the cores that our threads run on.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <string>

namespace rillkv {

/// Judged by how long the calling thread has lately had to wait for a core, beside the time that it
/// had one. For any thread to use.
class Contention {
 public:
  /// Of one thread, nanoseconds.
  struct Times {
    int64_t running = 0;
    int64_t waiting = 0;  ///< ready to run, but without a core
  };

  bool contended() const { return contended_.load(std::memory_order_relaxed); }

  /// Judges anew by the calling thread's times, if it last did that kWindow ago or longer. Where
  /// the kernel does not tell them, nothing counts as contended.
  void look(int64_t now_ns);

  /// The rule alone: a quarter of the time or more without a core, and for kMemory after that.
  void judge(const Times& lately, int64_t now_ns);

  /// Of the contents of /proc/.../schedstat.
  static std::optional<Times> parse(const char* text);

  /// A token of a small model takes 10 ms: a few tokens decide how the next few wait.
  static constexpr int64_t kWindow = 50'000'000;
  /// Threads that sleep while they wait are soon given a core: less waiting does not mean that the
  /// others have gone.
  static constexpr int64_t kMemory = 1'000'000'000;

 private:
  std::atomic<bool> contended_{false};
  std::atomic<int64_t> until_{0};
};

}  // namespace rillkv
