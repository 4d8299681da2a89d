// Unicode regular expressions for pre-tokenisers (PCRE2, compiled to machine code where it can).
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace rillkv::io {

/// A tokenizer.json's expression, with the meaning that the `tokenizers` package gives it: the
/// syntax of Oniguruma and the characters of Unicode 16.0 (see onig_syntax.h and pcre_unicode.h).
/// Immutable and shareable between threads.
class Regex {
 public:
  /// Throws Error with `where` if the pattern is none, or has a construct without translation.
  Regex(const std::string& pattern, const std::string& where);

  /// State of one search, not shareable.
  class Matcher {
   public:
    explicit Matcher(const Regex& regex);
    /// The first match in `text` (valid UTF-8) at or after byte `start`, as [begin, end). A search
    /// of a text begins at 0: a later `start` continues it. Throws Error if the pattern backtracks
    /// without bound.
    std::optional<std::pair<size_t, size_t>> find(std::string_view text, size_t start);

   private:
    const Regex& regex_;
    std::shared_ptr<void> data_;
    std::string_view text_;       // that was searched last
    const void* code_ = nullptr;  // what it is searched with
  };

 private:
  std::string where_;
  std::shared_ptr<void> code_;
  // The program for texts with characters that PCRE2 does not know: made when the first comes.
  struct Exact;
  std::shared_ptr<Exact> exact_;
};

}  // namespace rillkv::io
