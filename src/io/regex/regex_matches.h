// All matches of a pattern in a text, in the order and with the treatment of empty matches that
// tokenizer.json's steps (Split, Replace, Digits ...) are defined with.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "src/io/json_reader.h"
#include "src/io/regex/regex.h"

namespace rillkv::io {

/// Iterates over matches as Oniguruma's `find_iter` does: an empty match counts, except one that
/// lies directly behind the match before it. The matcher and the text must outlive it.
class MatchIterator {
 public:
  MatchIterator(Regex::Matcher& matcher, std::string_view text) : matcher_(matcher), text_(text) {}
  /// The next match as [begin, end).
  std::optional<std::pair<size_t, size_t>> next();

 private:
  Regex::Matcher& matcher_;
  std::string_view text_;
  size_t start_ = 0;
  std::optional<size_t> last_end_;
};

/// An expression that matches exactly `text`.
std::string quote_pattern(const std::string& text);

/// The expression of key "pattern": {"Regex": "..."} as it is, {"String": "..."} quoted so that it
/// matches exactly that text. Throws Error naming the key for anything else.
std::string read_pattern(const JsonReader& reader);

}  // namespace rillkv::io
