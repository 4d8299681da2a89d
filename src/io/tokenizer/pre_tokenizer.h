// The "pre_tokenizer" section of a tokenizer.json: cuts a text into the pieces that BPE works on.
#pragma once

#include <cstddef>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "src/io/regex/regex.h"

namespace rillkv::io {

/// Split, Digits, Punctuation, Whitespace, WhitespaceSplit, CharDelimiterSplit, FixedLength,
/// Metaspace and ByteLevel, alone or in a Sequence, in which nothing follows ByteLevel. Immutable
/// after construction.
class PreTokenizer {
 public:
  /// `section` may be null: the text is one piece. Throws Error naming `where` and the key for
  /// anything else.
  PreTokenizer(const nlohmann::json& section, const std::string& where);

  /// Calls `sink` for each non-empty piece of `text` (valid UTF-8), in order. With ByteLevel the
  /// pieces' raw bytes are given, not their stand-ins in the byte-level alphabet. `begins_input`:
  /// nothing came before this text (Metaspace's scheme "first" asks for that).
  void split(std::string_view text, bool begins_input,
             const std::function<void(std::string_view)>& sink) const;

  /// True if BPE works on bytes: the last step is ByteLevel.
  bool is_byte_level() const { return byte_level_; }

 private:
  // What becomes of the matches of an expression.
  enum class Behavior { kIsolated, kRemoved, kMergedWithPrevious, kMergedWithNext, kContiguous };
  enum class Prepend { kNever, kFirst, kAlways };
  struct Step {
    std::optional<Regex> regex;  // without one the step cuts nothing
    Behavior behavior = Behavior::kIsolated;
    bool invert = false;  // what lies between the matches counts as matched, and the reverse
    bool adds_prefix_space = false;  // ByteLevel
    std::string space;               // Metaspace: what stands for a space; empty: another step
    Prepend prepend = Prepend::kNever;
  };
  struct Piece {
    std::string_view text;
    bool begins_input = false;
  };
  using Sink = std::function<void(std::string_view)>;

  void add(const nlohmann::json& section, const std::string& where);
  void add_split(const std::string& pattern, Behavior behavior, bool invert,
                 const std::string& where);
  void apply(size_t index, Piece piece, std::vector<Regex::Matcher>& matchers,
             const Sink& sink) const;
  void cut(size_t index, Piece piece, std::vector<Regex::Matcher>& matchers,
           const Sink& sink) const;
  void cut_and_merge(size_t index, Piece piece, std::vector<Regex::Matcher>& matchers,
                     const Sink& sink) const;
  static Behavior read_behavior(const nlohmann::json& section, const std::string& where);

  std::vector<Step> steps_;
  bool byte_level_ = false;
};

}  // namespace rillkv::io
