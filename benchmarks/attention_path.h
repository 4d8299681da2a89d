// The way that one of bench_attention's cases takes on a device, and what the model expects of it.
#pragma once

#include <string>

#include "benchmarks/attention_cuda.h"
#include "benchmarks/slice_model.h"
#include "src/core/slice_attention.h"

namespace rillkv::bench {

struct AttentionPath {
  std::string name;    // fused, slices or slices-flash, as RILLKV_PREFILL names them
  std::string entry;   // of the fused kernel; empty by slices, which are several launches
  int splits = 1;      // its
  double bound_s = 0;  // 0: the model has none
  double expected_s = 0;
};

/// Attends as core does under `options`: by slices where there are some, else by the fused kernel.
inline AttentionPath attend_case(CudaCase& on_device, const Gpu& gpu, double cache_bytes,
                                 const SliceOptions& options) {
  if (on_device.run(options)) {
    const bool flash = options.path == PrefillPath::kSlicesFlash;
    AttentionPath path;
    path.name = flash ? "slices-flash" : "slices";
    path.expected_s =
        predict_slices(gpu, on_device.params(), flash ? kFlashFlops : kCudnnFlops).expected_s();
    return path;
  }
  const Prediction fused = predict(gpu, on_device.params(), cache_bytes);
  return {"fused", fused.entry, fused.splits, fused.bound_s(), fused.expected_s()};
}

}  // namespace rillkv::bench
