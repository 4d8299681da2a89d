// Linear layers in bf16: our packed weights by instruction set, Torch's at::linear, and oneDNN's
// own prepacked weights, in one process.
//
//   bench_linear                     all layers and rows: medians of interleaved calls, and ratios
//   bench_linear --layers smollm2    layers whose name contains the word
//   bench_linear --rows 1,512        other rows than 1, 16, 256 and 512
//   ... --rounds N                   calls of each side (default: 1 s for all of them, 5 to 200)
//   ... --json FILE                  the figures, for programs
//
// A layer has as many copies as fill 128 MB (3 at least), which take turns: weights come from
// memory, as they do in a model whose layers follow one another, and x from the caches. Every side
// is compared with fp32 before it is timed, and a wrong result of ours is an error. GB/s is the
// weights alone.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "benchmarks/clock.h"
#include "benchmarks/machine_peak.h"
#include "benchmarks/run_context.h"
#include "core/huge_page_arena.h"
#include "core/linear_runner.h"
#include "core/parallel.h"
#include "kernels/cpu/isa.h"
#include "rillkv/error.h"
#include "rillkv/files.h"

namespace {

using rillkv::HugePageArena;
using rillkv::bench::seconds;
using rillkv::kernels::cpu::find_kernels;
using rillkv::kernels::cpu::KernelTable;
using Json = nlohmann::ordered_json;

struct Shape {
  const char* model;
  int64_t in, out;
  bool last_row_only = false;  // the vocabulary: one row, whatever the prompt
};
constexpr Shape kShapes[] = {
    {"smollm2-135m", 576, 960},   {"smollm2-135m", 576, 576},         {"smollm2-135m", 576, 3072},
    {"smollm2-135m", 1536, 576},  {"smollm2-135m", 576, 49152, true}, {"qwen2.5-1.5b", 1536, 2048},
    {"qwen2.5-1.5b", 1536, 1536}, {"qwen2.5-1.5b", 1536, 17920},      {"qwen2.5-1.5b", 8960, 1536},
    {"llama-2-7b", 4096, 12288},  {"llama-2-7b", 4096, 4096},         {"llama-2-7b", 4096, 11008},
    {"llama-2-7b", 11008, 4096}};
constexpr Shape kTiny = {"tiny", 70, 45};

std::string name_of(const Shape& s) {
  return std::string(s.model) + " " + std::to_string(s.in) + "->" + std::to_string(s.out);
}

/// One way to multiply by copy `i` of the weights.
struct Side {
  std::string name;
  bool ours;
  std::function<at::Tensor(const at::Tensor& x, size_t i)> multiply;
};

/// oneDNN's prepacked weights, which Torch offers to its compiler alone: through the dispatcher.
class OneDnn {
 public:
  static std::optional<OneDnn> find() {
    auto& dispatcher = c10::Dispatcher::singleton();
    const auto reorder = dispatcher.findSchema({"mkldnn::_reorder_linear_weight", ""});
    const auto linear = dispatcher.findSchema({"mkldnn::_linear_pointwise", ""});
    if (!reorder || !linear) return std::nullopt;
    return OneDnn(*reorder, *linear);
  }

  at::Tensor reorder(const at::Tensor& weight, int64_t rows) const {
    std::vector<c10::IValue> stack = {weight, rows};
    reorder_.callBoxed(&stack);
    return stack.front().toTensor();
  }
  at::Tensor multiply(const at::Tensor& x, const at::Tensor& weight) const {
    std::vector<c10::IValue> stack = {
        x, weight, c10::IValue(), "none", c10::List<std::optional<at::Scalar>>(), std::string()};
    linear_.callBoxed(&stack);
    return stack.front().toTensor();
  }

 private:
  OneDnn(const c10::OperatorHandle& reorder, const c10::OperatorHandle& linear)
      : reorder_(reorder), linear_(linear) {}
  c10::OperatorHandle reorder_, linear_;
};

/// What this machine can run, the default first. "amx_plain" is a test of tiles, not a kernel to
/// time; on request it and the like may be verified.
std::vector<const KernelTable*> tables(bool plain_too) {
  std::vector<const KernelTable*> found;
  const auto add = [&](const KernelTable* isa) {
    if (isa == nullptr || isa->linear == nullptr) return;
    if (std::find(found.begin(), found.end(), isa) == found.end()) found.push_back(isa);
  };
  add(&rillkv::kernels::cpu::kernels());
  for (const char* name : {"amx", "avx512"}) add(find_kernels(name));
  if (plain_too) add(find_kernels("amx_plain"));
#if defined(__x86_64__)
  if (const KernelTable* avx512 = find_kernels("avx512")) {
    static KernelTable fp32 = *avx512;
    static_cast<rillkv::kernels::cpu::LinearKernels&>(fp32) =
        rillkv::kernels::cpu::avx512::kLinearFp32;
    fp32.name = "avx512_fp32";
    found.push_back(&fp32);
  }
#endif
  return found;
}

/// The copies of one layer's weights, in every side's form.
class Layer {
 public:
  Layer(const Shape& shape, bool plain_too) : shape_(shape), tables_(tables(plain_too)) {
    constexpr double kBytes = 128 << 20;
    const double each = 2.0 * static_cast<double>(shape.in * shape.out);
    const auto copies = static_cast<size_t>(std::clamp(std::ceil(kBytes / each), 3.0, 256.0));
    at::manual_seed(1);
    const at::Tensor one = at::randn({shape.out, shape.in}).mul_(0.02).to(at::kBFloat16);
    const int64_t panels = rillkv::linear_panels(shape.out);
    for (size_t i = 0; i < copies; ++i) {
      plain_.push_back(arena_.take({shape.out, shape.in}, at::kBFloat16).copy_(one));
      if (tables_.empty()) continue;
      at::Tensor packed =
          arena_.take({panels, shape.in * rillkv::kernels::cpu::kLinearPanel}, at::kBFloat16);
      rillkv::parallel_tasks(panels, [&](int64_t panel) {  // one layout for all of them
        tables_[0]->pack_linear(one.const_data_ptr(), shape.out, shape.in, panel, panel + 1,
                                packed.mutable_data_ptr());
      });
      packed_.push_back(packed);
    }
  }

  size_t copies() const { return plain_.size(); }
  const at::Tensor& weight() const { return plain_[0]; }

  std::vector<Side> sides(int64_t rows) {
    std::vector<Side> sides;
    for (const KernelTable* isa : tables_) {
      sides.push_back({isa->name, true, [this, isa](const at::Tensor& x, size_t i) {
                         return rillkv::run_linear(*isa, x, packed_[i], {}, shape_.out);
                       }});
    }
    sides.push_back({"torch", false,
                     [this](const at::Tensor& x, size_t i) { return at::linear(x, plain_[i]); }});
    if (const auto onednn = OneDnn::find()) {
      try {
        reordered_.clear();
        for (const at::Tensor& weight : plain_) {
          reordered_.push_back(onednn->reorder(weight, rows));
        }
        sides.push_back({"onednn", false, [this, onednn](const at::Tensor& x, size_t i) {
                           return onednn->multiply(x, reordered_[i]);
                         }});
      } catch (const std::exception&) {  // a machine for which oneDNN has no bf16
        reordered_.clear();
      }
    }
    return sides;
  }

 private:
  Shape shape_;
  std::vector<const KernelTable*> tables_;
  HugePageArena arena_;
  std::vector<at::Tensor> plain_, packed_, reordered_;
};

double relative_error(const at::Tensor& y, const at::Tensor& exact) {
  return ((y.to(at::kFloat) - exact).norm() / exact.norm()).item<double>();
}

Json results = Json::array();

void measure(Layer& layer, const Shape& shape, int64_t rows, int rounds) {
  const at::Tensor x = at::randn({rows, shape.in}).to(at::kBFloat16);
  const at::Tensor exact = at::linear(x.to(at::kFloat), layer.weight().to(at::kFloat));
  std::vector<Side> sides = layer.sides(rows);
  std::vector<double> errors;
  double once = 0;
  for (const Side& side : sides) {
    side.multiply(x, 0);
    const double begin = seconds();
    const at::Tensor y = side.multiply(x, 0);
    once += seconds() - begin;
    errors.push_back(relative_error(y, exact));
    // The output is rounded to bf16: 2^-9 of each element at most. Sums in fp32 add little.
    RILLKV_CHECK(!side.ours || errors.back() <= 2.5e-3, name_of(shape), ", ", rows, " rows, ",
                 side.name, ": wrong result, relative error ", errors.back());
  }
  if (rounds == 0) rounds = static_cast<int>(std::clamp(1.0 / once, 5.0, 200.0));
  std::vector<std::vector<double>> times(sides.size());
  for (int round = 0; round < rounds; ++round) {
    for (size_t s = 0; s < sides.size(); ++s) {
      // Ours share the packed copies: none may find what the one before it has read.
      const size_t copy = (static_cast<size_t>(round) * sides.size() + s) % layer.copies();
      const double begin = seconds();
      benchmark::DoNotOptimize(sides[s].multiply(x, copy));
      times[s].push_back(seconds() - begin);
    }
  }
  double best_peer = 1e30;
  std::vector<double> medians;
  for (size_t s = 0; s < sides.size(); ++s) {
    medians.push_back(rillkv::bench::median(times[s]));
    if (!sides[s].ours) best_peer = std::min(best_peer, medians[s]);
  }
  const double flops = 2.0 * static_cast<double>(rows * shape.in * shape.out);
  const double bytes = 2.0 * static_cast<double>(shape.in * shape.out);
  for (size_t s = 0; s < sides.size(); ++s) {
    std::printf("%-24s %4ld rows %-11s %10.1f us %7.0f GFLOP/s %6.1f GB/s", name_of(shape).c_str(),
                static_cast<long>(rows), sides[s].name.c_str(), medians[s] * 1e6,
                flops / medians[s] / 1e9, bytes / medians[s] / 1e9);
    if (sides[s].ours) std::printf(" %5.2fx Torch's best", best_peer / medians[s]);
    std::printf("  error %.1e\n", errors[s]);
    results.push_back({{"model", shape.model},
                       {"in", shape.in},
                       {"out", shape.out},
                       {"rows", rows},
                       {"side", sides[s].name},
                       {"ours", sides[s].ours},
                       {"seconds", medians[s]},
                       {"flops_per_s", flops / medians[s]},
                       {"weight_bytes_per_s", bytes / medians[s]},
                       {"over_best_peer", best_peer / medians[s]},
                       {"relative_error", errors[s]}});
  }
  std::fflush(stdout);
}

std::vector<int64_t> parse_rows(const std::string& list) {
  std::vector<int64_t> rows;
  for (size_t at = 0; at <= list.size();) {
    const size_t comma = std::min(list.find(',', at), list.size());
    const std::string item = list.substr(at, comma - at);
    RILLKV_CHECK(!item.empty() && item.size() < 7 &&
                     item.find_first_not_of("0123456789") == std::string::npos &&
                     std::stol(item) > 0,
                 "--rows: expected positive numbers and commas, got \"", list, "\"");
    rows.push_back(std::stol(item));
    at = comma + 1;
  }
  return rows;
}

}  // namespace

int main(int argc, char** argv) try {
  std::string layers, json;
  std::vector<int64_t> rows = {1, 16, 256, 512};
  int rounds = 0;
  bool smoke = false;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--smoke") {  // every kernel once: do the program and its checks work at all?
      smoke = true;
    } else if (argument == "--layers" && i + 1 < argc) {
      layers = argv[++i];
    } else if (argument == "--rows" && i + 1 < argc) {
      rows = parse_rows(argv[++i]);
    } else if (argument == "--rounds" && i + 1 < argc) {
      rounds = static_cast<int>(parse_rows(argv[++i]).front());
    } else if (argument == "--json" && i + 1 < argc) {
      json = argv[++i];
    } else {
      std::fprintf(stderr,
                   "bench_linear: unknown argument %s (expected --layers WORD, --rows LIST, "
                   "--rounds N, --json FILE)\n",
                   argv[i]);
      return 2;
    }
  }
  const auto peak = rillkv::bench::measure_machine();
  rillkv::bench::print_context(stdout, peak);
  if (smoke) {
    Layer layer(kTiny, true);
    for (const int64_t r : {1, 3, 37}) measure(layer, kTiny, r, 2);
  }
  for (const Shape& shape : kShapes) {
    if (smoke || name_of(shape).find(layers) == std::string::npos) continue;
    Layer layer(shape, false);
    for (const int64_t r : rows) {
      if (!shape.last_row_only || r == 1) measure(layer, shape, r, rounds);
    }
  }
  if (!json.empty()) {
    const Json report = {{"context", rillkv::bench::context_json(peak)}, {"results", results}};
    rillkv::write_file_atomically(json, report.dump(2) + "\n");
  }
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "bench_linear: %s\n", error.what());
  return 1;
}
