// A small LLaMA whose caches are CUDA's, against the same model over CPU caches.
#include "rillkv/error.h"
#include "rillkv/llama.h"
#include "tests/cuda_core/cuda_fixture.h"
#include "tests/support/random_llama.h"

namespace rillkv::testing {
namespace {

constexpr int64_t kTokens = 106;  // sinks, three blocks of 32, a tail

class CudaModel : public EveryBackend {};

// Keys of the second layer depend on the first one's attention, so now and then a code falls on the
// other side of a rounding. That moves a logit by a small part of what compression itself does to
// it: a tenth is allowed, where one wrong block or position costs as much as compression or more.
TEST_P(CudaModel, LogitsEqualThoseOfCpuCaches) {
  for (const char* name : {"gqa_d64", "gqa_d80", "mha_d128"}) {
    SCOPED_TRACE(name);
    const ModelConfig config = random_llama_config(name);
    LlamaModel cpu_model(config, at::kFloat), model(config, at::kFloat, device());
    cpu_model->load_weights(random_llama(name, config));
    model->load_weights(random_llama(name, config));
    at::manual_seed(3);
    const at::Tensor tokens = at::randint(config.vocab_size, {kTokens}, at::kLong);
    const auto run = [&](LlamaModel& which, QuantizedKvCache& cache) {
      std::vector<at::Tensor> logits;
      for (int64_t begin = 0; begin < kTokens;) {
        const int64_t end = begin < 100 ? begin + 50 : begin + 1;
        logits.push_back(which->forward(tokens.slice(0, begin, end), cache, Logits::kAll));
        begin = end;
      }
      return at::cat(logits);
    };
    CompressionConfig compressed = CompressionConfig::preset("balanced");
    compressed.set("block_size=32");
    QuantizedKvCache dense = cpu_model->make_cache(CompressionConfig::preset("dense"));
    QuantizedKvCache cpu = cpu_model->make_cache(compressed);
    QuantizedKvCache cuda = make_cache(cpu.geometry(), compressed, at::kFloat);
    const at::Tensor exact = run(cpu_model, dense), expected = run(cpu_model, cpu);
    const at::Tensor found = run(model, cuda);
    ASSERT_EQ(cuda.blocks(1).size(), 3u);
    const double cost = (expected - exact).abs().max().item<double>();
    const double difference = (found - expected).abs().max().item<double>();
    EXPECT_GT(cost, 0);
    EXPECT_TRUE(difference <= 0.1 * cost) << difference << ", compression costs " << cost;
    RecordProperty(str_cat(name, "_difference_over_cost"), str_cat(difference / cost));
  }
}

RILLKV_INSTANTIATE_FOR_EVERY_BACKEND(CudaModel);

}  // namespace
}  // namespace rillkv::testing
