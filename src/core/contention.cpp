#include "core/contention.h"

#include <sys/resource.h>
#include <sys/time.h>

namespace rillkv {
namespace {

// Beside a program that never sleeps, time slices last 3 to 4 ms (at a tick of 100 Hz 10 ms): 100 to
// 330 switches a second of ours, thousands if our threads sleep and wake in between. On a quiet
// machine kernel threads cause 10 to 20. One busy core of many is below the line, and should be: the
// other threads have nothing to gain by sleeping.
constexpr int64_t kSwitchesPerSecond = 75;
// Fewer say nothing.
constexpr int64_t kLeastSwitches = 4;

int64_t nanoseconds(const timeval& t) { return t.tv_sec * 1'000'000'000 + t.tv_usec * 1'000; }

}  // namespace

void Contention::look(int64_t now_ns) {
  int64_t due = due_.load(std::memory_order_relaxed);
  if (now_ns < due || !due_.compare_exchange_strong(due, now_ns + kWindow)) return;
  rusage usage;
  if (getrusage(RUSAGE_SELF, &usage) != 0) return;
  judge({usage.ru_nivcsw, nanoseconds(usage.ru_utime) + nanoseconds(usage.ru_stime)});
}

void Contention::judge(const Totals& totals) {
  const int64_t switches = totals.switches - switches_.exchange(totals.switches);
  const int64_t cpu_ns = totals.cpu_ns - cpu_ns_.exchange(totals.cpu_ns);
  contended_.store(switches >= kLeastSwitches &&
                       static_cast<double>(switches) * 1e9 >
                           static_cast<double>(cpu_ns) * static_cast<double>(kSwitchesPerSecond),
                   std::memory_order_relaxed);
}

}  // namespace rillkv
