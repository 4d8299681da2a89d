#include "support/progress_bar.h"

#include <unistd.h>

#include <cmath>
#include <cstdio>

namespace rillkv::cli {
namespace {

constexpr int kWidth = 30;
constexpr double kTerminalInterval = 0.1;  // seconds between redraws
constexpr double kPlainInterval = 10;      // seconds between lines of a log file

std::string duration(double seconds) {
  char text[32];
  const int s = static_cast<int>(std::lround(seconds));
  if (s >= 3600) {
    std::snprintf(text, sizeof text, "%d:%02d:%02d", s / 3600, s / 60 % 60, s % 60);
  } else {
    std::snprintf(text, sizeof text, "%d:%02d", s / 60, s % 60);
  }
  return text;
}

}  // namespace

ProgressBar::ProgressBar(std::string label, int64_t total, bool quiet, int64_t before)
    : label_(std::move(label)),
      total_(total),
      before_(before),
      quiet_(quiet),
      terminal_(isatty(STDERR_FILENO) != 0),
      start_(std::chrono::steady_clock::now()),
      last_(start_) {}

ProgressBar::~ProgressBar() {
  if (drawn_ && terminal_) std::fputs("\r\033[K", stderr);
}

void ProgressBar::update(int64_t done) {
  if (quiet_ || total_ <= 0) return;
  const auto now = std::chrono::steady_clock::now();
  const double since = std::chrono::duration<double>(now - last_).count();
  if (since < (terminal_ ? kTerminalInterval : kPlainInterval)) return;
  last_ = now;
  draw(done, std::chrono::duration<double>(now - start_).count());
}

void ProgressBar::draw(int64_t done, double seconds) {
  const double share = static_cast<double>(done) / static_cast<double>(total_);
  const int64_t now = done - before_;
  const std::string left =
      now > 0 ? duration(seconds / static_cast<double>(now) * static_cast<double>(total_ - done))
              : "?";
  if (terminal_) {
    std::string bar(kWidth, '.');
    for (int i = 0; i < static_cast<int>(share * kWidth); ++i) bar[i] = '#';
    std::fprintf(stderr, "\r\033[K%s [%s] %3.0f %%  %s left", label_.c_str(), bar.c_str(),
                 100 * share, left.c_str());
  } else {
    std::fprintf(stderr, "%s: %lld of %lld, %s left\n", label_.c_str(),
                 static_cast<long long>(done), static_cast<long long>(total_), left.c_str());
  }
  std::fflush(stderr);
  drawn_ = true;
}

}  // namespace rillkv::cli
