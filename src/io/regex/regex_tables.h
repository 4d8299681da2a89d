// What characters are in the Unicode (16.0) of the `tokenizers` package's regular expressions;
// scripts/make_regex_tables.py makes the tables.
#pragma once

#include <cstddef>
#include <cstdint>
#include <iterator>

#include "src/io/code_points.h"

namespace rillkv::io {

struct CategoryRange {
  uint32_t first;
  uint32_t count;
  uint32_t category;  // index into kCategoryNames
};

/// General categories of two letters, without the unassigned (Cn); sorted ranges.
extern const char* const kCategoryNames[];
extern const size_t kCategoryCount;
extern const CategoryRange kCategoryRanges[];
extern const size_t kCategoryRangeCount;

/// What Alphabetic, Lowercase and Uppercase have beyond L and Nl, Ll and Lu.
extern const CodePointRange kOtherAlphabetic[];
extern const size_t kOtherAlphabeticCount;
extern const CodePointRange kOtherLower[];
extern const size_t kOtherLowerCount;
extern const CodePointRange kOtherUpper[];
extern const size_t kOtherUpperCount;

struct Script {
  const char* name;  // lower case
  size_t start;      // into kScriptRanges
  size_t count;
};
extern const Script kScripts[];
extern const size_t kScriptCount;
extern const CodePointRange kScriptRanges[];

/// Characters that are the same where case does not count; unused places are 0.
struct CaseGroup {
  uint32_t members[4];
};
extern const CaseGroup kCaseGroups[];
extern const size_t kCaseGroupCount;

/// Characters that are the same as two or three others there, as U+00DF is "ss".
struct CaseExpansion {
  uint32_t code;
  uint32_t spelling[3];
};
extern const CaseExpansion kCaseExpansions[];
extern const size_t kCaseExpansionCount;

}  // namespace rillkv::io
