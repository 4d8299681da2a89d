#include "rillkv/log.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <string>

namespace rillkv {
namespace {

LogLevel level_of_environment() {
  const char* name = std::getenv("RILLKV_LOG");
  if (name == nullptr) return LogLevel::kWarning;
  const std::string_view text = name;
  if (text == "quiet") return LogLevel::kQuiet;
  if (text == "info") return LogLevel::kInfo;
  if (text == "debug") return LogLevel::kDebug;
  return LogLevel::kWarning;
}

std::atomic<LogLevel>& current() {
  static std::atomic<LogLevel> level{level_of_environment()};
  return level;
}

}  // namespace

LogLevel log_level() { return current().load(std::memory_order_relaxed); }
void set_log_level(LogLevel level) { current().store(level, std::memory_order_relaxed); }

void log(LogLevel level, std::string_view message) {
  if (level == LogLevel::kQuiet || level > log_level()) return;
  static constexpr const char* kNames[] = {"", "warning", "info", "debug"};
  std::string line = "rillkv ";
  line.append(kNames[static_cast<int>(level)]).append(": ").append(message).push_back('\n');
  std::fwrite(line.data(), 1, line.size(), stderr);  // one call, so lines of threads do not mix
}

}  // namespace rillkv
