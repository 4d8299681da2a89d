#include "src/io/regex/regex_classes.h"

#include <algorithm>
#include <string>
#include <unordered_map>
#include <utility>

#include "rillkv/error.h"
#include "src/io/regex/regex_tables.h"

namespace rillkv::io {
namespace {

CodePointSet table(const CodePointRange* ranges, size_t count) {
  return CodePointSet(std::vector<CodePointRange>(ranges, ranges + count));
}

// Union of the categories whose names begin with one of `prefixes`, separated by spaces.
CodePointSet categories(std::string_view prefixes) {
  CodePointSet result;
  while (!prefixes.empty()) {
    const size_t space = std::min(prefixes.find(' '), prefixes.size());
    const std::string_view prefix = prefixes.substr(0, space);
    for (size_t i = 0; i < kCategoryCount; ++i) {
      const std::string_view name = kCategoryNames[i];
      if (name.substr(0, prefix.size()) == prefix) result = result | regex_categories()[i];
    }
    prefixes.remove_prefix(std::min(space + 1, prefixes.size()));
  }
  return result;
}

std::string plain(std::string_view name) {
  std::string result;
  for (const char c : name) {
    if (c == ' ' || c == '_' || c == '-') continue;
    result += c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  }
  return result;
}

struct Name {
  const char* name;
  const char* categories;
};

// General categories by their long names.
constexpr Name kLongNames[] = {
    {"letter", "L"},
    {"uppercaseletter", "Lu"},
    {"lowercaseletter", "Ll"},
    {"titlecaseletter", "Lt"},
    {"modifierletter", "Lm"},
    {"otherletter", "Lo"},
    {"lc", "Lu Ll Lt"},
    {"casedletter", "Lu Ll Lt"},
    {"mark", "M"},
    {"nonspacingmark", "Mn"},
    {"spacingmark", "Mc"},
    {"enclosingmark", "Me"},
    {"number", "N"},
    {"decimalnumber", "Nd"},
    {"letternumber", "Nl"},
    {"othernumber", "No"},
    {"punctuation", "P"},
    {"connectorpunctuation", "Pc"},
    {"dashpunctuation", "Pd"},
    {"openpunctuation", "Ps"},
    {"closepunctuation", "Pe"},
    {"initialpunctuation", "Pi"},
    {"finalpunctuation", "Pf"},
    {"otherpunctuation", "Po"},
    {"symbol", "S"},
    {"mathsymbol", "Sm"},
    {"currencysymbol", "Sc"},
    {"modifiersymbol", "Sk"},
    {"othersymbol", "So"},
    {"separator", "Z"},
    {"spaceseparator", "Zs"},
    {"lineseparator", "Zl"},
    {"paragraphseparator", "Zp"},
    {"control", "Cc"},
    {"format", "Cf"},
    {"privateuse", "Co"},
    {"assigned", "L M N P S Z Cc Cf Co"},
    {"cntrl", "Cc"},
    {"digit", "Nd"},
    {"graph", "L M N P S Cf Co"},
    {"print", "L M N P S Cf Co Zs"},
    {"punct", "P"},
    {"posixpunct", "P S"},
};

CodePointSet alphabetic() {
  return categories("L Nl") | table(kOtherAlphabetic, kOtherAlphabeticCount);
}

// `name` is plain().
std::optional<CodePointSet> property(const std::string& name) {
  for (const Name& known : kLongNames) {
    if (name == known.name) return categories(known.categories);
  }
  for (size_t i = 0; i < kCategoryCount; ++i) {
    const std::string category = kCategoryNames[i];
    if (name == plain(category)) return regex_categories()[i];
    if (name == plain(category.substr(0, 1)) && name != "c")
      return categories(category.substr(0, 1));
  }
  const auto is = [&](const char* a, const char* b) { return name == a || name == b; };
  if (is("cn", "unassigned")) return regex_known_property("assigned").complement();
  if (is("c", "other")) return categories("Cc Cf Co") | regex_known_property("cn");
  if (name == "any") return CodePointSet::all();
  if (name == "ascii") return CodePointSet({{0, 0x7f}});
  if (is("alpha", "alphabetic")) return alphabetic();
  if (name == "alnum") return alphabetic() | categories("Nd");
  if (name == "word") return alphabetic() | categories("M Nd Pc");
  if (name == "blank") return categories("Zs") | CodePointSet({{0x9, 0x9}});
  if (is("space", "whitespace")) {
    return categories("Z") | CodePointSet({{0x9, 0xd}, {0x85, 0x85}});
  }
  if (is("lower", "lowercase")) return categories("Ll") | table(kOtherLower, kOtherLowerCount);
  if (is("upper", "uppercase")) return categories("Lu") | table(kOtherUpper, kOtherUpperCount);
  if (name == "xdigit") return CodePointSet({{'0', '9'}, {'A', 'F'}, {'a', 'f'}});
  for (size_t i = 0; i < kScriptCount; ++i) {
    const Script& script = kScripts[i];
    if (name == script.name) return table(kScriptRanges + script.start, script.count);
  }
  return std::nullopt;
}

const std::unordered_map<uint32_t, const CaseGroup*>& case_groups() {
  static const auto result = [] {
    std::unordered_map<uint32_t, const CaseGroup*> groups;
    for (size_t i = 0; i < kCaseGroupCount; ++i) {
      for (const uint32_t member : kCaseGroups[i].members) {
        if (member != 0) groups[member] = &kCaseGroups[i];
      }
    }
    return groups;
  }();
  return result;
}

}  // namespace

const std::vector<CodePointSet>& regex_categories() {
  static const auto result = [] {
    std::vector<std::vector<CodePointRange>> ranges(kCategoryCount);
    for (size_t i = 0; i < kCategoryRangeCount; ++i) {
      const CategoryRange& range = kCategoryRanges[i];
      ranges[range.category].push_back({range.first, range.first + range.count - 1});
    }
    std::vector<CodePointSet> sets;
    for (auto& list : ranges) sets.emplace_back(std::move(list));
    return sets;
  }();
  return result;
}

std::optional<CodePointSet> regex_property(std::string_view name) { return property(plain(name)); }

CodePointSet regex_known_property(std::string_view name) {
  std::optional<CodePointSet> found = regex_property(name);
  if (!found) throw Error(str_cat("expected a property that is known, got ", name));
  return *std::move(found);
}

bool regex_names_word(std::string_view name) { return plain(name) == "word"; }

std::optional<CodePointSet> regex_posix_bracket(std::string_view name) {
  static constexpr std::string_view kKnown[] = {"alnum", "alpha", "ascii",  "blank", "cntrl",
                                                "digit", "graph", "lower",  "print", "punct",
                                                "space", "upper", "xdigit", "word"};
  if (std::find(std::begin(kKnown), std::end(kKnown), name) == std::end(kKnown)) {
    return std::nullopt;
  }
  return regex_property(name == "punct" ? "posixpunct" : name);
}

const CodePointSet& regex_bare_word() {
  static const CodePointSet result =
      regex_known_property("word") | CodePointSet({{0xb2, 0xb3}, {0xb9, 0xb9}, {0xbc, 0xbe}});
  return result;
}

CodePointSet regex_fold(const CodePointSet& set) {
  std::vector<CodePointRange> more = set.ranges();
  for (size_t i = 0; i < kCaseGroupCount; ++i) {
    const auto& members = kCaseGroups[i].members;
    const bool touched = std::any_of(std::begin(members), std::end(members), [&](uint32_t member) {
      return member != 0 && set.contains(member);
    });
    for (const uint32_t member : members) {
      if (touched && member != 0) more.push_back({member, member});
    }
  }
  return CodePointSet(std::move(more));
}

uint32_t regex_fold_representative(uint32_t code) {
  const auto found = case_groups().find(code);
  return found == case_groups().end() ? code : found->second->members[0];
}

bool regex_has_case_expansion(const std::vector<uint32_t>& codes) {
  for (size_t i = 0; i < kCaseExpansionCount; ++i) {
    const CaseExpansion& expansion = kCaseExpansions[i];
    std::vector<uint32_t> spelling;
    for (const uint32_t c : expansion.spelling) {
      if (c != 0) spelling.push_back(regex_fold_representative(c));
    }
    if (std::search(codes.begin(), codes.end(), spelling.begin(), spelling.end()) != codes.end() ||
        std::find(codes.begin(), codes.end(), regex_fold_representative(expansion.code)) !=
            codes.end()) {
      return true;
    }
  }
  return false;
}

const CodePointSet& regex_expanding() {
  static const CodePointSet result = [] {
    std::vector<CodePointRange> ranges;
    for (size_t i = 0; i < kCaseExpansionCount; ++i) {
      ranges.push_back({kCaseExpansions[i].code, kCaseExpansions[i].code});
    }
    return CodePointSet(std::move(ranges));
  }();
  return result;
}

}  // namespace rillkv::io
