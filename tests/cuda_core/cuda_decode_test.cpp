// Decoding on a device: steps whose launches are the same for every token, replayed from a captured
// graph, against the same model over CPU caches and against itself without graphs; and what a token
// costs in launches, copies and waits.
#include <ATen/record_function.h>

#include <cmath>
#include <cstdlib>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "model/model_access.h"
#include "rillkv/error.h"
#include "rillkv/llama.h"
#include "tests/cuda_core/cuda_fixture.h"
#include "tests/support/error_of.h"
#include "tests/support/random_llama.h"

namespace rillkv::testing {
namespace {

class Setting {
 public:
  explicit Setting(const char* graphs) { setenv("RILLKV_CUDA_GRAPHS", graphs, 1); }
  ~Setting() { unsetenv("RILLKV_CUDA_GRAPHS"); }
  Setting(const Setting&) = delete;
  Setting& operator=(const Setting&) = delete;
};

class CudaDecode : public EveryBackend {
 protected:
  /// On the device, with the random weights of that name.
  LlamaModel make_model(at::ScalarType dtype, const ModelConfig& config,
                        const std::string& weights) const {
    LlamaModel model(config, dtype, device());
    if (on_executor()) ModelAccess::use(*model, backend());
    model->load_weights(random_llama(weights, config));
    return model;
  }
  /// The one that most tests take.
  LlamaModel make_model(at::ScalarType dtype) const {
    return make_model(dtype, config_, "gqa_d64");
  }
  QuantizedKvCache cache_of(const LlamaModel& model, const CompressionConfig& config) const {
    return ModelAccess::make_cache(*model, config);
  }
  QuantizedKvCache cache_of(const LlamaModel& model) const { return cache_of(model, balanced_); }

  const ModelConfig config_ = random_llama_config("gqa_d64");
  const CompressionConfig balanced_ = CompressionConfig::preset("balanced");
};

at::Tensor random_tokens(const ModelConfig& config, int64_t count, uint64_t seed) {
  at::manual_seed(seed);
  return at::randint(config.vocab_size, {count}, at::kLong);
}

/// Prefills tokens[0, begin) in one chunk, then feeds the others one by one: their logits.
at::Tensor decode(const LlamaModel& model, QuantizedKvCache& cache, const at::Tensor& tokens,
                  int64_t begin) {
  model->forward(tokens.slice(0, 0, begin), cache, Logits::kNone);
  std::vector<at::Tensor> logits;
  for (int64_t i = begin; i < tokens.size(0); ++i) {
    logits.push_back(model->forward(tokens.slice(0, i, i + 1), cache, Logits::kLast));
  }
  return at::cat(logits);
}

void expect_same_bytes(const QuantizedKvCache& a, const QuantizedKvCache& b, int64_t layer) {
  const auto found = a.blocks(layer), expected = b.blocks(layer);
  ASSERT_EQ(found.size(), expected.size());
  for (size_t n = 0; n < found.size(); ++n) {
    EXPECT_TRUE(at::equal(found[n]->storage.cpu(), expected[n]->storage.cpu())) << n;
  }
}

// Across the end of a block. Outputs: as in CudaModel, a tenth of what compression costs; here in
// bf16, whose roundings both sides make in every layer, so what bf16 costs against float32 is
// allowed as well, twice, since both sides are off by it.
TEST_P(CudaDecode, StepsEqualCpuCaches) {
  for (const char* name : {"gqa_d64", "mha_d128"}) {
    for (const char* preset : {"balanced", "extreme"}) {
      SCOPED_TRACE(str_cat(name, " ", preset));
      const ModelConfig config = random_llama_config(name);
      const CompressionConfig compressed = CompressionConfig::preset(preset);
      const at::Tensor tokens = random_tokens(config, 142, 3);
      LlamaModel exact(config, at::kFloat), cpu_model(config, at::kBFloat16);
      LlamaModel model = make_model(at::kBFloat16, config, name);
      for (LlamaModel* m : {&exact, &cpu_model}) {
        (*m)->load_weights(random_llama(name, config));
      }
      const auto cpu = [&](const LlamaModel& m, const CompressionConfig& c) {
        QuantizedKvCache cache = m->make_cache(c);
        return decode(m, cache, tokens, 132);
      };
      const at::Tensor wide = cpu(exact, compressed);
      const double cost =
          (wide - cpu(exact, CompressionConfig::preset("dense"))).abs().max().item<double>();
      const at::Tensor expected = cpu(cpu_model, compressed);
      const double rounding = (expected - wide).abs().max().item<double>();
      QuantizedKvCache cuda = cache_of(model, compressed);
      const at::Tensor found = decode(model, cuda, tokens, 132);
      EXPECT_EQ(cuda.blocks(0).size(), 1u);
      const double difference = (found - expected).abs().max().item<double>();
      EXPECT_TRUE(difference <= 0.1 * cost + 2 * rounding)
          << difference << ", compression costs " << cost << ", bf16 " << rounding;
    }
  }
}

// A replayed graph does what its launches did, to the bit; so does a step for what one chunk of one
// token would have stored.
TEST_P(CudaDecode, GraphsEqualLaunches) {
  const at::Tensor tokens = random_tokens(config_, 142, 4);
  CompressionConfig feedback = balanced_;
  feedback.set("error_feedback=true");
  for (const CompressionConfig& config :
       {balanced_, feedback, CompressionConfig::preset("balanced-trellis")}) {
    SCOPED_TRACE(config.to_json());
    LlamaModel model = make_model(at::kHalf);
    QuantizedKvCache with = cache_of(model, config), without = cache_of(model, config);
    if (on_executor()) traffic(*backend()) = {};
    const at::Tensor found = decode(model, with, tokens, 130);
    if (on_executor()) {
      EXPECT_EQ(traffic(*backend()).captures, 1);
      EXPECT_EQ(traffic(*backend()).replays, 11);
    }
    const Setting setting("0");
    const at::Tensor expected = decode(model, without, tokens, 130);
    EXPECT_TRUE(at::equal(found, expected));
    for (int64_t layer = 0; layer < 2; ++layer) expect_same_bytes(with, without, layer);
  }
}

// Moments are summed by steps, and fade when the block that they complete is packed: the blocks are
// those of a cache that is fed the same tokens one by one, without steps.
TEST_P(CudaDecode, StepsWithErrorFeedbackEqualChunksOfOneToken) {
  CompressionConfig feedback = balanced_;
  feedback.set("error_feedback=true");
  const at::Tensor tokens = random_tokens(config_, 270, 7);
  LlamaModel model = make_model(at::kHalf);
  for (const CompressionConfig& config :
       {feedback, CompressionConfig::preset("balanced-trellis")}) {
    QuantizedKvCache steps = cache_of(model, config), chunks = cache_of(model, config);
    decode(model, steps, tokens, 130);
    for (int64_t begin = 0; begin < tokens.size(0);) {
      const int64_t end = begin == 0 ? 130 : begin + 1;
      model->forward(tokens.slice(0, begin, end), chunks, Logits::kNone);
      begin = end;
    }
    EXPECT_EQ(steps.blocks(0).size(), 2u);
    expect_same_bytes(steps, chunks, 0);  // attention between the layers rounds otherwise
  }
}

// A graph is nobody's: it is replayed for another cache when the one it was captured with is gone.
TEST_P(CudaDecode, GraphsOutliveTheCacheTheyWereCapturedWith) {
  const at::Tensor tokens = random_tokens(config_, 140, 12);
  LlamaModel model = make_model(at::kHalf);
  const auto run = [&](const at::Tensor& of) {
    QuantizedKvCache cache = cache_of(model);
    return decode(model, cache, of, 134);
  };
  run(tokens);
  const at::Tensor found = run(tokens.flip(0));
  if (on_executor()) {
    EXPECT_EQ(traffic(*backend()).captures, 1);
  }
  const Setting off("0");
  EXPECT_TRUE(at::equal(found, run(tokens.flip(0))));
}

// Sequences of different lengths in one launch: the batch's matrix products may round otherwise
// than a row alone, on the executor they do not.
TEST_P(CudaDecode, ABatchEqualsItsSequences) {
  if (!on_executor()) GTEST_SKIP() << "on a GPU a batch's matrix products round otherwise";
  LlamaModel model = make_model(at::kBFloat16);
  at::manual_seed(5);
  const std::vector<int64_t> lengths = {20, 134, 70};
  std::vector<at::Tensor> tokens;
  std::vector<QuantizedKvCache> alone, together;
  for (int64_t length : lengths) {
    tokens.push_back(at::randint(config_.vocab_size, {length + 4}, at::kLong));
    alone.push_back(cache_of(model));
    together.push_back(cache_of(model));
    model->forward(tokens.back().slice(0, 0, length), together.back(), Logits::kNone);
  }
  std::vector<at::Tensor> expected;
  for (size_t i = 0; i < lengths.size(); ++i) {
    expected.push_back(decode(model, alone[i], tokens[i], lengths[i]));
  }
  for (int64_t step = 0; step < 4; ++step) {
    std::vector<SequenceChunk> batch;
    for (size_t i = 0; i < lengths.size(); ++i) {
      batch.push_back({tokens[i].slice(0, lengths[i] + step, lengths[i] + step + 1), &together[i]});
    }
    const std::vector<at::Tensor> found = model->forward(batch, Logits::kLast);
    for (size_t i = 0; i < lengths.size(); ++i) {
      const double difference =
          (found[i] - expected[i].slice(0, step, step + 1)).abs().max().item<double>();
      // A product's sum in another order: bf16's unit in the last place of the largest logit, a
      // few.
      const double unit = expected[i].abs().max().item<double>() * 0x1.0p-7;
      EXPECT_TRUE(difference <= 4 * unit) << i << " at " << step << ": " << difference;
    }
  }
}

// The tables of blocks move when they grow, in the middle of decoding: the graph that was captured
// before finds them.
TEST_P(CudaDecode, TablesMayGrowBetweenReplays) {
  const int64_t begin = 8 + 8 * 128 - 3;  // eight blocks are full after three more
  const at::Tensor tokens = random_tokens(config_, begin + 7, 8);
  LlamaModel model = make_model(at::kHalf);
  QuantizedKvCache with = cache_of(model), without = cache_of(model);
  const at::Tensor found = decode(model, with, tokens, begin);
  const Setting off("0");
  EXPECT_TRUE(at::equal(found, decode(model, without, tokens, begin)));
  EXPECT_EQ(with.blocks(0).size(), 8u);
  for (int64_t layer = 0; layer < 2; ++layer) expect_same_bytes(with, without, layer);
}

// A chunk between steps, and steps after it: the tail's rotations are computed anew.
TEST_P(CudaDecode, ChunksAndStepsMayAlternate) {
  const at::Tensor tokens = random_tokens(config_, 170, 9);
  LlamaModel exact(config_, at::kFloat), cpu_model(config_, at::kBFloat16);
  LlamaModel model = make_model(at::kBFloat16);
  for (LlamaModel* m : {&exact, &cpu_model}) {
    (*m)->load_weights(random_llama("gqa_d64", config_));
  }
  const auto run = [&](const LlamaModel& m, QuantizedKvCache cache) {
    std::vector<at::Tensor> logits;
    int64_t begin = 0;
    for (int64_t count : {30, 1, 1, 1, 40, 1, 1, 70, 1, 1, 20, 1, 1, 1}) {
      logits.push_back(m->forward(tokens.slice(0, begin, begin + count), cache, Logits::kLast));
      begin += count;
    }
    return at::cat(logits);
  };
  const at::Tensor wide = run(exact, exact->make_cache(balanced_));
  const at::Tensor expected = run(cpu_model, cpu_model->make_cache(balanced_));
  const at::Tensor found = run(model, cache_of(model));
  const double rounding = (expected - wide).abs().max().item<double>();
  const double difference = (found - expected).abs().max().item<double>();
  EXPECT_TRUE(difference <= 2 * rounding) << difference << " > " << 2 * rounding;
}

TEST_P(CudaDecode, AWrongSettingIsOneLine) {
  LlamaModel model = make_model(at::kBFloat16);
  QuantizedKvCache cache = cache_of(model);
  const at::Tensor tokens = random_tokens(config_, 20, 10);
  const Setting wrong("yes");
  EXPECT_EQ(error_of([&] { decode(model, cache, tokens, 18); }),
            "expected RILLKV_CUDA_GRAPHS=0 or 1, got 'yes'");
}

// Caches of two configurations have no launch in common: each attends by itself.
TEST_P(CudaDecode, ABatchOfTwoConfigurationsIsTakenApart) {
  LlamaModel model = make_model(at::kBFloat16);
  const at::Tensor tokens = random_tokens(config_, 20, 11);
  std::vector<QuantizedKvCache> alone, together;
  std::vector<at::Tensor> expected;
  for (const char* preset : {"balanced", "extreme"}) {
    alone.push_back(cache_of(model, CompressionConfig::preset(preset)));
    together.push_back(cache_of(model, CompressionConfig::preset(preset)));
    expected.push_back(decode(model, alone.back(), tokens, 19));
    model->forward(tokens.slice(0, 0, 19), together.back(), Logits::kNone);
  }
  const at::Tensor last = tokens.slice(0, 19, 20);
  const std::vector<at::Tensor> found =
      model->forward({{last, &together[0]}, {last, &together[1]}}, Logits::kLast);
  for (size_t i = 0; i < 2; ++i) {
    // By other launches than a step's: bf16 rounds elsewhere.
    const double unit = expected[i].abs().max().item<double>() * 0x1.0p-7;
    EXPECT_TRUE((found[i] - expected[i]).abs().max().item<double>() <= 4 * unit);
  }
}

TEST_P(CudaDecode, BadNumbersAreSaidWithLayerAndWeight) {
  LlamaModel model = make_model(at::kBFloat16);
  QuantizedKvCache cache = cache_of(model);
  const at::Tensor tokens = random_tokens(config_, 20, 6);
  decode(model, cache, tokens, 18);
  {
    at::NoGradGuard no_grad;
    auto parameters = model->named_parameters();
    parameters["layers.1.self_attn.k_proj.weight"].fill_(std::nan(""));
  }
  const std::string error =
      error_of([&] { model->forward(tokens.slice(0, 0, 1), cache, Logits::kLast); });
  EXPECT_NE(error.find("layer 1: expected finite keys"), std::string::npos) << error;
  EXPECT_NE(error.find("'model.layers.1.self_attn.k_proj.weight' holds NaN"), std::string::npos)
      << error;
  EXPECT_FALSE(cache.in_step());
}

/// Operations of LibTorch that were dispatched, but for those that give a device nothing to do and
/// for the executor's own.
class Operations {
 public:
  Operations() {
    handle_ = at::addGlobalCallback(at::RecordFunctionCallback(&begin));
    current() = this;
  }
  ~Operations() {
    current() = nullptr;
    at::removeCallback(handle_);
  }
  Operations(const Operations&) = delete;
  Operations& operator=(const Operations&) = delete;
  int64_t count = 0;
  std::string names;

 private:
  static Operations*& current() {
    static Operations* instance = nullptr;
    return instance;
  }
  static std::unique_ptr<at::ObserverContext> begin(const at::RecordFunction& function) {
    static const std::set<std::string> kFree = {
        "aten::empty",         "aten::empty_like", "aten::empty_strided", "aten::view",
        "aten::slice",         "aten::narrow",     "aten::select",        "aten::as_strided",
        "aten::reshape",       "aten::detach",     "aten::unsqueeze",     "aten::squeeze",
        "aten::_reshape_alias"};
    if (current() != nullptr && kFree.count(function.name()) == 0) {
      ++current()->count;
      current()->names += str_cat(function.name(), " ");
    }
    return nullptr;
  }
  at::CallbackHandle handle_ = 0;
};

// SmolLM2-135M's layers (narrower in what does not count launches).
TEST_P(CudaDecode, ATokenOfThirtyLayersTakesFewLaunchesAndOneWait) {
  if (!on_executor()) GTEST_SKIP() << "the executor's back end counts";
  ModelConfig config = config_;
  config.num_hidden_layers = 30;
  config.num_attention_heads = 9;
  config.num_key_value_heads = 3;
  config.head_dim = 64;
  config.hidden_size = 64;
  config.tie_word_embeddings = true;
  LlamaModel model = make_model(at::kBFloat16, config, "thirty");
  QuantizedKvCache cache = cache_of(model);
  const at::Tensor tokens = random_tokens(config, 16, 7);
  const Setting off("0");
  decode(model, cache, tokens, 12);
  const DeviceTraffic before = traffic(*backend());
  model->forward(tokens.slice(0, 0, 1), cache, Logits::kLast);
  const DeviceTraffic after = traffic(*backend());
  EXPECT_LE(after.launches - before.launches, 350);
  EXPECT_LE(after.waits - before.waits, 1);
  EXPECT_EQ(after.uploads - before.uploads, 0);
  RecordProperty("launches_a_token", static_cast<int>(after.launches - before.launches));
  RecordProperty("copies_to_the_host", static_cast<int>(after.downloads - before.downloads));

  // Nothing of LibTorch's besides: what is left is the CPU's work on ids and logits, once a token.
  // One operation a layer would be thirty.
  {
    Operations operations;
    model->forward(tokens.slice(0, 1, 2), cache, Logits::kLast);
    EXPECT_LT(operations.count, 30) << operations.names;
    EXPECT_GT(operations.count, 0);  // it sees some
  }

  // With graphs: the launch that says where the sequences are, and one graph.
  const Setting on("1");
  for (int64_t i = 2; i < 4; ++i) model->forward(tokens.slice(0, i, i + 1), cache, Logits::kLast);
  const DeviceTraffic captured = traffic(*backend());
  model->forward(tokens.slice(0, 4, 5), cache, Logits::kLast);
  const DeviceTraffic replayed = traffic(*backend());
  EXPECT_EQ(replayed.launches - captured.launches, 1);
  EXPECT_EQ(replayed.replays - captured.replays, 1);
  EXPECT_EQ(replayed.captures, captured.captures);
  EXPECT_EQ(replayed.waits - captured.waits, 1);
  EXPECT_EQ(replayed.uploads - captured.uploads, 0);
}

RILLKV_INSTANTIATE_FOR_EVERY_BACKEND(CudaDecode);

}  // namespace
}  // namespace rillkv::testing
