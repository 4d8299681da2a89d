// Every CUDA entry that a model uses, each on its own, and a whole model, on a GPU.
//
//   bench_cuda --device cuda [--model DIR] [--only GROUP,...] [--json FILE]
//   bench_cuda --device cuda --once [--only GROUP,...]   each launch once, untimed, for a profiler
//   bench_cuda --predictions     the model's tables beside attention's, for
//                                scripts/performance_model.py
//
// Groups: ingest, pack, decode (with merge: its launches are timed apart, too), prefill, rms_norm,
// gate, embed, begin_pass; "model" with --model. Each result is compared with a plain reference
// before it is timed, and a wrong one ends the program with status 1, after all have been timed.
// Times are medians of CUDA events: "cold" after a flush of the L2 cache, "warm" right after the
// same launch. "expected" is the performance model's (benchmarks/performance_model.md): what
// attention should take, and a floor of the others. Of a model the JSON also says what the host did
// for a prompt and for a token: launches, graphs, copies, waits.
#include <algorithm>
#include <cstdio>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "benchmarks/cuda_model.h"
#include "benchmarks/cuda_steps.h"
#include "benchmarks/cuda_timing.h"
#include "benchmarks/cuda_works.h"
#include "benchmarks/ingest_model.h"
#include "benchmarks/launch_model.h"
#include "benchmarks/slice_model.h"
#include "benchmarks/token_model.h"
#include "rillkv/files.h"
#include "support/cli.h"

namespace {

using namespace rillkv;
using bench::RecordingQueue;
using bench::Shape;
using bench::Work;
using Json = nlohmann::ordered_json;

struct Options {
  std::string device, model, json;
  std::vector<std::string> only;
  int rounds = 20;
  bool once = false;

  bool wants(const std::string& group) const {
    return only.empty() || std::find(only.begin(), only.end(), group) != only.end();
  }
};

constexpr Shape kShapes[] = {{32, 8, 128}, {9, 3, 64}};
constexpr int kDepth = 4096, kLong = 32768, kChunk = 256;
constexpr int kBatches[] = {1, 8, 32};

/// Hands works over one after another, so that only one's memory is there at a time. In `once`, the
/// smallest selection that has every entry.
template <typename Take>
void for_each_work(const Options& options, CudaBackend& backend, const bench::Gpu& gpu,
                   const Take& take) {
  const at::Device device = backend.device();
  const auto small = [&](Work work) {
    work.expected_s = bench::small_kernel_seconds(work.bytes, gpu.bandwidth);
    take(work);
  };
  for (const Shape& s : kShapes) {
    if (options.wants("ingest")) small(bench::ingest_work(s, kChunk, device));
    if (options.wants("pack")) small(bench::pack_work(s, kChunk, device));
    if (options.wants("prefill")) {
      for (const int depth : {kDepth, kLong}) {
        Work work = bench::prefill_work(s, depth, kChunk, backend);
        const auto p = bench::model_params(s.heads, s.kv_heads, s.head_dim, kChunk, depth);
        work.expected_s = bench::predict(gpu, p, bench::model_cache_bytes(p)).expected_s();
        take(work);
        if (options.once) break;
      }
    }
    if (options.wants("decode") || options.wants("merge") || options.wants("ingest")) {
      const auto batch = [&](int depth, int count) {
        for (Work work : bench::decode_works(s, depth, count, backend)) {
          if (!options.wants(work.group) && !(work.group == "decode" && options.wants("merge"))) {
            continue;
          }
          if (work.group == "decode" && count == 1) {
            const auto p = bench::model_params(s.heads, s.kv_heads, s.head_dim, 1, depth);
            work.expected_s = bench::predict(gpu, p, bench::model_cache_bytes(p)).expected_s();
          }
          if (work.group == "ingest") {
            small(work);
          } else {
            take(work);
          }
        }
      };
      for (const int count : kBatches) {
        batch(kDepth, count);
        if (options.once) break;
      }
      if (!options.once) batch(kLong, 1);
    }
    if (options.wants("begin_pass")) {
      for (const int count : kBatches) small(bench::begin_pass_work(s, count, device));
    }
  }
  for (const int rows : {1, 8, kChunk}) {
    for (const int columns : {576, 4096}) {
      if (options.wants("rms_norm")) small(bench::norm_work(rows, columns, device));
      if (options.wants("gate")) small(bench::gate_work(rows, columns * 8 / 3, device));
      if (options.wants("embed")) small(bench::embed_work(rows, 16384, columns, device));
    }
  }
}

void run(const Options& options) {
  const at::Device device = open_device(options.device);
  const auto backend = cuda_backend(device);
  const bench::Gpu gpu = bench::gpu_of(device);
  std::printf("%s: %d SMs at %.2f GHz, %.0f GB/s\n", gpu.name.c_str(), gpu.multiprocessors,
              gpu.clock / 1e9, gpu.bandwidth / 1e9);
  Json report = {
      {"context", bench::device_json(gpu)}, {"results", Json::array()}, {"model", Json::array()}};
  const auto save = [&] {
    if (!options.json.empty()) write_file_atomically(options.json, report.dump(2) + "\n");
  };
  bench::DeviceClock clock(device, options.rounds);
  int wrong = 0;
  for_each_work(options, *backend, gpu, [&](const Work& work) {
    RecordingQueue queue(backend->queue());
    work.run(queue);
    const double error = work.error();
    const bool right = error <= work.allowed;
    wrong += !right;
    if (options.once) {
      std::printf("%-64s %zu launches, error %.1e%s\n", work.name.c_str(), queue.size(), error,
                  right ? "" : " WRONG");
      return;
    }
    const auto timed = [&](const std::string& name, double expected, double bytes,
                           const std::function<void()>& call) {
      const double warm = clock.warm(call), cold = clock.cold(call);
      std::printf("%-64s warm %9.2f us, cold %9.2f us, expected %9.2f us, %7.1f GB/s%s\n",
                  name.c_str(), 1e6 * warm, 1e6 * cold, 1e6 * expected, bytes / cold / 1e9,
                  right ? "" : " WRONG");
      report["results"].push_back({{"group", work.group},
                                   {"name", name},
                                   {"launches", queue.size()},
                                   {"warm_s", warm},
                                   {"cold_s", cold},
                                   {"expected_s", expected},
                                   {"bytes", bytes},
                                   {"relative_error", error},
                                   {"right", right}});
    };
    timed(work.name, work.expected_s, work.bytes, [&] { work.run(backend->queue()); });
    if (queue.size() == 2) {  // attention and its merge
      for (size_t i = 0; i < queue.size(); ++i) {
        timed("  " + queue.entry(i), 0, 0, [&] { queue.replay(i); });
      }
    }
    std::fflush(stdout);
    save();
  });
  if (!options.model.empty() && options.wants("model") && !options.once) {
    bench::time_model(options.model, device, [&](const Json& result) {
      std::printf("%s\n", result.dump().c_str());
      std::fflush(stdout);
      report["model"].push_back(result);
      save();
    });
  }
  save();
  RILLKV_CHECK(wrong == 0, wrong, " results are wrong");
}

// Launches and synchronisations of a token before there were own kernels for norms, gate and
// ingest, counted in the sources then: 38 and one a layer, and some for the model.
constexpr bench::TokenPath kBefore = {"before", 1150, 32, false};

void print_predictions() {
  std::printf("what,gpu,name,depth,launches,synchronisations,device_s,total_s\n");
  for (const bench::Gpu& gpu : {bench::a100(), bench::h100()}) {
    for (const Shape& s : kShapes) {
      const bench::IngestEstimate e =
          bench::estimate_ingest(gpu, {s.heads, s.kv_heads, s.head_dim, kChunk});
      const auto pack_s = [&, &shape = s](bench::Coder coder) {
        return bench::estimate_ingest(gpu, {shape.heads, shape.kv_heads, shape.head_dim, kChunk},
                                      coder)
            .pack_s();
      };
      for (const auto& [what, seconds] :
           {std::pair{"ingest", e.ingest_s()}, std::pair{"pack", e.pack_s()},
            std::pair{"pack-feedback", pack_s(bench::Coder::kFeedback)},
            std::pair{"pack-trellis", pack_s(bench::Coder::kTrellis)}}) {
        std::printf("%s,%s,%s,%d,1,0,%.6g,%.6g\n", what, gpu.name.c_str(),
                    bench::name_of(s).c_str(), kChunk, seconds, seconds + e.launches_s / 2);
      }
    }
  }
  // device_s: of the fused kernel; total_s: by slices.
  for (const Shape& s : kShapes) {
    for (const int depth : {kDepth, kLong, 131072}) {
      const auto p = bench::slice_model_params(s.heads, s.kv_heads, s.head_dim, kChunk, depth);
      const double fused =
          bench::predict(bench::h100(), p, bench::model_cache_bytes(p)).expected_s();
      for (const auto& [what, flops] : {std::pair{"slices-flash", bench::kFlashFlops},
                                        std::pair{"slices-cudnn", bench::kCudnnFlops}}) {
        const bench::SlicePrediction slices = bench::predict_slices(bench::h100(), p, flops);
        std::printf("%s,H100,%s,%d,%d,0,%.6g,%.6g\n", what, bench::name_of(s).c_str(), depth,
                    3 * slices.slices + 3, fused, slices.expected_s());
      }
    }
  }
  const bench::TokenShape shape = bench::smollm2();
  const int launches = bench::launches_a_token(shape);
  for (const bench::Gpu& gpu : {bench::a100(), bench::h100()}) {
    for (const bench::TokenPath& path : {kBefore, bench::TokenPath{"launched", launches, 1, false},
                                         bench::TokenPath{"graph", launches, 1, true}}) {
      for (const int depth : {4096, 32768}) {
        const bench::TokenPrediction r = bench::predict_token(gpu, shape, path, depth);
        std::printf("token,%s,%s,%d,%d,%d,%.6g,%.6g\n", gpu.name.c_str(), path.name, depth,
                    path.launches, path.synchronisations, r.device_s, r.token_s);
      }
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 2 && std::string_view(argv[1]) == "--predictions") {
    print_predictions();
    return 0;
  }
  CLI::App app("Every CUDA entry on its own, and a whole model, on a CUDA device");
  Options options;
  app.add_option("--device", options.device, "cuda or cuda:N")->required();
  app.add_option("--model", options.model, "A checkpoint folder: also time the whole model");
  app.add_option("--only", options.only, "Groups to run")
      ->delimiter(',')
      ->check(CLI::IsMember({"ingest", "pack", "decode", "merge", "prefill", "rms_norm", "gate",
                             "embed", "begin_pass", "model"}));
  app.add_option("--rounds", options.rounds, "Rounds, of which the median counts")
      ->check(CLI::Range(1, 1000));
  app.add_flag("--once", options.once, "Each launch once, untimed, for a profiler");
  app.add_option("--json", options.json, "Write the figures here, too");
  return cli::run(app, argc, argv, [&] {
    if (options.device == "cpu") throw UsageError("--device: expected cuda or cuda:N");
    cli::check_writable(options.json);
    run(options);
  });
}
