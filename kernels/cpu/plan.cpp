#include "kernels/cpu/plan.h"

#include <algorithm>

namespace rillkv::kernels::cpu {
namespace {

// Fewer rows than this do not pay for dequantising the same tiles once more.
constexpr int kLeastRows = 96;
// Tasks a thread, so that a thread that was interrupted does not hold up the rest for long.
constexpr int kTasksPerThread = 4;
// Least blocks of a share of the context: the online softmax of a few rows restarts in each.
constexpr int kLeastBlocks = 4;

int divide_up(int a, int b) { return (a + b - 1) / b; }

/// Into how many query ranges a prefill of `rows` rows and `heads` kv heads is divided.
int query_ranges(int rows, int heads, int threads, int task_rows) {
  const int least = std::max(1, divide_up(rows, task_rows));
  const int most = std::max(least, rows / kLeastRows);
  // An even share for every thread matters as long as tasks are few.
  for (int ranges = least; ranges <= most; ++ranges) {
    const int tasks = heads * ranges;
    if (tasks >= 8 * threads || (tasks >= 2 * threads && tasks % threads == 0)) return ranges;
  }
  return most;
}

}  // namespace

AttentionPlan::AttentionPlan(const AttentionParams& params, int threads, int task_rows) {
  const int group = params.heads / params.kv_heads, count = params.query_count;
  if (count <= 0) return;
  threads = std::max(1, threads);
  const int rows = count * group;
  const int tiles = params.prefix.block_count + 3;
  query_tokens =
      divide_up(count, std::min(count, query_ranges(rows, params.kv_heads, threads, task_rows)));
  const int ranges = divide_up(count, query_tokens);  // rounding up may have made one needless

  const int whole = params.kv_heads * ranges;
  // A decode call is so short that one busy core would stall it for a share's whole length.
  if (whole < kTasksPerThread * threads && (whole % threads != 0 || count == 1)) {
    parts = divide_up(kTasksPerThread * threads, whole);
    while (whole * parts % threads != 0) ++parts;  // an even share for every thread
  } else if (whole < threads) {
    parts = divide_up(threads, whole);
  }
  parts = std::clamp(parts, 1, std::max(1, params.prefix.block_count / kLeastBlocks));

  const size_t range_rows = static_cast<size_t>(query_tokens) * static_cast<size_t>(group);
  const size_t part_floats = range_rows * static_cast<size_t>(params.head_dim + 2);
  if (parts > 1) {
    partials.resize(static_cast<size_t>(whole) * static_cast<size_t>(parts) * part_floats);
  }
  tasks.reserve(static_cast<size_t>(whole) * static_cast<size_t>(parts));
  float* free_partials = partials.data();
  for (int head = 0; head < params.kv_heads; ++head) {
    for (int begin = 0; begin < count; begin += query_tokens) {
      AttentionTask task;
      task.kv_head = head;
      task.query_begin = begin;
      task.query_end = std::min(count, begin + query_tokens);
      const size_t floats = static_cast<size_t>(task.query_end - begin) *
                            static_cast<size_t>(group) * static_cast<size_t>(params.head_dim + 2);
      if (parts > 1) merges.push_back({head, begin, task.query_end, free_partials});
      for (int part = 0; part < parts; ++part) {
        task.tile_begin = static_cast<int32_t>(static_cast<int64_t>(tiles) * part / parts);
        task.tile_end = static_cast<int32_t>(static_cast<int64_t>(tiles) * (part + 1) / parts);
        if (parts > 1) {
          task.partial = free_partials;
          free_partials += floats;
        }
        tasks.push_back(task);
      }
    }
  }
  for (size_t i = 0; i + static_cast<size_t>(threads) < tasks.size(); ++i) {
    tasks[i].next = &tasks[i + static_cast<size_t>(threads)];
  }
}

}  // namespace rillkv::kernels::cpu
