#include "core/attention_runner.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <vector>

#include "core/parallel.h"
#include "kernels/cpu/kernels.h"

namespace rillkv {
namespace {

struct FreeAligned {
  void operator()(void* p) const { std::free(p); }
};

/// 64-byte aligned scratch that a thread keeps for its next call.
void* thread_workspace(size_t bytes) {
  thread_local std::unique_ptr<void, FreeAligned> memory;
  thread_local size_t capacity = 0;
  if (bytes > capacity) {
    capacity = (bytes + 4095) / 4096 * 4096;
    memory.reset(std::aligned_alloc(4096, capacity));
    if (memory == nullptr) {
      capacity = 0;
      throw std::bad_alloc();
    }
  }
  return memory.get();
}

}  // namespace

void run_attention(const kernels::AttentionParams& params) {
  const auto& kernel = kernels::cpu::kernels();
  const int32_t tiles = params.prefix.block_count + 3;
  // Two query ranges a kv head keep the threads busy to the end when kv heads are few; more would
  // dequantise every tile more often.
  const int32_t threads = at::get_num_threads();
  const int32_t ranges =
      params.kv_heads % threads == 0 ? 1 : std::min<int32_t>(params.query_count, 2 * threads);
  std::vector<kernels::AttentionTask> tasks;
  for (int32_t head = 0; head < params.kv_heads; ++head) {
    for (int32_t range = 0; range < ranges; ++range) {
      kernels::AttentionTask task;
      task.kv_head = head;
      task.query_begin = params.query_count * range / ranges;
      task.query_end = params.query_count * (range + 1) / ranges;
      task.tile_end = tiles;
      tasks.push_back(task);
    }
  }
  parallel_tasks(static_cast<int64_t>(tasks.size()), [&](int64_t i) {
    const auto& task = tasks[i];
    const size_t bytes =
        kernel.attention_workspace_bytes(params, task.query_end - task.query_begin);
    kernel.attend(params, task, thread_workspace(bytes));
  });
}

}  // namespace rillkv
