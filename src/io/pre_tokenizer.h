// The "pre_tokenizer" section of a tokenizer.json: cuts a text into the pieces that BPE works on.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "src/io/regex.h"

namespace rillkv::io {

/// Split, Digits and ByteLevel, alone or in a Sequence that ends with ByteLevel. Immutable after
/// construction.
class PreTokenizer {
 public:
  /// Throws Error naming `where` and the key for anything else.
  PreTokenizer(const nlohmann::json& section, const std::string& where);

  /// Calls `sink` for each non-empty piece of `text` (valid UTF-8), in order. The pieces' raw bytes
  /// are given, not their stand-ins in the byte-level alphabet.
  void split(std::string_view text, const std::function<void(std::string_view)>& sink) const;

 private:
  // Matches of `regex` and the stretches between them become pieces of their own; some are dropped.
  struct Step {
    Regex regex;
    bool drops_matches = false;
    bool drops_gaps = false;
    bool adds_prefix_space = false;
    bool is_regex = true;
  };
  void add(const nlohmann::json& section, const std::string& where);
  void apply(size_t index, std::string_view piece, std::vector<Regex::Matcher>& matchers,
             const std::function<void(std::string_view)>& sink) const;

  std::vector<Step> steps_;
  bool byte_level_ = false;
};

}  // namespace rillkv::io
