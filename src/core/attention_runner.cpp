#include "core/attention_runner.h"

#include <ATen/Parallel.h>

#include <cstdlib>
#include <memory>
#include <new>

#include "core/parallel.h"
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/plan.h"

namespace rillkv {
namespace {

struct FreeAligned {
  void operator()(void* p) const { std::free(p); }
};

/// Aligned scratch that a thread keeps for its next call.
void* thread_workspace(size_t bytes) {
  thread_local std::unique_ptr<void, FreeAligned> memory;
  thread_local size_t capacity = 0;
  constexpr size_t kPage = 4096;
  if (bytes > capacity) {
    capacity = (bytes + kPage - 1) / kPage * kPage;
    memory.reset(std::aligned_alloc(kPage, capacity));
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
  const kernels::cpu::AttentionPlan plan(params, at::get_num_threads());
  const size_t bytes = kernel.attention_workspace_bytes(params, plan.query_tokens);
  parallel_tasks(static_cast<int64_t>(plan.tasks.size()),
                 [&](int64_t i) { kernel.attend(params, plan.tasks[i], thread_workspace(bytes)); });
  for (const auto& merge : plan.merges) {
    kernels::cpu::merge_partials(params, merge.kv_head, merge.query_begin, merge.query_end,
                                 merge.partials, plan.parts);
  }
}

}  // namespace rillkv
