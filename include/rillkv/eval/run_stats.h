// What one run of a model over one prompt is measured by.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>

#include "rillkv/eval/memory_sampler.h"
#include "rillkv/kv_cache.h"

namespace rillkv::eval {

/// Measurements of one run on one cache. What was not measured stays 0.
struct RunStats {
  int64_t prompt_tokens = 0;
  int64_t new_tokens = 0;
  double ttft_s = 0;              ///< Start of the prefill to the first new token.
  int64_t decode_steps = 0;       ///< Forward passes of one token after the prefill ...
  double decode_s = 0;            ///< ... and their time.
  CacheReport cache;              ///< At the end of the run.
  MemoryUse memory;               ///< Resident set size while it ran.
  int64_t device_peak_bytes = 0;  ///< Allocated on an accelerator.
};

/// All of it, for logs that a resumed run reads back.
nlohmann::json to_json(const RunStats& stats);
/// Reads what to_json wrote; missing keys stay 0. Throws Error for a value of another type.
RunStats run_stats_from_json(const nlohmann::json& json);

nlohmann::json to_json(const KeyValueTotal& total);
/// Widths (channels of 0..8 bits), outlier rates and sealed blocks of every layer.
nlohmann::json to_json(const std::vector<LayerReport>& layers);

}  // namespace rillkv::eval
