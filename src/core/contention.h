// Whether other programs want the cores that our threads run on.
#pragma once

#include <atomic>
#include <cstdint>

namespace rillkv {

/// Judged by how often the kernel takes the core from a thread of this process that could go on
/// (involuntary context switches), per second of processor time. For any thread to use.
class Contention {
 public:
  /// Totals of the process.
  struct Totals {
    int64_t switches = 0;  ///< involuntary
    int64_t cpu_ns = 0;
  };

  bool contended() const { return contended_.load(std::memory_order_relaxed); }

  /// Reads the totals and judges anew, if that was last done kWindow ago or longer.
  void look(int64_t now_ns);

  /// The rule alone: what the totals have grown by since the last call decides.
  void judge(const Totals& totals);

  /// A token of a small model takes 10 ms: a few tokens decide how the next few wait.
  static constexpr int64_t kWindow = 50'000'000;

 private:
  std::atomic<int64_t> due_{0};
  std::atomic<int64_t> switches_{0}, cpu_ns_{0};
  std::atomic<bool> contended_{false};
};

}  // namespace rillkv
