// transformers 5 gives LLaMA's tokenizers one form of their own, whatever tokenizer.json says.
#pragma once

#include <nlohmann/json.hpp>

#include "src/io/tokenizer/tokenizers.h"

namespace rillkv::io {

/// True if transformers 5 takes only vocabulary, merges and post-processor from this
/// tokenizer.json: the class is LlamaTokenizer or CodeLlamaTokenizer, nothing in the file is
/// ByteLevel, and the model is no Mistral (whose class it does not believe).
bool is_rebuilt_as_llama(const nlohmann::json& root, const TokenizerSettings& settings);

/// Changes `root` to the tokenizer that transformers 5 builds from it: BPE with byte fallback and
/// without an unknown token, Metaspace with the scheme that `legacy` and `add_prefix_space` say, no
/// normalizer. Its "added_tokens" become those of the settings, unless these have none.
void rebuild_as_llama(nlohmann::json& root, TokenizerSettings& settings);

/// True if the section, or one within it, has this type.
bool contains_type(const nlohmann::json& section, const char* type);

}  // namespace rillkv::io
