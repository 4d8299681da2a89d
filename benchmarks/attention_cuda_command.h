// What bench_attention does for CUDA devices:
//
//   bench_attention --device cuda [--depths N,...] [--json FILE]
//                                    uploads the cases, verifies them, times them by CUDA events;
//                                    prefill as RILLKV_PREFILL says: by the fused kernel, or by
//                                    slices where a case has some
//   bench_attention --predictions    the model's table (scripts/performance_model.py formats it)
#pragma once

#include <algorithm>
#include <cstdio>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include "benchmarks/attention_cuda.h"
#include "benchmarks/attention_path.h"
#include "benchmarks/cuda_timing.h"
#include "rillkv/error.h"
#include "rillkv/files.h"
#include "support/cli.h"

namespace rillkv::bench {

inline constexpr Shape kCudaShapes[] = {{32, 8, 128}, {9, 3, 64}};
inline constexpr int kCudaDepths[] = {4096, 8192, 16384, 32768, 65536, 131072};

struct CudaAttentionOptions {
  std::string device, json;
  std::vector<int> depths{std::begin(kCudaDepths), std::end(kCudaDepths)};
};

/// What the model says, and its share of the time that was taken.
inline std::string beside(const char* what, double model_s, double taken_s) {
  if (model_s == 0) return str_cat("no ", what);
  char text[64];
  std::snprintf(text, sizeof text, "%s %.3f ms (%3.0f%%)", what, 1e3 * model_s,
                100 * model_s / taken_s);
  return text;
}

/// The report is written anew after each case: what is there counts, even if the program is ended.
inline void time_on_cuda(const CudaAttentionOptions& options) {
  const SliceOptions slices = {.path = prefill_path()};
  const at::Device device = open_device(options.device);
  const auto backend = cuda_backend(device);
  const Gpu gpu = gpu_of(device);
  std::printf("%s: %d SMs at %.2f GHz, %.0f GB/s\n", gpu.name.c_str(), gpu.multiprocessors,
              gpu.clock / 1e9, gpu.bandwidth / 1e9);
  nlohmann::ordered_json report = {{"context", device_json(gpu)},
                                   {"results", nlohmann::ordered_json::array()}};
  DeviceClock clock(device);
  int wrong = 0;
  // The longest come last.
  for (const int depth : options.depths) {
    for (const Shape& shape : kCudaShapes) {
      for (const int queries : {256, 1}) {
        Case host({shape, queries, depth, mixes()[0], Dtype::kBFloat16, true});
        CudaCase on_device(host, *backend);
        const double bytes = static_cast<double>(host.packed_bytes());
        const AttentionPath path = attend_case(on_device, gpu, bytes, slices);
        const double error = on_device.relative_error();
        // The roundings of bf16 tiles, as for the CPU's kernels; these have fp16 ones.
        const bool right = error <= 2e-2;
        wrong += !right;
        const double t = clock.cold([&] { on_device.run(slices); });
        const char* kind = queries == 1 ? "decode" : "prefill";
        const std::string name = std::to_string(shape.heads) + "/" +
                                 std::to_string(shape.kv_heads) + "/" +
                                 std::to_string(shape.head_dim);
        std::printf(
            "%-7s %-9s %6d %-12s %-26s %8.3f ms %7.1f TFLOP/s %7.1f GB/s | %s, %s | error %.1e%s\n",
            kind, name.c_str(), depth, path.name.c_str(), path.entry.c_str(), 1e3 * t,
            host.flops() / t / 1e12, bytes / t / 1e9, beside("bound", path.bound_s, t).c_str(),
            beside("expected", path.expected_s, t).c_str(), error, right ? "" : " WRONG");
        std::fflush(stdout);
        report["results"].push_back({{"kind", kind},
                                     {"shape", name},
                                     {"queries", queries},
                                     {"depth", depth},
                                     {"mix", mixes()[0].name},
                                     {"dtype", "bf16"},
                                     {"path", path.name},
                                     {"entry", path.entry},
                                     {"splits", path.splits},
                                     {"seconds", t},
                                     {"flops_per_s", host.flops() / t},
                                     {"cache_bytes", bytes},
                                     {"cache_bytes_per_s", bytes / t},
                                     {"bound_s", path.bound_s},
                                     {"expected_s", path.expected_s},
                                     {"relative_error", error},
                                     {"right", right}});
        if (!options.json.empty()) write_file_atomically(options.json, report.dump(2) + "\n");
      }
    }
  }
  RILLKV_CHECK(wrong == 0, wrong, " of ", report["results"].size(), " results are wrong");
}

inline void print_predictions() {
  std::printf(
      "gpu,heads,kv_heads,head_dim,queries,cached,entry,ctas,splits,ctas_an_sm,cache_bytes,flops,"
      "memory_s,mma_s,issue_s,merge_s,bound_s,expected_s\n");
  for (const Gpu& gpu : {a100(), h100()}) {
    for (const Shape& shape : kCudaShapes) {
      for (const int queries : {256, 1}) {
        for (const int depth : kCudaDepths) {
          const kernels::cuda::AttentionParams p =
              model_params(shape.heads, shape.kv_heads, shape.head_dim, queries, depth);
          const double bytes = model_cache_bytes(p);
          const Prediction r = predict(gpu, p, bytes);
          const double flops =
              4.0 * shape.heads * shape.head_dim * queries * (depth + (queries + 1) / 2.0);
          std::printf("%s,%d,%d,%d,%d,%d,%s,%d,%d,%d,%.0f,%.6g,%.6g,%.6g,%.6g,%.6g,%.6g,%.6g\n",
                      gpu.name.c_str(), shape.heads, shape.kv_heads, shape.head_dim, queries, depth,
                      r.entry.c_str(), r.ctas, r.splits, r.ctas_an_sm, bytes, flops, r.memory_s,
                      r.mma_s, r.issue_s, r.merge_s, r.bound_s(), r.expected_s());
        }
      }
    }
  }
}

/// Runs what the arguments ask for here; -1 if that is nothing.
inline int cuda_command(int argc, char** argv) {
  const auto given = [&](std::string_view name) {
    return std::find(argv + 1, argv + argc, name) != argv + argc;
  };
  if (argc == 2 && given("--predictions")) {
    print_predictions();
    return 0;
  }
  if (!given("--device")) return -1;
  CLI::App app("Attention over a compressed cache on a CUDA device");
  CudaAttentionOptions options;
  app.add_option("--device", options.device, "cuda or cuda:N")->required();
  app.add_option("--depths", options.depths, "Tokens cached before the queries")
      ->delimiter(',')
      ->check(CLI::Range(256, 1 << 20));
  app.add_option("--json", options.json, "Write the figures here, too");
  return cli::run(app, argc, argv, [&] {
    if (options.device == "cpu") {
      throw UsageError("--device: expected cuda or cuda:N; the CPU is measured without it");
    }
    cli::check_writable(options.json);
    time_on_cuda(options);
  });
}

}  // namespace rillkv::bench
