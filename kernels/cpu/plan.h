// How one attention call is divided into tasks for the threads of a pool. Portable, no threads
// here: the caller runs the tasks in any order on any thread, then the merges.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/cpu/params.h"

namespace rillkv::kernels::cpu {

/// The tasks of one attention call. Move-only: tasks point at each other and into `partials`.
///
///   AttentionPlan plan(params, threads);
///   for each i, on any thread, with plan.query_tokens deciding the workspace:
///     kernels().attend(params, plan.tasks[i], workspace);
///   afterwards, for each m of plan.merges:
///     merge_partials(params, m.kv_head, m.query_begin, m.query_end, m.partials, plan.parts);
///
/// Hand tasks out in order from a shared counter: they are equally large up to the causal part, and
/// each names the one to prefetch for, which is the one `threads` further on.
struct AttentionPlan {
  /// Partial results of the same kv head and query range, contiguous.
  struct Merge {
    int32_t kv_head = 0;
    int32_t query_begin = 0;
    int32_t query_end = 0;
    const float* partials = nullptr;
  };

  /// threads >= 1; task_rows: AttentionKernels::task_rows. An empty query range gives no tasks.
  AttentionPlan(const AttentionParams& params, int threads, int task_rows = kTaskRows);
  AttentionPlan(AttentionPlan&&) = default;
  AttentionPlan& operator=(AttentionPlan&&) = default;
  AttentionPlan(const AttentionPlan&) = delete;
  AttentionPlan& operator=(const AttentionPlan&) = delete;

  std::vector<AttentionTask> tasks;
  std::vector<Merge> merges;    // empty if the context is not split
  std::vector<float> partials;  // what the tasks write if it is
  int32_t parts = 1;            // shares of the context
  int32_t query_tokens = 0;     // most query tokens of a task: sizes the workspace
};

}  // namespace rillkv::kernels::cpu
