// Progress on a terminal as a bar with the time left, otherwise as a few plain lines.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace rillkv::cli {

/// Draws on stderr, so that results on stdout can be piped. Not thread-safe.
class ProgressBar {
 public:
  /// `quiet` draws nothing. `before`: units that were done before this run, which say nothing about
  /// the time left.
  ProgressBar(std::string label, int64_t total, bool quiet, int64_t before = 0);
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  void update(int64_t done);

 private:
  void draw(int64_t done, double seconds);

  std::string label_;
  int64_t total_, before_;
  bool quiet_, terminal_;
  bool drawn_ = false;
  std::chrono::steady_clock::time_point start_, last_;
};

}  // namespace rillkv::cli
