#include "rillkv/eval/memory_sampler.h"

#include <algorithm>

#include "rillkv/memory.h"

namespace rillkv::eval {

void MemoryUse::add(const MemoryUse& other) {
  const int64_t all = samples + other.samples;
  if (all == 0) return;
  mean_bytes = (mean_bytes * static_cast<double>(samples) +
                other.mean_bytes * static_cast<double>(other.samples)) /
               static_cast<double>(all);
  peak_bytes = std::max(peak_bytes, other.peak_bytes);
  samples = all;
}

MemorySampler::MemorySampler(std::chrono::microseconds interval) {
  sample();
  thread_ = std::thread([this, interval] {
    std::unique_lock lock(mutex_);
    while (!wake_.wait_for(lock, interval, [this] { return stopping_; })) sample();
  });
}

MemorySampler::~MemorySampler() {
  if (thread_.joinable()) stop();
}

MemoryUse MemorySampler::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  thread_.join();
  sample();
  use_.mean_bytes = use_.samples > 0 ? sum_ / static_cast<double>(use_.samples) : 0;
  return use_;
}

void MemorySampler::sample() {
  const int64_t now = current_rss_bytes();
  if (now == 0) return;  // A system that does not tell.
  use_.peak_bytes = std::max(use_.peak_bytes, now);
  sum_ += static_cast<double>(now);
  ++use_.samples;
}

}  // namespace rillkv::eval
