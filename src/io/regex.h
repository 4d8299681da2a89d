// Unicode regular expressions for pre-tokenisers (PCRE2, compiled to machine code where it can).
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace rillkv::io {

/// Immutable and shareable between threads. tokenizer.json's patterns are written for Oniguruma:
/// `\s` and `\S` mean Unicode's White_Space here as there (PCRE2 by itself adds U+180E).
class Regex {
 public:
  /// Throws Error with `where` if the pattern does not compile.
  Regex(const std::string& pattern, const std::string& where);

  /// State of one search, not shareable.
  class Matcher {
   public:
    explicit Matcher(const Regex& regex);
    /// The first match in `text` (valid UTF-8) at or after byte `start`, as [begin, end).
    /// Throws Error if the pattern backtracks without bound.
    std::optional<std::pair<size_t, size_t>> find(std::string_view text, size_t start);

   private:
    const Regex& regex_;
    std::shared_ptr<void> data_;
  };

 private:
  std::string where_;
  std::shared_ptr<void> code_;
};

}  // namespace rillkv::io
