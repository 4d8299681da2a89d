#include "core/linear_runner.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>

#include "core/parallel.h"
#include "core/thread_workspace.h"

namespace rillkv {
namespace {

/// How a layer's work is divided: runs of panels times runs of rows.
struct Split {
  int64_t panel_runs, row_runs;
};

/// About four tasks a thread even out what the machine's other work takes away, and tasks of one
/// size, as many for every thread, where the panels allow it. A task takes all rows, so that a
/// panel's weights are read once, unless there are fewer panels than that. Many rows: at most
/// kMostPanels in a run, for whose sums the kernels have room at once; a longer task would only
/// keep the other threads waiting at the end.
Split split(int64_t panels, int64_t rows, int64_t threads) {
  constexpr int64_t kMostPanels = 16, kManyRows = 32;
  constexpr int64_t kUnit = kernels::cpu::kLinearRowUnit;
  const int64_t wanted = 4 * threads;
  int64_t least = 2 * threads, most = wanted;
  if (rows >= kManyRows) {
    least = std::max(least, (panels + kMostPanels - 1) / kMostPanels);
    most = std::max(most, (least + threads - 1) / threads * threads);
  }
  most = std::min(most, panels);
  int64_t runs = most;
  for (int64_t even = most; even >= least; --even) {
    if (panels % even == 0 && even % threads == 0) {
      runs = even;
      break;
    }
  }
  const int64_t row_runs = runs >= least ? 1 : std::min(rows / kUnit, (wanted + runs - 1) / runs);
  return {runs, std::max<int64_t>(row_runs, 1)};
}

/// All rows and outputs. params.tiles is filled in here.
void run(const kernels::cpu::KernelTable& isa, kernels::cpu::LinearParams params) {
  // Threads read what this one has made room for: apart from their own workspace.
  thread_local ThreadWorkspace tiles;
  const int64_t first = isa.first_tiled_row(params), tiled = params.rows - first;
  if (tiled > 0) {
    constexpr int64_t kShare = 64;  // rows; a few are not worth waking a thread
    params.tiles = tiles.get(kernels::cpu::linear_tiles_bytes(tiled, params.in_features));
    parallel_tasks((tiled + kShare - 1) / kShare, [&](int64_t task) {
      const int64_t begin = first + task * kShare;
      isa.tile_rows(params, begin, std::min(begin + kShare, params.rows));
    });
  }
  const size_t workspace_bytes = isa.linear_workspace_bytes(params);
  const int64_t panels = linear_panels(params.out_features);
  const Split tasks = split(panels, params.rows, at::get_num_threads());
  constexpr int64_t kUnit = kernels::cpu::kLinearRowUnit;
  const int64_t units = (params.rows + kUnit - 1) / kUnit;
  parallel_tasks(tasks.panel_runs * tasks.row_runs, [&](int64_t task) {
    thread_local ThreadWorkspace workspace;
    const int64_t run = task / tasks.row_runs, row_run = task % tasks.row_runs;
    isa.linear(params, panels * run / tasks.panel_runs, panels * (run + 1) / tasks.panel_runs,
               units * row_run / tasks.row_runs * kUnit,
               std::min(units * (row_run + 1) / tasks.row_runs * kUnit, params.rows),
               workspace.get(workspace_bytes));
  });
}

}  // namespace

at::Tensor run_linear(const kernels::cpu::KernelTable& isa, const at::Tensor& x,
                      const at::Tensor& packed, const at::Tensor& bias, int64_t out_features,
                      bool out_float32) {
  at::Tensor out = at::empty({x.size(0), out_features},
                             x.options().dtype(out_float32 ? at::kFloat : at::kBFloat16));
  kernels::cpu::LinearParams params;
  params.x = x.const_data_ptr();
  params.packed = packed.const_data_ptr();
  if (bias.defined()) params.bias = bias.const_data_ptr();
  params.out = out.mutable_data_ptr();
  params.out_float32 = out_float32;
  params.rows = x.size(0);
  params.in_features = x.size(1);
  params.out_features = out_features;
  run(isa, params);
  return out;
}

}  // namespace rillkv
