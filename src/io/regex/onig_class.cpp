#include "src/io/regex/onig_class.h"

#include <string>
#include <utility>

#include "src/io/regex/regex_classes.h"

namespace rillkv::io {
namespace {

// One member: a character, or a set of them.
struct Member {
  char32_t character = 0;
  std::optional<CodePointSet> set;
};

CodePointSet with_sign(const CodePointSet& set, bool negated) {
  return negated ? set.complement() : set;
}

Member read_escape(OnigScanner& scan) {
  const char32_t c = scan.next_or_fail("a \\ at the end");
  switch (c) {
    case 'w':
    case 'W':
      return {0, with_sign(regex_known_property("word"), c == 'W')};
    case 'd':
    case 'D':
      return {0, with_sign(regex_known_property("digit"), c == 'D')};
    case 's':
    case 'S':
      return {0, with_sign(regex_known_property("space"), c == 'S')};
    case 'h':
    case 'H':
      return {0, with_sign(regex_known_property("xdigit"), c == 'H')};
    case 'p':
    case 'P': {
      bool is_word = false;
      const auto property = onig_property(scan, &is_word);
      if (!property) return {c, std::nullopt};
      return {0, with_sign(property->set, property->negated != (c == 'P'))};
    }
    case 'b':
      return {'\b', std::nullopt};
    case 'R':
    case 'X':
      scan.fail({'\\', static_cast<char>(c)});
    default:
      return {onig_escaped_character(scan, c), std::nullopt};
  }
}

// "[:name:]" or "[:^name:]"; nothing is read if it is not of that form.
std::optional<CodePointSet> read_bracket(OnigScanner& scan) {
  if (!scan.starts("[:")) return std::nullopt;
  const std::string_view rest = scan.rest().substr(2);
  const size_t length = rest.find(":]");
  if (length == rest.npos) return std::nullopt;
  std::string_view name = rest.substr(0, length);
  const bool negated = name.substr(0, 1) == "^";
  if (negated) name.remove_prefix(1);
  if (name.find_first_not_of("abcdefghijklmnopqrstuvwxyz") != name.npos) return std::nullopt;
  const auto set = regex_posix_bracket(name);
  if (!set) scan.fail("[:" + std::string(name) + ":]");
  scan.skip_bytes(2 + length + 2);
  return with_sign(*set, negated);
}

}  // namespace

std::optional<OnigClass> onig_property(OnigScanner& scan, bool* is_word) {
  if (!scan.skip("{")) return std::nullopt;
  OnigClass result;
  result.negated = scan.skip("^");
  const std::string_view rest = scan.rest();
  const size_t length = rest.find('}');
  if (length == rest.npos) scan.fail_syntax("a \\p{ without its }");
  const std::string name(rest.substr(0, length));
  const auto set = regex_property(name);
  if (!set) scan.fail("\\p{" + name + "}");
  scan.skip_bytes(length + 1);
  result.set = *set;
  *is_word = regex_names_word(name);
  return result;
}

OnigClass parse_onig_class(OnigScanner& scan, int depth) {
  constexpr int kDeepest = 100;
  constexpr const char* kUnended = "a [ without its ]";
  if (depth > kDeepest) scan.fail("a class within more than 100 others");
  OnigClass result;
  result.negated = scan.skip("^");
  std::optional<CodePointSet> left;  // of the last &&
  CodePointSet current;
  const auto add = [&](const CodePointSet& set) { current = current | set; };
  for (bool first = true;; first = false) {
    if (scan.done()) scan.fail_syntax(kUnended);
    if (!first && scan.skip("]")) break;
    if (scan.skip("&&")) {
      left = left ? *left & current : current;
      current = CodePointSet();
      continue;
    }
    Member low;
    if (auto bracket = read_bracket(scan)) {
      low.set = std::move(bracket);
    } else if (scan.skip("[")) {
      const OnigClass inner = parse_onig_class(scan, depth + 1);
      low.set = with_sign(inner.set, inner.negated);
    } else if (scan.skip("\\")) {
      low = read_escape(scan);
    } else {
      low.character = scan.next();
    }
    const bool range = scan.starts("-") && !scan.starts("-]") && !scan.starts("-&&");
    if (low.set) {
      if (range) scan.fail("a range that begins with a class, inside []");
      add(*low.set);
      continue;
    }
    char32_t last = low.character;
    if (range) {
      scan.skip("-");
      if (scan.done()) scan.fail_syntax(kUnended);
      if (scan.starts("[")) scan.fail("a range that ends with a class, inside []");
      Member high;
      if (scan.skip("\\")) {
        high = read_escape(scan);
      } else {
        high.character = scan.next();
      }
      if (high.set) scan.fail("a range that ends with a class, inside []");
      last = high.character;
      if (last < low.character) scan.fail_syntax("a range that ends before it begins");
      // Read as text, not as the beginning of another range.
      if (scan.starts("-") && !scan.starts("-]") && !scan.starts("-&&")) {
        scan.skip("-");
        add(CodePointSet({{'-', '-'}}));
      }
    }
    add(CodePointSet({{low.character, last}}) & CodePointSet::all());
  }
  result.set = left ? *left & current : current;
  return result;
}

}  // namespace rillkv::io
