// How long evaluations report progress and notice Ctrl-C.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace rillkv::eval {

/// Called after each unit of work that this run finished (not for those of an earlier run); the
/// caller draws the bar.
using Progress = std::function<void(int64_t done, int64_t total, const std::string& what)>;

/// While one lives, the first SIGINT or SIGTERM only sets a flag, so that the loop in progress can
/// stop between two units with everything finished on disk; a second one ends the process. At most
/// one at a time; restores the former handlers.
class InterruptGuard {
 public:
  InterruptGuard();
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;
};

/// Whether an interruption was asked for while a guard was alive. False without one.
bool interrupted();
/// Sets or clears the flag; for tests and for callers with another way to stop.
void set_interrupted(bool value);

}  // namespace rillkv::eval
