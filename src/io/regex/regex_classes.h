// Named sets of characters and case, as the `tokenizers` package's regular expressions know them.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "src/io/code_points.h"

namespace rillkv::io {

/// Sets by general category, in the order of kCategoryNames. Made once.
const std::vector<CodePointSet>& regex_categories();

/// The set behind `\p{name}`: a general category ("L", "Lu", "Uppercase_Letter"), a class like
/// "Alpha" or "Word", "Any", "Assigned", or one of the scripts in regex_tables.cpp. Case, spaces,
/// '_' and '-' in names do not count. nullopt for other names.
std::optional<CodePointSet> regex_property(std::string_view name);
/// The same of a property that is there; throws Error otherwise.
CodePointSet regex_known_property(std::string_view name);

/// True for the spellings of "Word".
bool regex_names_word(std::string_view name);

/// The set behind `[:name:]`, which for "punct" is more than \p{Punct}.
std::optional<CodePointSet> regex_posix_bracket(std::string_view name);

/// `\w` outside of []: beyond \p{Word} the superscripts and fractions of Latin-1, as the package's
/// library has it.
const CodePointSet& regex_bare_word();

/// `set` and everything that equals a member of it where case does not count.
CodePointSet regex_fold(const CodePointSet& set);

/// The member of `code`'s case group that stands for all.
uint32_t regex_fold_representative(uint32_t code);

/// True if one character would equal a stretch of `codes` (representatives), as U+00DF equals "ss",
/// or if one of `codes` itself equals several.
bool regex_has_case_expansion(const std::vector<uint32_t>& codes);

/// Characters that equal several others.
const CodePointSet& regex_expanding();

}  // namespace rillkv::io
