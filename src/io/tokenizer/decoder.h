// The "decoder" section of a tokenizer.json: what each token adds to a text.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "src/io/tokenizer/bpe_model.h"

namespace rillkv::io {

/// ByteLevel and Metaspace, alone, and what sentencepiece models are converted to, a Sequence of
/// Replace, ByteFallback, Fuse and Strip. Immutable after construction.
class Decoder {
 public:
  /// Throws Error naming `where` and the key for anything else.
  Decoder(const nlohmann::json& section, const std::string& where);

  /// The bytes that the token spelt `token` adds to a text.
  std::string bytes(const std::string& token) const;

  /// True if one space at the very beginning of a text is dropped.
  bool strips_first_space() const { return strips_first_space_; }
  bool is_byte_level() const { return byte_level_; }

 private:
  void add(const nlohmann::json& section, const std::string& where);

  ByteAlphabet alphabet_;
  std::vector<std::pair<std::string, std::string>> replacements_;
  bool byte_level_ = false;
  bool byte_fallback_ = false;
  bool fused_ = false;  // what follows would see the whole text, not a token
  bool strips_first_space_ = false;
};

/// The byte that a byte-fallback token ("<0x0A>") stands for; -1 for another spelling.
int fallback_byte(std::string_view token);

}  // namespace rillkv::io
