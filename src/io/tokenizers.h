// The two kinds of tokenizer. Tokenizer::load() chooses.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "rillkv/tokenizer.h"

namespace rillkv::io {

struct AddedToken {
  std::string spelling;
  int64_t id = 0;
  bool special = true;
};

/// What tokenizer_config.json and added_tokens.json say beyond the tokenizer's own file.
struct TokenizerSettings {
  std::string bos_token;  // empty: not said
  std::string eos_token;
  // The rest concerns sentencepiece only: a tokenizer.json says both itself.
  bool add_bos = true;
  std::vector<AddedToken> added_tokens;
};

/// True for a tokenizer.json whose model is BPE over the byte-level alphabet.
bool is_byte_level_bpe(const nlohmann::json& root);

/// `root` is the content of the tokenizer.json called `path`.
std::unique_ptr<Tokenizer> make_bpe_tokenizer(const nlohmann::json& root, const std::string& path,
                                              const TokenizerSettings& settings);

/// `path` is a sentencepiece model.
std::unique_ptr<Tokenizer> make_sentencepiece_tokenizer(const std::string& path,
                                                        const TokenizerSettings& settings);

}  // namespace rillkv::io
