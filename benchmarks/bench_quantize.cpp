// Statistics, widths, error feedback, quantisation, trellis and packing: what sealing one block
// costs, by preset and instruction set, and its parts alone.
//
// An iteration seals one 128-token block of every kv head of one layer, from bf16 activations. The
// layers take turns, so that inputs come from where a real prefill leaves them and not from L1. The
// result is compared with the scalar kernels' bytes before anything is timed.
//
//   bytes/s   activations read and packed bytes written, each once
//   peak      bytes/s as a share of what one thread reads from memory here, measured first (inputs
//             that fit a cache can exceed 1)
//   us/token  the same work per token for all layers
//   us/head   of one kv head's block
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <complex>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "benchmarks/run_context.h"
#include "kernels/cpu/kernels.h"
#include "kernels/feedback.h"
#include "kernels/moment_layout.h"
#include "kernels/packed_format.h"
#include "rillkv/compression_config.h"

namespace {

using rillkv::kernels::Dtype;
using rillkv::kernels::cpu::find_kernels;
using rillkv::kernels::cpu::KernelTable;
using rillkv::kernels::cpu::PackParams;
namespace format = rillkv::format;

constexpr int kBlock = 128;

struct Model {
  const char* name;
  int layers, heads, kv_heads, head_dim;
};
constexpr Model kModels[] = {{"smollm2-135m", 30, 9, 3, 64},
                             {"llama-3-8b", 32, 32, 8, 128},
                             {"llama-2-7b", 32, 32, 32, 128}};

struct Preset {
  std::string name;
  bool ema;
  double key_bits;  // mean; ema: the normal width
  int value_bits;
  std::vector<int> classes;
};

/// The library's presets that quantise, "balanced" first.
const std::vector<Preset>& presets() {
  static const std::vector<Preset> all = [] {
    std::vector<Preset> presets;
    for (const std::string& name : rillkv::CompressionConfig::preset_names()) {
      const auto c = rillkv::CompressionConfig::preset(name);
      // Policy "trellis" has rows of its own.
      if (c.policy == rillkv::Policy::kDense || c.policy == rillkv::Policy::kTrellis) continue;
      const bool ema = c.policy == rillkv::Policy::kEma;
      const Preset preset = {name,
                             ema,
                             ema ? static_cast<double>(c.key_bits_normal) : c.key_bits_mean,
                             static_cast<int>(ema ? c.value_bits_normal : c.value_bits),
                             {c.bit_classes.begin(), c.bit_classes.end()}};
      presets.insert(name == "balanced" ? presets.begin() : presets.end(), preset);
    }
    return presets;
  }();
  return all;
}

/// Bytes a second that one thread reads from memory.
double read_bandwidth() {
  const std::vector<uint64_t> memory(size_t{32} << 20, 1);  // 256 MiB
  double best = 0;
  for (int i = 0; i < 5; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    uint64_t sums[8] = {};
    for (size_t w = 0; w < memory.size(); w += 8) {
      for (size_t l = 0; l < 8; ++l) sums[l] += memory[w + l];
    }
    for (uint64_t& sum : sums) benchmark::DoNotOptimize(sum);
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin;
    best = std::max(best, 8.0 * static_cast<double>(memory.size()) / elapsed.count());
  }
  return best;
}

double peak_bandwidth = 0;

/// One layer's activations, bf16: [kBlock, heads, D] as a fused projection leaves them.
struct Layer {
  std::vector<uint16_t> queries, keys, values, rotated;
};

struct Packed {
  std::vector<uint8_t> keys, values, fed;  // fed: keys with error feedback
  std::vector<uint8_t> trellis_keys, trellis_values;
};

/// E[exp(i n (f_a - f_b))] and E[exp(i n (f_a + f_b))] of FeedbackKernels::plan_feedback, over
/// fewer distances than the library takes: the kernels' work does not depend on them.
std::vector<float> distance_table(int head_dim) {
  constexpr int kDistances = 64;
  const auto half = static_cast<size_t>(head_dim / 2);
  std::vector<float> table;
  const auto mean = [&](double frequency) {
    std::complex<double> sum = 0;
    for (int n = 0; n < kDistances; ++n) sum += std::polar(1.0 / kDistances, n * frequency);
    table.push_back(static_cast<float>(sum.real()));
    table.push_back(static_cast<float>(sum.imag()));
  };
  const auto frequency = [&](size_t p) {
    return std::pow(1e4, -static_cast<double>(p) / static_cast<double>(half));
  };
  for (size_t a = 0; a < half; ++a) {
    for (size_t b = 0; b < half; ++b) {
      mean(frequency(a) - frequency(b));
      mean(frequency(a) + frequency(b));
    }
  }
  return table;
}

class Workload {
 public:
  Workload(const Model& model, const Preset& preset) : model_(model), preset_(preset) {
    std::mt19937 random(1);  // NOLINT(bugprone-random-generator-seed): the same work every time
    std::normal_distribution<float> normal;
    const auto fill = [&](std::vector<uint16_t>& x, int heads) {
      x.resize(static_cast<size_t>(kBlock) * static_cast<size_t>(heads * model.head_dim));
      for (uint16_t& element : x) {
        const float value = normal(random);
        uint32_t bits;
        std::memcpy(&bits, &value, sizeof bits);
        element = static_cast<uint16_t>(bits >> 16);
      }
    };
    layers_.resize(static_cast<size_t>(model.layers));
    for (Layer& layer : layers_) {
      fill(layer.queries, model.heads);
      fill(layer.keys, model.kv_heads);
      fill(layer.values, model.kv_heads);
      layer.rotated = layer.values;
    }
    classes_ = preset.classes;
    const int spacing = classes_.size() > 1 ? classes_[1] - classes_[0] : 1;
    increments_ = static_cast<int>(
        (preset.key_bits - classes_.front()) * model.head_dim / 2 / spacing + 1e-6);
    width_sum_ = model.head_dim * classes_.front() + 2 * spacing * increments_;
    groups_ = format::value_groups(model.head_dim, 64);
    packed_.resize(layers_.size());
    for (Packed& packed : packed_) {
      packed.keys.resize(key_stride() * static_cast<size_t>(model.kv_heads) + 64);
      packed.values.resize(value_stride() * static_cast<size_t>(model.kv_heads) + 64);
      packed.fed.resize(packed.keys.size());
      packed.trellis_keys.resize(trellis_key_stride() * static_cast<size_t>(model.kv_heads) + 64);
      packed.trellis_values.resize(trellis_value_stride() * static_cast<size_t>(model.kv_heads) +
                                   64);
    }
    const auto D = static_cast<size_t>(model.head_dim);
    lo_.resize(D), hi_.resize(D), spread_.resize(D), sums_.resize(D), absmax_.resize(D);
    widths_.resize(D / 2);
    if (preset.ema) return;
    distances_ = distance_table(model.head_dim);
    moment_.resize(rillkv::kernels::moment_floats(model.head_dim));
    for (Fed& fed : fed_) {
      fed.order.resize(D), fed.sensitivities.resize(D), fed.weights.resize(D * D);
      fed.trellis_widths.resize(D / 2);
      fed.workspace.resize(rillkv::kernels::cpu::feedback_workspace_bytes(model.head_dim, kBlock) /
                               sizeof(float) +
                           16);
    }
  }

  size_t layers() const { return layers_.size(); }
  int layer_count() const { return model_.layers; }

  void energies(const KernelTable& isa, size_t l, int kv_head) {
    const int group = model_.heads / model_.kv_heads;
    std::fill(sums_.begin(), sums_.end(), 0.0f);
    for (int g = 0; g < group; ++g) {
      isa.add_squares(params(layers_[l].queries, model_.heads, kv_head * group + g), sums_.data());
    }
    for (float& sum : sums_) sum /= static_cast<float>(group * kBlock);
  }
  void key_range(const KernelTable& isa, size_t l, int kv_head) {
    isa.min_max(params(layers_[l].keys, model_.kv_heads, kv_head), lo_.data(), hi_.data());
    for (size_t c = 0; c < spread_.size(); ++c) {
      spread_[c] = (hi_[c] - lo_[c]) * (hi_[c] - lo_[c]);
    }
  }
  void widths() {
    rillkv::kernels::cpu::allocate_widths(spread_.data(), sums_.data(), model_.head_dim,
                                          classes_.data(), static_cast<int>(classes_.size()),
                                          increments_, widths_.data());
  }
  void pack_keys(const KernelTable& isa, size_t l, int kv_head) {
    isa.pack_channels_affine(params(layers_[l].keys, model_.kv_heads, kv_head), lo_.data(),
                             hi_.data(), widths_.data(), block(packed_[l].keys, kv_head, true));
  }
  void rotate(const KernelTable& isa, size_t l, int kv_head) {
    isa.hadamard(params(layers_[l].values, model_.kv_heads, kv_head),
                 {layers_[l].rotated.data(), model_.kv_heads * model_.head_dim, model_.head_dim});
  }
  void pack_values(const KernelTable& isa, size_t l, int kv_head) {
    isa.pack_tokens_affine(params(layers_[l].rotated, model_.kv_heads, kv_head), groups_,
                           preset_.value_bits, block(packed_[l].values, kv_head, false));
  }
  // Error feedback, in place of energies, key_range, widths and pack_keys.
  void add_moment(const KernelTable& isa, size_t l, int kv_head) {
    isa.add_moment(params(layers_[l].queries, model_.heads, kv_head),
                   model_.heads / model_.kv_heads, moment_.data());
  }
  void plan(const KernelTable& isa, int slot = 0) {
    Fed& fed = fed_[slot];
    isa.plan_feedback(moment_.data(), distances_.data(), model_.head_dim, workspace(fed),
                      plan_view(fed));
  }
  void variance(const KernelTable& isa, size_t l, int kv_head) {
    isa.variance(params(layers_[l].keys, model_.kv_heads, kv_head), spread_.data());
  }
  void fed_widths() {
    const Fed& fed = fed_[0];
    for (size_t k = 0; k < sums_.size(); ++k) sums_[fed.order[k]] = fed.sensitivities[k];
    widths();
  }
  void pack_keys_fed(const KernelTable& isa, size_t l, int kv_head) {
    isa.pack_channels_feedback(params(layers_[l].keys, model_.kv_heads, kv_head),
                               plan_view(fed_[0]), widths_.data(), workspace(fed_[0]),
                               block(packed_[l].fed, kv_head, true));
  }
  void seal_fed_keys(const KernelTable& isa, size_t l) {
    for (int h = 0; h < model_.kv_heads && !preset_.ema; ++h) {
      std::fill(moment_.begin(), moment_.end(), 0.0f);
      add_moment(isa, l, h);
      plan(isa);
      variance(isa, l, h);
      fed_widths();
      pack_keys_fed(isa, l, h);
    }
  }
  // Policy "trellis" at the bits of "balanced".
  void trellis_widths(int slot) {
    Fed& fed = fed_[slot];
    for (size_t k = 0; k < sums_.size(); ++k) sums_[fed.order[k]] = fed.sensitivities[k];
    rillkv::kernels::cpu::allocate_trellis_widths(spread_.data(), sums_.data(), model_.head_dim,
                                                  trellis_increments(), fed.trellis_widths.data());
  }
  /// Heads from `first` on; returns how many.
  int pack_keys_trellis(const KernelTable& isa, size_t l, int first) {
    rillkv::kernels::cpu::TrellisKeys heads[rillkv::kernels::cpu::kHeadsTogether];
    int count = 0;
    for (Fed& fed : fed_) {
      const int head = first + count;
      if (head == model_.kv_heads) break;
      heads[count++] = {params(layers_[l].keys, model_.kv_heads, head), plan_view(fed),
                        fed.trellis_widths.data(), workspace(fed),
                        block_of(packed_[l].trellis_keys, head, trellis_key_stride())};
    }
    isa.pack_trellis_keys(heads, count);
    return count;
  }
  void pack_values_trellis(const KernelTable& isa, size_t l, int kv_head) {
    isa.pack_trellis_values(params(layers_[l].rotated, model_.kv_heads, kv_head), kTrellisWidth,
                            trellis_wide_pairs(),
                            block_of(packed_[l].trellis_values, kv_head, trellis_value_stride()));
  }
  void seal_trellis(const KernelTable& isa, size_t l) {
    for (int h = 0; h < model_.kv_heads && !preset_.ema;) {
      for (int slot = 0; slot < rillkv::kernels::cpu::kHeadsTogether; ++slot) {
        if (h + slot == model_.kv_heads) break;
        std::fill(moment_.begin(), moment_.end(), 0.0f);
        add_moment(isa, l, h + slot);
        plan(isa, slot);
        variance(isa, l, h + slot);
        trellis_widths(slot);
        rotate(isa, l, h + slot);
        pack_values_trellis(isa, l, h + slot);
      }
      h += pack_keys_trellis(isa, l, h);
    }
  }
  void pack_ema(const KernelTable& isa, size_t l, int kv_head) {
    for (bool keys : {true, false}) {
      const auto& x = keys ? layers_[l].keys : layers_[l].values;
      isa.absmax(params(x, model_.kv_heads, kv_head), absmax_.data());
      // A fifth of the channels are outliers of 8 bits.
      for (size_t p = 0; p < widths_.size(); ++p) widths_[p] = p % 5 == 0 ? 0x88 : 0x44;
      isa.pack_channels_symmetric(params(x, model_.kv_heads, kv_head), absmax_.data(),
                                  widths_.data(),
                                  block(keys ? packed_[l].keys : packed_[l].values, kv_head, keys));
    }
  }
  void seal(const KernelTable& isa, size_t l) {
    for (int h = 0; h < model_.kv_heads; ++h) {
      if (preset_.ema) {
        pack_ema(isa, l, h);
      } else {
        energies(isa, l, h);
        key_range(isa, l, h);
        widths();
        pack_keys(isa, l, h);
        rotate(isa, l, h);
        pack_values(isa, l, h);
      }
    }
  }

  /// The first layers' packed bytes.
  std::vector<uint8_t> bytes() const {
    std::vector<uint8_t> all;
    for (size_t l = 0; l < 2; ++l) {
      all.insert(all.end(), packed_[l].keys.begin(), packed_[l].keys.end());
      all.insert(all.end(), packed_[l].values.begin(), packed_[l].values.end());
      for (const auto* x :
           {&packed_[l].fed, &packed_[l].trellis_keys, &packed_[l].trellis_values}) {
        all.insert(all.end(), x->begin(), x->end());
      }
    }
    return all;
  }
  void clear() {
    for (Packed& packed : packed_) {
      std::fill(packed.keys.begin(), packed.keys.end(), uint8_t{0});
      std::fill(packed.values.begin(), packed.values.end(), uint8_t{0});
      for (auto* x : {&packed.fed, &packed.trellis_keys, &packed.trellis_values}) {
        std::fill(x->begin(), x->end(), uint8_t{0});
      }
    }
  }

  double input_bytes(int heads) const { return 2.0 * kBlock * heads * model_.head_dim; }
  double seal_bytes() const {
    const double kv = 2 * input_bytes(model_.kv_heads);
    const double out =
        static_cast<double>(model_.kv_heads) * static_cast<double>(key_stride() + value_stride());
    // Adaptive also reads the queries and writes the rotated values.
    return kv + out + (preset_.ema ? 0 : input_bytes(model_.heads) + input_bytes(model_.kv_heads));
  }
  double key_bytes() const { return static_cast<double>(key_stride()); }
  double value_bytes() const { return static_cast<double>(value_stride()); }
  double trellis_key_bytes() const { return static_cast<double>(trellis_key_stride()); }
  double trellis_value_bytes() const { return static_cast<double>(trellis_value_stride()); }
  const Model& model() const { return model_; }

 private:
  /// What error feedback keeps of a head.
  struct Fed {
    std::vector<uint16_t> order;
    std::vector<float> sensitivities, weights, workspace;
    std::vector<uint8_t> trellis_widths;
  };
  static float* workspace(Fed& fed) {
    const auto address = reinterpret_cast<uintptr_t>(fed.workspace.data());
    constexpr uintptr_t kFloats = 64 / sizeof(float);  // of a line
    return fed.workspace.data() + (kFloats - address / sizeof(float) % kFloats) % kFloats;
  }
  static rillkv::kernels::FeedbackPlan plan_view(Fed& fed) {
    return {fed.order.data(), fed.sensitivities.data(), fed.weights.data()};
  }
  PackParams params(const std::vector<uint16_t>& x, int heads, int head) const {
    PackParams p;
    p.input = {x.data(), heads * model_.head_dim, model_.head_dim};
    p.dtype = Dtype::kBFloat16;
    p.kv_head = head;
    p.tokens = p.block_size = kBlock;
    p.head_dim = model_.head_dim;
    return p;
  }
  size_t key_stride() const {
    const int D = model_.head_dim;
    if (!preset_.ema) return format::channel_block_bytes(D, kBlock, false, width_sum_);
    const int wide = 2 * ((D / 2 + 4) / 5);
    return format::channel_block_bytes(D, kBlock, true, 8 * wide + 4 * (D - wide));
  }
  size_t value_stride() const {
    if (preset_.ema) return key_stride();
    return format::token_block_bytes(kBlock, model_.head_dim, groups_, false, preset_.value_bits);
  }
  // 4.0625 bits a key and 4.625 a value.
  static constexpr int kTrellisWidth = 4;
  int trellis_increments() const { return model_.head_dim / 2 * 49 / 16; }
  int trellis_wide_pairs() const { return model_.head_dim / 2 * 5 / 8; }
  size_t trellis_key_stride() const {
    return format::trellis_key_bytes(model_.head_dim, kBlock,
                                     model_.head_dim + 2 * trellis_increments());
  }
  size_t trellis_value_stride() const {
    return format::trellis_value_bytes(model_.head_dim, kBlock, kTrellisWidth,
                                       trellis_wide_pairs());
  }
  static uint8_t* block_of(std::vector<uint8_t>& storage, int kv_head, size_t stride) {
    const auto address = reinterpret_cast<uintptr_t>(storage.data());
    return storage.data() + (64 - address % 64) % 64 + static_cast<size_t>(kv_head) * stride;
  }
  uint8_t* block(std::vector<uint8_t>& storage, int kv_head, bool keys) const {
    return block_of(storage, kv_head, keys ? key_stride() : value_stride());
  }

  Model model_;
  Preset preset_;
  int increments_ = 0, groups_ = 1;
  std::vector<int> classes_;
  int width_sum_ = 0;  // of a key block's channels
  std::vector<Layer> layers_;
  std::vector<Packed> packed_;
  std::vector<float> lo_, hi_, spread_, sums_, absmax_;
  std::vector<uint8_t> widths_;
  std::vector<float> distances_, moment_;
  Fed fed_[rillkv::kernels::cpu::kHeadsTogether];
};

/// True if this table writes the scalar kernels' bytes. Says so in the benchmark's row otherwise.
bool verified(benchmark::State& state, const KernelTable& isa, Workload& work) {
  std::vector<uint8_t> bytes[2];
  for (const KernelTable* table : {find_kernels("scalar"), &isa}) {
    work.clear();
    for (size_t l : {0, 1}) {
      work.seal(*table, l);
      work.seal_fed_keys(*table, l);
      work.seal_trellis(*table, l);
    }
    bytes[table == &isa ? 1 : 0] = work.bytes();
  }
  if (isa.name == std::string("scalar") || bytes[0] == bytes[1]) return true;
  state.SkipWithError("bytes differ from the scalar kernels'");
  return false;
}

void report(benchmark::State& state, const Workload& work, double bytes, double seconds) {
  const double each = seconds / static_cast<double>(state.iterations());
  state.SetBytesProcessed(static_cast<int64_t>(bytes) * state.iterations());
  state.counters["peak"] = bytes / each / peak_bandwidth;
  state.counters["us/token"] = each * 1e6 * work.layer_count() / kBlock;
  state.counters["us/head"] = each * 1e6 / work.model().kv_heads;
}

void add(const std::string& name, const KernelTable& isa, const Model& model, const Preset& preset,
         const std::function<double(const Workload&)>& bytes,
         const std::function<void(Workload&, const KernelTable&, size_t)>& body) {
  benchmark::RegisterBenchmark(
      (name + "/" + model.name + "/" + preset.name + "/" + isa.name).c_str(),
      [=, &isa](benchmark::State& state) {
        Workload work(model, preset);
        if (!verified(state, isa, work)) return;
        size_t layer = 0;
        const auto begin = std::chrono::steady_clock::now();
        for (auto _ : state) {
          body(work, isa, layer);
          layer = (layer + 1) % work.layers();
        }
        const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin;
        report(state, work, bytes(work), elapsed.count());
      });
}

void add_all(const KernelTable& isa) {
  for (const Model& model : kModels) {
    for (const Preset& preset : presets()) {
      add(
          "seal", isa, model, preset, [](const Workload& w) { return w.seal_bytes(); },
          [](Workload& w, const KernelTable& k, size_t l) { w.seal(k, l); });
    }
    const Preset& balanced = presets().front();
    const int heads = model.kv_heads;
    const auto each = [heads](auto&& body) {
      return [heads, body](Workload& w, const KernelTable& k, size_t l) {
        for (int h = 0; h < heads; ++h) body(w, k, l, h);
      };
    };
    const auto keys = [](const Workload& w) { return w.input_bytes(w.model().kv_heads); };
    add(
        "energies", isa, model, balanced,
        [](const Workload& w) { return w.input_bytes(w.model().heads); },
        each([](Workload& w, const KernelTable& k, size_t l, int h) { w.energies(k, l, h); }));
    add("min_max", isa, model, balanced, keys,
        each([](Workload& w, const KernelTable& k, size_t l, int h) { w.key_range(k, l, h); }));
    add(
        "allocate_widths", isa, model, balanced, [](const Workload&) { return 0.0; },
        each([](Workload& w, const KernelTable&, size_t, int) { w.widths(); }));
    add(
        "pack_keys", isa, model, balanced,
        [=](const Workload& w) { return keys(w) + heads * w.key_bytes(); },
        each([](Workload& w, const KernelTable& k, size_t l, int h) { w.pack_keys(k, l, h); }));
    add(
        "add_moment", isa, model, balanced,
        [](const Workload& w) { return w.input_bytes(w.model().heads); },
        each([](Workload& w, const KernelTable& k, size_t l, int h) { w.add_moment(k, l, h); }));
    add(
        "plan_feedback", isa, model, balanced, [](const Workload&) { return 0.0; },
        each([](Workload& w, const KernelTable& k, size_t, int) { w.plan(k); }));
    add("variance", isa, model, balanced, keys,
        each([](Workload& w, const KernelTable& k, size_t l, int h) { w.variance(k, l, h); }));
    add(
        "pack_keys_feedback", isa, model, balanced,
        [=](const Workload& w) { return keys(w) + heads * w.key_bytes(); },
        each([](Workload& w, const KernelTable& k, size_t l, int h) { w.pack_keys_fed(k, l, h); }));
    add(
        "seal_keys_feedback", isa, model, balanced,
        [=](const Workload& w) {
          return w.input_bytes(w.model().heads) + keys(w) + heads * w.key_bytes();
        },
        [](Workload& w, const KernelTable& k, size_t l) { w.seal_fed_keys(k, l); });
    add(
        "pack_keys_trellis", isa, model, balanced,
        [=](const Workload& w) { return keys(w) + heads * w.trellis_key_bytes(); },
        [](Workload& w, const KernelTable& k, size_t l) {
          for (int h = 0; h < w.model().kv_heads;) h += w.pack_keys_trellis(k, l, h);
        });
    add(
        "pack_values_trellis", isa, model, balanced,
        [=](const Workload& w) { return keys(w) + heads * w.trellis_value_bytes(); },
        each([](Workload& w, const KernelTable& k, size_t l, int h) {
          w.pack_values_trellis(k, l, h);
        }));
    add(
        "seal_trellis", isa, model, balanced,
        [=](const Workload& w) {
          return w.input_bytes(w.model().heads) + 4 * keys(w) +
                 heads * (w.trellis_key_bytes() + w.trellis_value_bytes());
        },
        [](Workload& w, const KernelTable& k, size_t l) { w.seal_trellis(k, l); });
    add(
        "hadamard", isa, model, balanced, [=](const Workload& w) { return 2 * keys(w); },
        each([](Workload& w, const KernelTable& k, size_t l, int h) { w.rotate(k, l, h); }));
    add(
        "pack_values", isa, model, balanced,
        [=](const Workload& w) { return keys(w) + heads * w.value_bytes(); },
        each([](Workload& w, const KernelTable& k, size_t l, int h) { w.pack_values(k, l, h); }));
  }
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  peak_bandwidth = read_bandwidth();
  benchmark::AddCustomContext("commit", RILLKV_COMMIT);
  benchmark::AddCustomContext("cpu", rillkv::cli::processor());
  benchmark::AddCustomContext("isa", rillkv::cpu_info().isa);
  benchmark::AddCustomContext("arithmetic", rillkv::cli::arithmetic_json().dump());
  benchmark::AddCustomContext("read_bandwidth_one_thread_GB/s",
                              std::to_string(peak_bandwidth / 1e9));
  for (const char* name : {"scalar", "avx2", "avx512"}) {
    if (const KernelTable* isa = find_kernels(name)) add_all(*isa);
  }
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
