// Prefills a prompt through a compressed KV cache and goes on from it.
//   generate MODEL_FOLDER PROMPT
#include <rillkv/chat.h>
#include <rillkv/generation.h>
#include <rillkv/llama.h>
#include <rillkv/tokenizer.h>

#include <cstdio>
#include <exception>

int main(int argc, char** argv) {
  if (argc != 3) return std::fprintf(stderr, "usage: generate MODEL_FOLDER PROMPT\n"), 2;
  try {
    // The folder of a LLaMA-family checkpoint as it was downloaded.
    const rillkv::LlamaModel model = rillkv::load_model(argv[1]);
    const auto tokenizer = rillkv::Tokenizer::load(argv[1]);

    // One cache a sequence. The preset says how many bits keys and values get, and how long the
    // chunks of the prefill are; `CompressionConfig::set` changes single keys.
    auto cache = model->make_cache(rillkv::CompressionConfig::preset("balanced"));

    rillkv::GenerationOptions options;
    options.max_new_tokens = 32;
    options.stop_ids =
        rillkv::stop_ids(*tokenizer, rillkv::ChatTemplate(), model->config().eos_token_ids);

    // Chunk after chunk is read, and every full block is compressed before the next chunk comes:
    // the prompt never stands in memory uncompressed.
    const auto prompt = tokenizer->encode(argv[2], /*add_bos=*/true);
    const auto result = rillkv::generate(model, prompt, cache, options);
    std::printf("%s\n", tokenizer->decode_generated(result.tokens, prompt).c_str());

    const rillkv::CacheReport report = cache.report();
    std::printf("%zu + %zu tokens, %.2f s to the first; cache %lld bytes, %.2f bits an element\n",
                prompt.size(), result.tokens.size(), result.ttft_s,
                static_cast<long long>(report.kv_bytes), report.kv_bits_per_element.total);
    return 0;
  } catch (const std::exception& error) {  // rillkv::Error says in one line what was wrong
    return std::fprintf(stderr, "generate: %s\n", error.what()), 1;
  }
}
