// The regular expressions of a tokenizer.json, rewritten for PCRE2.
//
// They are written for Oniguruma with its own syntax (Ruby's and a little more), which looks like
// Perl's and means other things: `^` and `$` are about lines, `(?m)` lets a dot match newlines,
// `{1,3}+` is a repeated repeat, `\h` a hexadecimal digit, `\v` one control character, `(?i)` holds
// across `|`, and classes may be nested and intersected. What can be said exactly is translated;
// the rest is refused by name, never passed on to mean something else.
#pragma once

#include <functional>
#include <string>

#include "src/io/code_points.h"

namespace rillkv::io {

/// A PCRE2 expression for one character of `set`. `negated`: the pattern named the other ones.
using SetWriter = std::function<std::string(const CodePointSet& set, bool negated)>;

/// An expression for PCRE2 with PCRE2_UTF and newlines that are "\n", which matches what `pattern`
/// matches. It captures nothing. Throws Error with `where`, the pattern and the construct.
std::string translate_onig(const std::string& pattern, const std::string& where,
                           const SetWriter& write_set);

}  // namespace rillkv::io
