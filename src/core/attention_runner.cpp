#include "core/attention_runner.h"

#include <ATen/Parallel.h>

#include <cstdlib>
#include <memory>

#include "core/cpu_kernels.h"
#include "core/parallel.h"
#include "kernels/cpu/plan.h"
#include "rillkv/error.h"

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
      throw Error(str_cat("out of memory: expected ", bytes, " bytes of attention workspace"));
    }
  }
  return memory.get();
}

}  // namespace

void run_attention(const kernels::cpu::AttentionParams& params) {
  const auto& kernel = cpu_kernels();
  const kernels::cpu::AttentionPlan plan(params, at::get_num_threads());
  const size_t bytes = kernel.attention_workspace_bytes(params, plan.query_tokens);
  parallel_tasks(static_cast<int64_t>(plan.tasks.size()), [&](int64_t i) {
    kernel.attend(params, plan.tasks[static_cast<size_t>(i)], thread_workspace(bytes));
  });
  const auto merge = [&](int64_t i) {
    const auto& m = plan.merges[static_cast<size_t>(i)];
    kernels::cpu::merge_partials(params, m.kv_head, m.query_begin, m.query_end, m.partials,
                                 plan.parts);
  };
  const auto merges = static_cast<int64_t>(plan.merges.size());
  if (params.query_count == 1) {  // a few rows: not worth waking a thread
    for (int64_t i = 0; i < merges; ++i) merge(i);
  } else {
    parallel_tasks(merges, merge);
  }
}

}  // namespace rillkv
