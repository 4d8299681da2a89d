#include "core/attention_runner.h"

#include <ATen/Parallel.h>

#include "core/cpu_kernels.h"
#include "core/parallel.h"
#include "core/thread_workspace.h"
#include "kernels/cpu/plan.h"

namespace rillkv {
namespace {

void* thread_workspace(size_t bytes) {
  thread_local ThreadWorkspace workspace;
  return workspace.get(bytes);
}

}  // namespace

void run_attention(const kernels::cpu::AttentionParams& params) {
  const auto& kernel = cpu_kernels();
  const kernels::cpu::AttentionPlan plan(params, at::get_num_threads(), kernel.task_rows);
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
