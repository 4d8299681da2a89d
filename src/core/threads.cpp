#include "rillkv/threads.h"

#include <ATen/Parallel.h>
#include <sched.h>

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <thread>
#include <vector>

#include "core/cpu_quota.h"

namespace rillkv {
namespace {

int affinity_cores() {
  // One set holds 1024 cores; the kernel refuses a mask that is shorter than its own.
  for (size_t sets = 1; sets <= 64; sets *= 2) {
    std::vector<cpu_set_t> mask(sets);
    const size_t bytes = sets * sizeof(cpu_set_t);
    if (sched_getaffinity(0, bytes, mask.data()) == 0) return CPU_COUNT_S(bytes, mask.data());
  }
  return static_cast<int>(std::thread::hardware_concurrency());
}

}  // namespace

int available_cores() {
  const int64_t quota = cpu_quota_cores().value_or(std::numeric_limits<int>::max());
  return static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(affinity_cores(), quota)));
}

int default_threads() {
  const char* decided = std::getenv("OMP_NUM_THREADS");
  if (decided != nullptr && *decided != '\0') return at::get_num_threads();
  return std::min(at::get_num_threads(), available_cores());
}

}  // namespace rillkv
