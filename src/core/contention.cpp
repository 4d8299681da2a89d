#include "core/contention.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdlib>

namespace rillkv {
namespace {

// A busy loop on the same core takes half of it. A machine's own work takes a few percent, and then
// a thread that spins still does better than one that sleeps.
constexpr int64_t kLeastPercent = 25;

/// What a thread's last look found.
struct Look {
  int64_t due = 0;
  Contention::Times times;
};
thread_local Look last;

std::optional<Contention::Times> own_times() {
  const int file = ::open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
  if (file < 0) return std::nullopt;
  char text[128];
  const ssize_t size = ::read(file, text, sizeof text - 1);
  ::close(file);
  if (size <= 0) return std::nullopt;
  text[size] = '\0';
  return Contention::parse(text);
}

}  // namespace

std::optional<Contention::Times> Contention::parse(const char* text) {
  char *after_first = nullptr, *after_second = nullptr;
  const int64_t running = std::strtoll(text, &after_first, 10);
  const int64_t waiting = std::strtoll(after_first, &after_second, 10);
  if (after_first == text || after_second == after_first) return std::nullopt;
  if (running < 0 || waiting < 0) return std::nullopt;
  return Times{running, waiting};
}

void Contention::look(int64_t now_ns) {
  if (now_ns < last.due) return;
  last.due = now_ns + kWindow;
  const Times times = own_times().value_or(last.times);
  judge({times.running - last.times.running, times.waiting - last.times.waiting}, now_ns);
  last.times = times;
}

void Contention::judge(const Times& lately, int64_t now_ns) {
  // Divided first: the sum of a thread's whole life may be large.
  const bool contended = lately.waiting > 0 && lately.waiting / 100 * (100 - kLeastPercent) >=
                                                   lately.running / 100 * kLeastPercent;
  if (contended) until_.store(now_ns + kMemory, std::memory_order_relaxed);
  contended_.store(contended || now_ns < until_.load(std::memory_order_relaxed),
                   std::memory_order_relaxed);
}

}  // namespace rillkv
