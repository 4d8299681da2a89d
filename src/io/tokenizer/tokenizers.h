// The two kinds of tokenizer. Tokenizer::load() chooses.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "rillkv/tokenizer.h"

namespace rillkv::io {

struct AddedToken {
  std::string spelling;
  int64_t id = -1;  // -1: not said
  bool special = true;
  bool normalized = false;   // found in the normalised text rather than the text as it is
  bool single_word = false;  // found only where no word character is next to it
  bool lstrip = false;       // takes the white space before it along
  bool rstrip = false;
};

/// An added token as an object says it ("content" and flags) or as its spelling alone. `where`
/// names it in errors; without `normalized` special tokens are not, others are.
AddedToken read_added_token(const nlohmann::json& value, const std::string& where, bool special);

/// What the files beside the tokenizer's own say: tokenizer_config.json, special_tokens_map.json,
/// added_tokens.json, config.json.
struct TokenizerSettings {
  std::string bos_token;  // empty: not said
  std::string eos_token;
  std::string tokenizer_class;
  std::string model_type;
  bool has_config = false;  // tokenizer_config.json is there
  /// A BOS before every text, an EOS behind it. These concern sentencepiece only: a tokenizer.json
  /// says both itself, and transformers 5 believes that. Not said: a BOS, as LLaMA's tokenizer
  /// always had (transformers 5.23 adds none).
  std::optional<bool> add_bos;
  bool add_eos = false;
  std::optional<bool> legacy;  // null counts as false
  bool add_prefix_space = true;
  bool split_special_tokens = false;  // special tokens are not recognised in any text
  /// From added_tokens_decoder, by id, and added_tokens.json.
  std::vector<AddedToken> added_tokens;
  /// tokenizer_config.json has added_tokens_decoder: then a rebuilt tokenizer takes no other.
  bool has_added_tokens_decoder = false;
  /// bos_token, pad_token, image_token ... in the order that Hugging Face adds them in; those that
  /// are null have none.
  std::vector<std::pair<std::string, std::optional<AddedToken>>> named_tokens;
  /// additional_special_tokens, extra_special_tokens.
  std::vector<AddedToken> extra_tokens;
};

/// Reads what there is in `folder`. Throws Error naming file and key.
TokenizerSettings read_tokenizer_settings(const std::string& folder);

/// True for a tokenizer.json whose model is BPE.
bool is_bpe(const nlohmann::json& root);

/// `root` is the content of the tokenizer.json called `path`.
std::unique_ptr<Tokenizer> make_bpe_tokenizer(nlohmann::json root, const std::string& path,
                                              const TokenizerSettings& settings);

/// `path` is a sentencepiece model.
std::unique_ptr<Tokenizer> make_sentencepiece_tokenizer(const std::string& path,
                                                        const TokenizerSettings& settings);

}  // namespace rillkv::io
