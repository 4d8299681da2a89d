#include "rillkv/log.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "rillkv/quotes.h"

namespace rillkv {
namespace {

LogLevel level_of_environment() {
  const char* name = std::getenv("RILLKV_LOG");
  if (name == nullptr) return LogLevel::kWarning;
  const std::string_view text = name;
  if (text == "quiet") return LogLevel::kQuiet;
  if (text == "info") return LogLevel::kInfo;
  if (text == "debug") return LogLevel::kDebug;
  if (text != "warning" && !text.empty()) {
    std::fprintf(stderr, "rillkv warning: expected RILLKV_LOG as %s, got %s\n",
                 "quiet, warning, info or debug", in_quotes(text).c_str());
  }
  return LogLevel::kWarning;
}

// -1: nobody has chosen a level yet, the environment decides at the first use.
std::atomic<int> chosen{-1};

}  // namespace

LogLevel log_level() {
  const int level = chosen.load(std::memory_order_relaxed);
  if (level >= 0) return static_cast<LogLevel>(level);
  static const LogLevel environment = level_of_environment();
  return environment;
}

void set_log_level(LogLevel level) {
  chosen.store(static_cast<int>(level), std::memory_order_relaxed);
}

void log(LogLevel level, std::string_view message) {
  if (level == LogLevel::kQuiet || level > log_level()) return;
  static constexpr const char* kNames[] = {"", "warning", "info", "debug"};
  std::string line = "rillkv ";
  line.append(kNames[static_cast<int>(level)]).append(": ").append(message).push_back('\n');
  std::fwrite(line.data(), 1, line.size(), stderr);  // one call, so lines of threads do not mix
}

}  // namespace rillkv
