// AttentionPlan: every query sees every tile exactly once, whatever the shape and the threads.
#include "kernels/cpu/plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <utility>

namespace rillkv::kernels::cpu {
namespace {

struct PlanCase {
  int threads, kv_heads, group, head_dim, queries, blocks;
};

void check(const PlanCase& c) {
  SCOPED_TRACE(testing::Message() << "threads " << c.threads << " kv_heads " << c.kv_heads
                                  << " group " << c.group << " queries " << c.queries << " blocks "
                                  << c.blocks);
  AttentionParams params;
  params.kv_heads = c.kv_heads;
  params.heads = c.kv_heads * c.group;
  params.head_dim = c.head_dim;
  params.query_count = c.queries;
  params.prefix.block_count = c.blocks;
  const AttentionPlan plan(params, c.threads);
  const int tiles = c.blocks + 3;
  ASSERT_GE(plan.parts, 1);

  // The shares of the context of each (kv head, query range).
  using Range = std::pair<int, int>;
  std::map<std::pair<int, Range>, std::vector<const AttentionTask*>> shares;
  std::set<std::pair<const float*, const float*>> outputs;
  for (const AttentionTask& task : plan.tasks) {
    ASSERT_TRUE(task.kv_head >= 0 && task.kv_head < c.kv_heads);
    ASSERT_TRUE(0 <= task.query_begin && task.query_begin < task.query_end &&
                task.query_end <= c.queries);
    ASSERT_LE(task.query_end - task.query_begin, plan.query_tokens);
    shares[{task.kv_head, {task.query_begin, task.query_end}}].push_back(&task);
    ASSERT_EQ(task.partial != nullptr, plan.parts > 1);
    if (task.partial == nullptr) continue;
    const auto floats =
        static_cast<ptrdiff_t>(task.query_end - task.query_begin) * c.group * (c.head_dim + 2);
    ASSERT_GE(task.partial, plan.partials.data());
    ASSERT_LE(task.partial + floats, plan.partials.data() + plan.partials.size());
    outputs.insert({task.partial, task.partial + floats});
  }
  // Tiles: contiguous from the first to the last, in the order of the partial results.
  std::map<int, std::vector<Range>> ranges;
  for (const auto& [key, tasks] : shares) {
    ranges[key.first].push_back(key.second);
    ASSERT_EQ(tasks.size(), static_cast<size_t>(plan.parts));
    int next = 0;
    for (const AttentionTask* task : tasks) {
      ASSERT_EQ(task->tile_begin, next);
      ASSERT_LE(task->tile_begin, task->tile_end);
      next = task->tile_end;
    }
    ASSERT_EQ(next, tiles);
  }
  // Queries: every kv head's ranges cover 0 .. count once.
  ASSERT_EQ(ranges.size(), static_cast<size_t>(c.queries > 0 ? c.kv_heads : 0));
  for (auto& [head, of_head] : ranges) {
    std::sort(of_head.begin(), of_head.end());
    int next = 0;
    for (const Range& range : of_head) {
      ASSERT_EQ(range.first, next);
      next = range.second;
    }
    ASSERT_EQ(next, c.queries);
  }
  // Partial results neither overlap nor leave their buffer, and merges find them contiguous.
  if (plan.parts > 1) {
    ASSERT_EQ(outputs.size(), plan.tasks.size());
  }
  const float* end = nullptr;
  for (const auto& [from, to] : outputs) {
    ASSERT_LE(end == nullptr ? from : end, from);
    end = to;
  }
  ASSERT_EQ(plan.merges.size(), plan.parts > 1 ? shares.size() : 0);
  for (const auto& merge : plan.merges) {
    const auto found = shares.find({merge.kv_head, {merge.query_begin, merge.query_end}});
    ASSERT_NE(found, shares.end());
    const auto floats =
        static_cast<ptrdiff_t>(merge.query_end - merge.query_begin) * c.group * (c.head_dim + 2);
    for (int part = 0; part < plan.parts; ++part) {
      ASSERT_EQ(found->second[static_cast<size_t>(part)]->partial, merge.partials + part * floats);
    }
  }
  // The partial results are working memory: O(threads x a task's rows), never the context's length.
  const size_t task_floats = static_cast<size_t>(plan.query_tokens) * static_cast<size_t>(c.group) *
                             static_cast<size_t>(c.head_dim + 2);
  ASSERT_LE(plan.partials.size(), plan.tasks.size() * task_floats);
  // A prefetch hint names a task of this plan.
  for (const AttentionTask& task : plan.tasks) {
    if (task.next == nullptr) continue;
    ASSERT_GE(task.next, plan.tasks.data());
    ASSERT_LT(task.next, plan.tasks.data() + plan.tasks.size());
  }
}

TEST(AttentionPlan, EveryQueryMeetsEveryTileOnce) {
  for (int threads : {1, 2, 3, 4, 7, 16, 64}) {
    for (int kv_heads : {1, 2, 3, 5, 8, 32}) {
      for (int group : {1, 3, 8, 32}) {
        for (int queries : {0, 1, 2, 17, 256, 1000}) {
          for (int blocks : {0, 1, 3, 4, 31, 255}) {
            check({threads, kv_heads, group, 64, queries, blocks});
            if (HasFatalFailure()) return;
          }
        }
      }
    }
  }
}

TEST(AttentionPlan, TasksHaveAtMostTheRowsAskedFor) {
  AttentionParams params;
  params.heads = 32;
  params.kv_heads = 8;
  params.head_dim = 128;
  params.query_count = 256;
  params.prefix.block_count = 32;
  for (int task_rows : {512, 1024}) {
    const AttentionPlan plan(params, 2, task_rows);
    EXPECT_EQ(plan.tasks.size(), static_cast<size_t>(32 * 256 / task_rows));
    for (const AttentionTask& task : plan.tasks) {
      EXPECT_LE((task.query_end - task.query_begin) * 4, task_rows);
    }
  }
}

TEST(AttentionPlan, PartialsDoNotGrowWithTheContext) {
  for (int queries : {1, 256}) {
    AttentionParams params;
    params.heads = params.kv_heads = 3;
    params.head_dim = 64;
    params.query_count = queries;
    params.prefix.block_count = 64;
    const size_t at_8k = AttentionPlan(params, 4).partials.size();
    params.prefix.block_count = 8192;
    EXPECT_EQ(AttentionPlan(params, 4).partials.size(), at_8k) << queries << " queries";
  }
}

}  // namespace
}  // namespace rillkv::kernels::cpu
