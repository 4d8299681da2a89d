// Writing sets of characters for PCRE2, whose Unicode may be older (Debian 12: 14.0) or newer than
// the one that tokenizers mean (16.0: regex_tables.h).
#pragma once

#include <string>
#include <string_view>

#include "src/io/code_points.h"

namespace rillkv::io {

/// What PCRE2 and our tables tell apart, found once by asking PCRE2 about every character.
/// Immutable.
class PcreUnicode {
 public:
  static const PcreUnicode& get();

  /// One character of `set`, as short as \p{} allows. kFast may be wrong about characters for
  /// which differs() is true, and so needs no long lists; kExact is right about all.
  enum class Mode { kFast, kExact };
  std::string write(const CodePointSet& set, bool negated, Mode mode) const;

  /// True if valid UTF-8 `text` has a character that PCRE2 puts into another category.
  bool differs(std::string_view text) const;

 private:
  struct Items {
    std::string text;
    size_t count = 0;
    bool single = false;  // one \p{} and nothing else
  };

  PcreUnicode();
  Items items(const CodePointSet& set, Mode mode) const;

  std::vector<CodePointSet> known_;  // PCRE2's categories, in the order of kCategoryNames
  CodePointSet differing_;
  std::vector<char> blocks_;         // differing_ below U+10000, by code point / 64
  unsigned char first_lead_ = 0xe0;  // the least first byte of a character that may differ
};

}  // namespace rillkv::io
