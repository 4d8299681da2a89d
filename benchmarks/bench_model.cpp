// The whole model at several depths: prefill and decode with the compressed cache, with our dense
// cache, and with Torch's scaled_dot_product_attention over a plain dense cache (sdpa_model.h).
//
//   bench_model --model DIR [--config PRESET|FILE] [--depths 0,1024,4096,16384] [--json FILE]
//               [--sides compressed,dense,torch] [--token-ids FILE] [--parts]
//
// The sides take turns in one process, so that what else the machine does hits all alike; figures
// are medians. Before anything is timed the sides' logits on a real text are compared. A cache gets
// to its depth cheaply: the same random keys and values of realistic ranges go to every layer
// through the caches' own entry (speed does not depend on them), and repetitions measure it as it
// grows by each prompt, around the depth asked for. What statistics, quantising and packing take is
// measured apart, on tensors of the model's shapes, in a cache's own layers. --parts says where
// the time of a first prompt goes (model_parts.h), and how many milliseconds no part accounts for.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "benchmarks/clock.h"
#include "benchmarks/model_parts.h"
#include "benchmarks/run_context.h"
#include "benchmarks/sdpa_model.h"
#include "rillkv/error.h"
#include "rillkv/eval/needle.h"
#include "rillkv/files.h"
#include "rillkv/tokenizer.h"
#include "support/cli.h"

namespace {

using namespace rillkv;
using Json = nlohmann::ordered_json;
using bench::Activations;
using bench::median;
using bench::seconds;

struct Options {
  cli::ModelOptions model;
  std::vector<int64_t> depths = {0, 1024, 4096, 16384};
  std::vector<std::string> sides = {"compressed", "dense", "torch"};
  int64_t prompt = 512, generate = 16, repetitions = 3;
  bool parts = false;
  std::string token_ids, json;

  bool has(std::string_view side) const {
    return std::find(sides.begin(), sides.end(), side) != sides.end();
  }
};

/// Random queries, keys and values of a layer: channels of very different ranges and offsets, as
/// keys before RoPE have them.
Activations random_activations(const ModelConfig& m, at::ScalarType dtype, int64_t tokens,
                               uint64_t seed) {
  at::Generator generator = at::detail::createCPUGenerator(seed);
  const auto normal = [&](at::IntArrayRef sizes) {
    return at::randn(sizes, generator, at::TensorOptions(at::kFloat));
  };
  const int64_t D = m.head_dim, kv_heads = m.num_key_value_heads;
  const at::Tensor range = at::exp(0.6 * normal({1, kv_heads, D}));
  const at::Tensor offset = 1.5 * normal({1, kv_heads, D});
  Activations a;
  a.k = ((normal({tokens, kv_heads, D}) + offset) * range).to(dtype);
  a.v = normal({tokens, kv_heads, D}).to(dtype);
  a.q = (normal({tokens, m.num_attention_heads, D}) /
         range.repeat_interleave(m.num_attention_heads / kv_heads, 1))
            .to(dtype);
  return a;
}

/// One way to run the model.
struct Side {
  std::string name;
  std::function<void()> reset;
  std::function<void(const Activations&)> fill;
  std::function<at::Tensor(const at::Tensor&)> forward;  // tokens [T] -> logits [1, vocab]
  std::function<int64_t()> length;
  std::function<double()> cache_bytes;
};

class Caches {
 public:
  Caches(const Options& options, const CompressionConfig& config)
      : model_(cli::load(options.model)),
        compressed_(model_->make_cache(config)),
        dense_(model_->make_cache(config.baseline())) {
    if (!options.has("torch")) return;
    int64_t most = 0;
    for (int64_t depth : options.depths) most = std::max(most, depth);
    const int64_t growth =
        (options.repetitions + 1) * (options.prompt + options.generate) + options.prompt;
    sdpa_ = std::make_unique<bench::SdpaModel>(options.model.model, model_->dtype(), most + growth);
  }

  const LlamaModel& model() const { return model_; }
  const CacheGeometry& geometry() const { return compressed_.geometry(); }

  /// Those asked for, Torch's last.
  std::vector<Side> sides(const Options& options) {
    std::vector<Side> result;
    if (options.has("compressed")) result.push_back(of("compressed", compressed_));
    if (options.has("dense")) result.push_back(of("dense", dense_));
    if (sdpa_ == nullptr) return result;
    const ModelConfig& m = model_->config();
    const double row = 2.0 * static_cast<double>(m.num_hidden_layers * m.num_key_value_heads *
                                                 m.head_dim * at::elementSize(model_->dtype()));
    result.push_back({"torch sdpa", [this] { sdpa_->reset(); },
                      [this](const Activations& a) { sdpa_->fill(a.k, a.v); },
                      [this](const at::Tensor& tokens) { return sdpa_->forward(tokens); },
                      [this] { return sdpa_->length(); },
                      [this, row] { return row * static_cast<double>(sdpa_->length()); }});
    return result;
  }

 private:
  Side of(const std::string& name, QuantizedKvCache& cache) {
    return {name,
            [&cache] { cache.reset(); },
            [&cache](const Activations& a) {
              for (int64_t layer = 0; layer < cache.geometry().layers; ++layer) {
                cache.attend(layer, a.q, a.k, a.v);
              }
            },
            [this, &cache](const at::Tensor& tokens) {
              return model_->forward(tokens, cache, Logits::kLast);
            },
            [&cache] { return cache.length(); },
            [&cache] { return static_cast<double>(cache.report().kv_bytes); }};
  }

  LlamaModel model_;
  QuantizedKvCache compressed_, dense_;
  std::unique_ptr<bench::SdpaModel> sdpa_;
};

/// tokens by chunks; the last logits.
at::Tensor prefill(const Side& side, const at::Tensor& tokens, int64_t chunk) {
  at::Tensor logits;
  for (int64_t begin = 0; begin < tokens.size(0); begin += chunk) {
    logits = side.forward(tokens.slice(0, begin, std::min(begin + chunk, tokens.size(0))));
  }
  return logits;
}

double divergence(const at::Tensor& from, const at::Tensor& to) {
  const at::Tensor p = from[0].log_softmax(-1), q = to[0].log_softmax(-1);
  return (p.exp() * (p - q)).sum().item<double>();
}

/// KL of each side's last logits against the last side's after the prompt. Rounding in bf16 makes
/// about 1e-3 of it and compression at 4 bits about as much; a wrong mask, position or scale is
/// beyond 1.
Json verify(const std::vector<Side>& sides, const at::Tensor& prompt, int64_t chunk) {
  std::vector<at::Tensor> logits;
  for (const Side& side : sides) {
    side.reset();
    logits.push_back(prefill(side, prompt, chunk));
  }
  Json result = Json::object();
  for (size_t i = 0; i + 1 < sides.size(); ++i) {
    const double kl = divergence(logits.back(), logits[i]);
    RILLKV_CHECK(kl <= 0.2, "bench_model: the ", sides[i].name,
                 " side computes something else than the ", sides.back().name,
                 " side: KL of the logits ", kl, ", expected at most 0.2");
    result[sides[i].name] = kl;
  }
  return result;
}

struct Measured {
  std::vector<double> prefill, decode;  // seconds: a prompt, a token
  double cache_bytes = 0;
};

/// All sides at one depth, taking turns.
std::vector<Measured> measure(const std::vector<Side>& sides, const ModelConfig& m,
                              at::ScalarType dtype, const at::Tensor& prompt,
                              const Options& options, int64_t depth, int64_t chunk) {
  const int64_t reps = options.repetitions;
  // Repetitions lie around the depth: the cache grows by a prompt with each.
  const int64_t begin = std::max<int64_t>(0, depth - (reps - 1) * options.prompt / 2);
  std::vector<Measured> result(sides.size());
  const auto start = [&](const Side& side) {
    side.reset();
    for (int64_t done = 0; done < begin;) {
      // In one piece for the dense cache, whose attention is then causal and without a mask.
      const int64_t piece =
          side.name == "compressed" ? std::min<int64_t>(2048, begin - done) : begin;
      side.fill(random_activations(m, dtype, piece, 7 + static_cast<uint64_t>(done)));
      done += piece;
    }
  };
  for (const Side& side : sides) start(side);
  for (int64_t rep = 0; rep < reps; ++rep) {
    for (size_t i = 0; i < sides.size(); ++i) {
      if (depth == 0) sides[i].reset();
      const double before = seconds();
      prefill(sides[i], prompt, chunk);
      result[i].prefill.push_back(seconds() - before);
    }
  }
  // Decode from the depth asked for plus one prompt, or what the repetitions have grown to.
  for (int64_t token = 0; token < options.generate * reps; ++token) {
    for (size_t i = 0; i < sides.size(); ++i) {
      const at::Tensor next = prompt.slice(0, token % options.prompt, token % options.prompt + 1);
      const double before = seconds();
      sides[i].forward(next);
      result[i].decode.push_back(seconds() - before);
    }
  }
  for (size_t i = 0; i < sides.size(); ++i) result[i].cache_bytes = sides[i].cache_bytes();
  return result;
}

/// What a compressed cache's layers take for a first prompt of `tokens` tokens.
bench::CacheTimes time_cache(const CacheGeometry& geometry, const ModelConfig& m,
                             const CompressionConfig& config, at::ScalarType dtype,
                             int64_t tokens) {
  tokens = std::max(config.block_size, tokens / config.block_size * config.block_size);
  std::vector<Activations> layers;
  for (int64_t i = 0; i < m.num_hidden_layers; ++i) {
    layers.push_back(random_activations(m, dtype, tokens, 100 + static_cast<uint64_t>(i)));
  }
  return bench::time_cache(geometry, config, dtype, layers, 7);
}

/// Prints and returns where the time of a first prompt on the compressed cache goes; each part's
/// median and least of its repetitions, in milliseconds.
Json report_parts(const Side& compressed, const bench::CacheTimes& cache, const ModelConfig& m,
                  at::ScalarType dtype, const at::Tensor& prompt, int64_t chunk) {
  constexpr int kRepetitions = 7;
  bench::Part whole{"the whole prompt", {}};
  for (int rep = -1; rep < kRepetitions; ++rep) {
    compressed.reset();
    const double before = seconds();
    prefill(compressed, prompt, chunk);
    if (rep >= 0) whole.seconds.push_back(seconds() - before);
  }
  std::vector<bench::Part> parts = bench::time_model_parts(m, dtype, prompt, chunk, kRepetitions);
  parts.push_back({"attention", cache.attention});
  parts.push_back({"measuring a chunk", cache.measuring});
  parts.push_back({"sealing", cache.sealing});
  parts.push_back({"the cache's rest", cache.rest});
  const auto least = [](const std::vector<double>& x) {
    return *std::min_element(x.begin(), x.end());
  };
  double rest = median(whole.seconds), rest_least = least(whole.seconds);
  Json rows;
  std::printf("%-24s %10s %10s %8s\n", "part of a first prompt", "median ms", "least ms", "share");
  const auto print = [&](const std::string& name, double middle, double lowest) {
    std::printf("%-24s %10.2f %10.2f %6.1f %%\n", name.c_str(), middle * 1e3, lowest * 1e3,
                100 * middle / median(whole.seconds));
    rows[name] = {{"median_s", middle}, {"least_s", lowest}};
  };
  for (const bench::Part& part : parts) {
    print(part.name, median(part.seconds), least(part.seconds));
    rest -= median(part.seconds);
    rest_least -= least(part.seconds);
  }
  print("in no part", rest, rest_least);
  print(whole.name, median(whole.seconds), least(whole.seconds));
  return rows;
}

/// Bytes of weights that decoding a token reads: every linear layer once.
double weight_bytes(const ModelConfig& m, at::ScalarType dtype) {
  const double q = static_cast<double>(m.num_attention_heads * m.head_dim),
               kv = static_cast<double>(m.num_key_value_heads * m.head_dim),
               hidden = static_cast<double>(m.hidden_size),
               inner = static_cast<double>(m.intermediate_size);
  const double layer = hidden * (2 * q + 2 * kv) + 3 * hidden * inner;
  return (layer * static_cast<double>(m.num_hidden_layers) +
          hidden * static_cast<double>(m.vocab_size)) *
         static_cast<double>(at::elementSize(dtype));
}

/// The ids given or some real text, over and over, or random ids where the folder has no tokenizer.
at::Tensor prompt_of(const Options& options, const ModelConfig& m) {
  const int64_t count = options.prompt;
  std::vector<int64_t> ids;
  if (!options.token_ids.empty()) {
    ids = cli::read_token_ids(options.token_ids);
    RILLKV_CHECK(!ids.empty(), options.token_ids, ": expected at least one token id");
    for (const int64_t id : ids) {
      RILLKV_CHECK(id >= 0 && id < m.vocab_size, options.token_ids, ": expected ids below ",
                   m.vocab_size, ", the model's vocabulary, found ", id);
    }
  } else {
    try {
      ids = Tokenizer::load(options.model.model)->encode(eval::default_haystack(), false);
    } catch (const Error&) {
      ids = {1};
      for (int64_t i = 1; i < count; ++i) ids.push_back(ids.back() * 48271 % 2147483647);
      for (int64_t& id : ids) id %= m.vocab_size;
    }
  }
  std::vector<int64_t> prompt;
  for (int64_t i = 0; i < count; ++i) prompt.push_back(ids[static_cast<size_t>(i) % ids.size()]);
  return at::tensor(prompt, at::kLong);
}

void run(const Options& options) {
  const CompressionConfig config = cli::make_config(options.model);
  Caches caches(options, config);
  const ModelConfig& m = caches.model()->config();
  const at::ScalarType dtype = caches.model()->dtype();
  const auto sides = caches.sides(options);
  const at::Tensor prompt = prompt_of(options, m);
  const int64_t chunk = config.chunk_size;

  const bench::MachinePeak peak = bench::measure_machine();
  const double weights = weight_bytes(m, dtype);
  Json report = {{"context", bench::context_json(peak)},
                 {"model", options.model.model},
                 {"config", options.model.config.empty() ? "balanced" : options.model.config},
                 {"dtype", at::toString(dtype)},
                 {"chunk_size", chunk},
                 {"prompt", options.prompt},
                 {"generate", options.generate},
                 {"repetitions", options.repetitions},
                 {"weight_bytes_per_token", weights},
                 {"kl_to_" + sides.back().name.substr(0, sides.back().name.find(' ')),
                  verify(sides, prompt, chunk)}};
  bench::print_context(stdout, peak);
  const bool seals_blocks = config.policy != Policy::kDense;
  const bench::CacheTimes cache =
      seals_blocks ? time_cache(caches.geometry(), m, config, dtype, options.prompt)
                   : bench::CacheTimes();
  const double sealing = seals_blocks ? cache.without_attention() : 0;
  report["sealing_s"] = sealing;
  if (options.parts) {
    RILLKV_CHECK(seals_blocks && options.has("compressed"),
                 "bench_model: --parts: expected the compressed side and a policy that seals "
                 "blocks");
    report["parts"] = report_parts(sides[0], cache, m, dtype, prompt, chunk);
  }
  std::printf("%s, %s, prompts of %ld tokens in chunks of %ld; medians of %ld\n",
              options.model.model.c_str(), at::toString(dtype), options.prompt, chunk,
              options.repetitions);
  std::printf("%6s  %-11s %13s %10s %12s %10s %17s %10s %12s\n", "depth", "cache", "prefill tok/s",
              "vs torch", "decode tok/s", "vs torch", "weights GB/s", "cache MB", "sealing");

  std::map<std::string, double> first_prefill, first_decode;
  for (const int64_t depth : options.depths) {
    const auto measured = measure(sides, m, dtype, prompt, options, depth, chunk);
    // How many times as fast as another side; NaN, null in JSON, where that one was not asked for.
    const auto over = [&](const char* name, std::vector<double> Measured::*what, double time) {
      for (size_t i = 0; i < sides.size(); ++i) {
        if (sides[i].name == name) return median(measured[i].*what) / time;
      }
      return std::nan("");
    };
    for (size_t i = 0; i < sides.size(); ++i) {
      const double p = median(measured[i].prefill), d = median(measured[i].decode);
      first_prefill.try_emplace(sides[i].name, p);
      first_decode.try_emplace(sides[i].name, d);
      const double rate = static_cast<double>(options.prompt) / p;
      const double torch_prefill = over("torch sdpa", &Measured::prefill, p);
      const double torch_decode = over("torch sdpa", &Measured::decode, d);
      const bool seals = sides[i].name == "compressed";
      report["results"].push_back({{"depth", depth},
                                   {"cache", sides[i].name},
                                   {"prefill_tokens_per_s", rate},
                                   {"decode_tokens_per_s", 1 / d},
                                   {"prefill_vs_torch", torch_prefill},
                                   {"decode_vs_torch", torch_decode},
                                   {"prefill_vs_dense", over("dense", &Measured::prefill, p)},
                                   {"decode_vs_dense", over("dense", &Measured::decode, d)},
                                   {"prefill_growth", p / first_prefill[sides[i].name]},
                                   {"decode_growth", d / first_decode[sides[i].name]},
                                   {"weight_bytes_per_s", weights / d},
                                   {"weight_read_share", weights / d / peak.read_bytes},
                                   {"cache_bytes", measured[i].cache_bytes},
                                   {"sealing_share", seals ? Json(sealing / p) : Json()},
                                   {"prefill_s", measured[i].prefill},
                                   {"decode_s", measured[i].decode}});
      const std::string share = seals ? std::to_string(100 * sealing / p).substr(0, 4) + " %" : "";
      std::printf("%6ld  %-11s %13.0f %9.2fx %12.1f %9.2fx %9.1f (%3.0f %%) %10.1f %12s\n", depth,
                  sides[i].name.c_str(), rate, torch_prefill, 1 / d, torch_decode,
                  weights / d / 1e9, 100 * weights / d / peak.read_bytes,
                  measured[i].cache_bytes / 1e6, share.c_str());
    }
    std::fflush(stdout);
  }
  std::printf("growth of the time from depth %ld to %ld:", options.depths.front(),
              options.depths.back());
  for (const Side& side : sides) {
    for (const auto& result : report["results"]) {
      if (result["depth"] == options.depths.back() && result["cache"] == side.name) {
        std::printf("  %s prefill %.2fx decode %.2fx", side.name.c_str(),
                    result["prefill_growth"].get<double>(), result["decode_growth"].get<double>());
      }
    }
  }
  std::printf("\n");
  if (!options.json.empty()) write_file_atomically(options.json, report.dump(2) + "\n");
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Prefill and decode speed of a model: compressed, dense, and Torch's SDPA");
  Options options;
  cli::add_model_options(app, options.model);
  app.add_option("--depths", options.depths, "Tokens cached before the prompt")
      ->delimiter(',')
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 20));
  app.add_option("--sides", options.sides, "What is measured: compressed, dense, torch")
      ->delimiter(',')
      ->check(CLI::IsMember({"compressed", "dense", "torch"}));
  app.add_option("--token-ids", options.token_ids,
                 "A file of the prompt's token ids, repeated as needed");
  app.add_option("--prompt", options.prompt, "Tokens of a prompt")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20));
  app.add_option("--generate", options.generate, "Decoded tokens a repetition")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20));
  app.add_option("--repetitions", options.repetitions, "Repetitions, of which the median counts")
      ->check(CLI::Range(1, 1000));
  app.add_flag("--parts", options.parts, "Say where the time of a first prompt goes");
  app.add_option("--json", options.json, "Write the figures here, too");
  return cli::run(app, argc, argv, [&] {
    if (!options.json.empty()) cli::check_writable(options.json);
    run(options);
  });
}
