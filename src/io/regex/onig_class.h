// The insides of [] in a regular expression.
#pragma once

#include <optional>

#include "src/io/code_points.h"
#include "src/io/regex/onig_scanner.h"

namespace rillkv::io {

struct OnigClass {
  CodePointSet set;  // before the negation
  bool negated = false;
};

/// From behind "[" to behind its "]": ranges, escapes, [:names:], classes within and &&.
OnigClass parse_onig_class(OnigScanner& scan, int depth = 0);

/// "{name}" behind `\p`; nullopt, and nothing read, if no brace follows. `is_word`: whether it
/// is the one name that means more outside of [].
std::optional<OnigClass> onig_property(OnigScanner& scan, bool* is_word);

}  // namespace rillkv::io
