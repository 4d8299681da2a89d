// Attention of one layer over a compressed cache, and Torch's SDPA over the same cache dense, in
// one process.
//
//   bench_attention                      the design's targets: both sides interleaved, medians
//   bench_attention --growth             the same at depths from 1k to 32k, sinks, tail and causal
//                                        chunk included, and by how much the time grows
//   bench_attention --mixes              the same for every preset and choice of widths
//   bench_attention --trellis            trellis blocks beside "balanced", interleaved, with the
//                                        median of their ratios
//   bench_attention --all [--benchmark_...]   Google Benchmark: shapes x depths x mixes x ISAs x
//                                        dtypes, about 1500 cases: choose by --benchmark_filter
//   bench_attention --device cuda [--depths N,...]   on a GPU, with the share of what the model
//                                        predicts; prefill as RILLKV_PREFILL says (fused, slices,
//                                        slices-flash, auto), and which way it went
//   ... --json FILE                      the figures of all but --all, for programs (--all has
//                                        --benchmark_out)
//
// Every result is compared with fp32 attention over the dequantised cache before it is timed, and a
// wrong one is an error. Decode is timed cold: the caches are flushed before each iteration,
// outside the time. Counters: bytes read of the cache and bytes/s, GFLOP/s of the two products, and
// both as shares of what this machine was measured to do at most when the program began.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "benchmarks/attention_case.h"
#include "benchmarks/attention_cuda_command.h"
#include "benchmarks/clock.h"
#include "benchmarks/machine_peak.h"
#include "benchmarks/run_context.h"
#include "core/huge_page_arena.h"
#include "rillkv/error.h"
#include "rillkv/files.h"

namespace {

using rillkv::HugePageArena;
using rillkv::bench::CacheFlush;
using rillkv::bench::Case;
using rillkv::bench::MachinePeak;
using rillkv::bench::median;
using rillkv::bench::Mix;
using rillkv::bench::Problem;
using rillkv::bench::seconds;
using rillkv::bench::Shape;
using rillkv::kernels::Dtype;
namespace cpu = rillkv::kernels::cpu;

MachinePeak peak;
constexpr Shape kShapes[] = {{32, 8, 128}, {9, 3, 64}, {32, 32, 128}};
constexpr int kDepths[] = {1024, 2048, 4096, 8192, 16384, 32768};

// fp32 kernels differ from the reference by rounding. bf16 rounds rotated keys, queries, weights
// and the output to 2^-9 relative each; measured 3e-3 to 6e-3, so 2e-2 only lets rounding through.
double allowed_error(Dtype dtype) { return dtype == Dtype::kFloat32 ? 2e-5 : 2e-2; }

std::string name_of(const Shape& s) {
  return std::to_string(s.heads) + "/" + std::to_string(s.kv_heads) + "/" +
         std::to_string(s.head_dim);
}

const char* name_of(Dtype dtype) { return dtype == Dtype::kFloat32 ? "fp32" : "bf16"; }

/// The case asked for last, so that neighbouring benchmarks share it.
Case& case_of(const Problem& problem) {
  static std::string key;
  static std::unique_ptr<Case> last;
  const std::string wanted = name_of(problem.shape) + problem.mix.name + name_of(problem.dtype) +
                             std::to_string(problem.queries) + "," +
                             std::to_string(problem.cached) + (problem.whole ? "w" : "");
  if (key != wanted) {
    last.reset();
    last = std::make_unique<Case>(problem);
    key = wanted;
  }
  return *last;
}

/// Torch's attention over the dense cache in `type`, as a call without arguments.
std::function<void()> torch_attention(const Case& c, at::ScalarType type, bool expand) {
  const Shape& s = c.problem().shape;
  at::Tensor q = c.torch_queries(type), k = c.torch_keys(type), v = c.torch_values(type);
  if (expand) {  // heads of a group point at the same memory
    const int64_t group = s.heads / s.kv_heads;
    const auto spread = [&](const at::Tensor& x) {
      return x.unsqueeze(2)
          .expand({1, s.kv_heads, group, x.size(2), x.size(3)})
          .reshape({1, s.heads, x.size(2), x.size(3)});
    };
    k = spread(k);
    v = spread(v);
  }
  // In huge pages, as our blocks are.
  HugePageArena memory;
  k = memory.take(k.sizes(), type).copy_(k);
  v = memory.take(v.sizes(), type).copy_(v);
  at::Tensor mask = c.torch_mask();
  if (mask.defined())
    mask = at::zeros(mask.sizes(), type).masked_fill_(mask.logical_not(), -INFINITY);
  const bool gqa = s.heads != s.kv_heads && !expand;
  return [=] {
    benchmark::DoNotOptimize(at::scaled_dot_product_attention(
        q, k, v, mask.defined() ? std::optional<at::Tensor>(mask) : std::nullopt, 0.0, false,
        std::nullopt, gqa));
  };
}

/// As kernel tables name it: what the tiles of a problem are made of.
std::string arithmetic_of(const cpu::KernelTable& table, Dtype dtype) {
  return dtype == Dtype::kBFloat16 ? table.arithmetic.tiles : "fp32";
}

void set_counters(benchmark::State& state, const Case& c, double bytes,
                  const std::string& arithmetic) {
  const auto rate = benchmark::Counter::kIsIterationInvariantRate;
  state.counters["cache_bytes"] = bytes;
  state.counters["bytes/s"] = benchmark::Counter(bytes, rate);
  state.counters["flop/s"] = benchmark::Counter(c.flops(), rate);
  const double flops = peak.flops(arithmetic);
  if (flops > 0) state.counters["flop_share"] = benchmark::Counter(c.flops() / flops, rate);
  if (peak.read_bytes > 0) {
    state.counters["read_share"] = benchmark::Counter(bytes / peak.read_bytes, rate);
  }
}

void time_calls(benchmark::State& state, bool cold, const std::function<void()>& call) {
  static CacheFlush flush;
  for (auto _ : state) {
    if (cold) flush();
    const double begin = seconds();
    call();
    state.SetIterationTime(seconds() - begin);
  }
}

void ours(benchmark::State& state, const Problem& problem, const char* isa) {
  const cpu::KernelTable* table = cpu::find_kernels(isa);
  Case& c = case_of(problem);
  c.run(*table);
  const double error = c.relative_error();
  if (!(error <= allowed_error(problem.dtype))) {
    state.SkipWithError(("wrong result: relative error " + std::to_string(error)).c_str());
    return;
  }
  time_calls(state, problem.queries == 1, [&] { c.run(*table); });
  set_counters(state, c, static_cast<double>(c.packed_bytes()),
               arithmetic_of(*table, problem.dtype));
  state.counters["error"] = error;
  state.counters["bits"] = c.bits_an_element();
}

void torch(benchmark::State& state, const Problem& problem) {
  Case& c = case_of(problem);
  const auto type = rillkv::bench::scalar_type(problem.dtype);
  time_calls(state, problem.queries == 1, torch_attention(c, type, false));
  const Shape& s = problem.shape;
  set_counters(state, c,
               2.0 * s.kv_heads * s.head_dim * problem.cached * (type == at::kFloat ? 4 : 2),
               type == at::kFloat ? "fp32" : "bf16");
}

void register_all() {
  for (const int queries : {256, 1}) {
    for (const Shape& shape : kShapes) {
      for (const int depth : kDepths) {
        for (const Dtype dtype : {Dtype::kBFloat16, Dtype::kFloat32}) {
          const std::string base = std::string(queries == 1 ? "decode/" : "prefill/") +
                                   name_of(shape) + "/" + std::to_string(depth) + "/" +
                                   name_of(dtype) + "/";
          const auto add = [&](const std::string& name, const auto& function) {
            benchmark::RegisterBenchmark((base + name).c_str(), function)
                ->UseManualTime()
                ->Unit(benchmark::kMillisecond);
          };
          for (const Mix& mix : rillkv::bench::mixes()) {
            const Problem problem = {shape, queries, depth, mix, dtype, true};
            if (mix.name == "balanced") {
              add("torch", [=](benchmark::State& state) { torch(state, problem); });
            }
            for (const char* isa : {"amx", "avx512_bf16", "avx512_fp32", "avx2", "scalar"}) {
              if (cpu::find_kernels(isa) == nullptr) continue;
              add(mix.name + "/" + isa,
                  [=](benchmark::State& state) { ours(state, problem, isa); });
            }
          }
        }
      }
    }
  }
}

// ---- the targets ----

/// Times the calls in turn, so that what else the machine does hits all of them alike.
std::vector<double> interleaved(const std::vector<std::function<void()>>& calls, int rounds,
                                bool cold) {
  static CacheFlush flush;
  std::vector<std::vector<double>> times(calls.size());
  for (const auto& call : calls) call();
  for (int round = 0; round < rounds; ++round) {
    for (size_t i = 0; i < calls.size(); ++i) {
      if (cold) flush();
      const double begin = seconds();
      calls[i]();
      times[i].push_back(seconds() - begin);
    }
  }
  std::vector<double> medians;
  for (auto& t : times) medians.push_back(median(t));
  return medians;
}

using Json = nlohmann::ordered_json;
Json results = Json::array();

/// Times one problem and prints its line. Returns our seconds; throws if the result is wrong.
double ratio(const Shape& shape, int queries, int depth, const Mix& mix, Dtype dtype, bool whole,
             const char* isa, int rounds) {
  const cpu::KernelTable* table = cpu::find_kernels(isa);
  if (table == nullptr) return 0;
  Case c({shape, queries, depth, mix, dtype, whole});
  c.run(*table);
  const double error = c.relative_error();
  std::vector<std::function<void()>> calls = {[&] { c.run(*table); }};
  std::vector<std::string> names = {"ours"};
  for (const at::ScalarType type : {at::kBFloat16, at::kFloat}) {
    for (const bool expand : {false, true}) {
      if (expand && shape.heads == shape.kv_heads) continue;
      calls.push_back(torch_attention(c, type, expand));
      names.push_back(std::string(type == at::kFloat ? "fp32" : "bf16") + (expand ? "x" : ""));
    }
  }
  const char* kind = queries == 1 ? "decode" : "prefill";
  RILLKV_CHECK(error <= allowed_error(dtype), kind, " ", name_of(shape), " ", depth, " ", mix.name,
               " ", name_of(dtype), " ", isa, ": wrong result, relative error ", error);
  const auto t = interleaved(calls, rounds, queries == 1);
  double best = 1e30, best_bf16 = 1e30;
  for (size_t i = 1; i < t.size(); ++i) {
    best = std::min(best, t[i]);
    if (names[i][0] == 'b') best_bf16 = std::min(best_bf16, t[i]);
  }
  const double flops_share = c.flops() / t[0] / peak.flops(arithmetic_of(*table, dtype));
  const double bytes = static_cast<double>(c.packed_bytes());
  std::printf(
      "%-7s %-9s %6d %-12s %s %-6s %-5s %8.3f ms %6.1f GFLOP/s (%2.0f%%) %5.1f GB/s (%2.0f%%)",
      kind, name_of(shape).c_str(), depth, mix.name.c_str(), name_of(dtype), isa,
      whole ? "whole" : "plain", t[0] * 1e3, c.flops() / t[0] / 1e9, 100 * flops_share,
      bytes / t[0] / 1e9, 100 * bytes / t[0] / peak.read_bytes);
  std::printf(" | %5.2fx Torch's best, %5.2fx its bf16 |", best / t[0], best_bf16 / t[0]);
  Json torch_seconds;
  for (size_t i = 1; i < t.size(); ++i) {
    std::printf(" %s %.2f", names[i].c_str(), t[i] * 1e3);
    torch_seconds[names[i]] = t[i];
  }
  std::printf(" | error %.1e, %.3f bits\n", error, c.bits_an_element());
  std::fflush(stdout);
  results.push_back({{"kind", kind},
                     {"shape", name_of(shape)},
                     {"queries", queries},
                     {"depth", depth},
                     {"mix", mix.name},
                     {"dtype", name_of(dtype)},
                     {"isa", isa},
                     {"whole", whole},
                     {"seconds", t[0]},
                     {"torch_seconds", torch_seconds},
                     {"over_torch_best", best / t[0]},
                     {"over_torch_bf16", best_bf16 / t[0]},
                     {"flops_per_s", c.flops() / t[0]},
                     {"flops_share", flops_share},
                     {"cache_bytes", bytes},
                     {"read_share", bytes / t[0] / peak.read_bytes},
                     {"bits_per_element", c.bits_an_element()},
                     {"relative_error", error}});
  return t[0];
}

// The kernels that this machine takes when nobody says otherwise, and the dtype they are made for.
const char* best_isa() { return cpu::kernels().name; }
Dtype best_dtype() { return cpu::kernels().linear != nullptr ? Dtype::kBFloat16 : Dtype::kFloat32; }

void targets() {
  const Mix& balanced = rillkv::bench::mix_named("balanced");
  const auto run = [&](int shape, int queries, bool whole, int rounds) {
    ratio(kShapes[shape], queries, 4096, balanced, best_dtype(), whole, best_isa(), rounds);
  };
  for (const bool whole : {false, true}) {
    run(0, 256, whole, 7);
    run(1, 256, whole, 15);
    run(2, 1, whole, 21);
    run(0, 1, whole, 21);
    run(1, 1, whole, 41);
  }
}

void growth() {
  const Mix& balanced = rillkv::bench::mix_named("balanced");
  for (const int queries : {256, 1}) {
    double first = 0;
    for (const int depth : kDepths) {
      const double t = ratio(kShapes[1], queries, depth, balanced, best_dtype(), true, best_isa(),
                             queries == 1 ? 15 : 3);
      if (first == 0) first = t;
      std::printf("  %dx the depth of the first, %.2fx its time\n", depth / kDepths[0], t / first);
      results.back()["time_over_first_depth"] = t / first;
    }
  }
}

void all_mixes() {
  for (const Mix& mix : rillkv::bench::mixes()) {
    for (const int shape : {0, 1}) {
      ratio(kShapes[shape], 256, 4096, mix, best_dtype(), true, best_isa(), 5);
    }
    for (const int shape : {2, 1}) {
      ratio(kShapes[shape], 1, 4096, mix, best_dtype(), true, best_isa(), 21);
    }
  }
}

/// Trellis blocks and "balanced" in turn: what a block of one costs beside one of the other.
void trellis() {
  for (const int queries : {256, 1}) {
    for (const Shape& shape : {kShapes[1], kShapes[0], kShapes[2]}) {
      const cpu::KernelTable& table = cpu::kernels();
      const Problem balanced = {shape,        queries, 4096, rillkv::bench::mix_named("balanced"),
                                best_dtype(), false};
      Problem problem = balanced;
      problem.mix = rillkv::bench::trellis_mix();
      Case ours(problem), other(balanced);
      ours.run(table);
      const double error = ours.relative_error();
      RILLKV_CHECK(error <= allowed_error(best_dtype()), "trellis ", name_of(shape),
                   ": wrong result, relative error ", error);
      static CacheFlush flush;
      std::vector<double> ratios, times[2];
      for (int round = 0; round < (queries == 1 ? 61 : 9); ++round) {
        double took[2];
        for (const int side : {round % 2, 1 - round % 2}) {
          if (queries == 1) flush();
          const double begin = seconds();
          (side == 0 ? ours : other).run(table);
          took[side] = seconds() - begin;
          times[side].push_back(took[side]);
        }
        ratios.push_back(took[0] / took[1]);
      }
      const double ratio = median(ratios), mine = median(times[0]), theirs = median(times[1]);
      std::printf(
          "%-7s %-9s 4096 %-6s trellis %8.3f ms, balanced %8.3f ms, median ratio %.3f, %.3f and "
          "%.3f bits, error %.1e\n",
          queries == 1 ? "decode" : "prefill", name_of(shape).c_str(), table.name, mine * 1e3,
          theirs * 1e3, ratio, ours.bits_an_element(), other.bits_an_element(), error);
      std::fflush(stdout);
      results.push_back({{"kind", queries == 1 ? "decode" : "prefill"},
                         {"shape", name_of(shape)},
                         {"trellis_seconds", mine},
                         {"balanced_seconds", theirs},
                         {"median_ratio", ratio},
                         {"relative_error", error}});
    }
  }
}

/// A tiny case on every instruction set: do the programs and their checks work at all?
void smoke() {
  for (const char* isa : {"avx512", "avx2", "scalar"}) {
    for (const int queries : {17, 1}) {
      ratio(kShapes[1], queries, 300, rillkv::bench::mix_named("balanced"), Dtype::kFloat32, true,
            isa, 1);
    }
  }
}

}  // namespace

int main(int argc, char** argv) try {
  if (const int code = rillkv::bench::cuda_command(argc, argv); code >= 0) return code;
  std::string mode, json;
  std::vector<char*> others = {argv[0]};
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--json" && i + 1 < argc) {
      json = argv[++i];
    } else if (argument == "--growth" || argument == "--mixes" || argument == "--smoke" ||
               argument == "--trellis" || argument == "--all") {
      mode = argument;
    } else {
      others.push_back(argv[i]);
    }
  }
  if (mode != "--all" && others.size() > 1) {
    std::fprintf(
        stderr,
        "bench_attention: unknown argument %s (expected --growth, --mixes, --trellis, --all, "
        "--json FILE)\n",
        others[1]);
    return 2;
  }
  peak = rillkv::bench::measure_machine();
  if (mode == "--all") {
    // Google Benchmark may write JSON to stdout: what is said for people goes elsewhere.
    rillkv::bench::print_context(stderr, peak);
    const Json context = rillkv::bench::context_json(peak);
    for (const auto& [key, value] : context.items()) {
      benchmark::AddCustomContext(key, value.is_string() ? value.get<std::string>() : value.dump());
    }
    register_all();
    int count = static_cast<int>(others.size());
    benchmark::Initialize(&count, others.data());
    if (benchmark::ReportUnrecognizedArguments(count, others.data())) return 2;
    benchmark::RunSpecifiedBenchmarks();
    benchmark::Shutdown();
    return 0;
  }
  rillkv::bench::print_context(stdout, peak);
  std::printf(
      "medians of interleaved runs; Torch: SDPA, dense cache, enable_gqa (x: expanded heads)\n");
  if (mode == "--smoke") {
    smoke();
  } else if (mode == "--growth") {
    growth();
  } else if (mode == "--trellis") {
    trellis();
  } else if (mode == "--mixes") {
    all_mixes();
  } else {
    targets();
  }
  if (!json.empty()) {
    const Json report = {{"context", rillkv::bench::context_json(peak)}, {"results", results}};
    rillkv::write_file_atomically(json, report.dump(2) + "\n");
  }
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "bench_attention: %s\n", error.what());
  return 1;
}
