#include "src/io/regex/onig_syntax.h"

#include <cstdlib>
#include <optional>
#include <string_view>
#include <vector>

#include "rillkv/error.h"
#include "src/io/regex/onig_class.h"
#include "src/io/regex/onig_scanner.h"
#include "src/io/regex/regex_classes.h"

namespace rillkv::io {
namespace {

bool is_ascii_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

struct Options {
  bool ignore_case = false;
  bool dot_is_all = false;  // (?m)
  bool extended = false;    // (?x): spaces and comments in the pattern do not count
};

struct Repeat {
  std::string text;           // as PCRE2 writes it
  bool optional_too = false;  // `{n}?`: n times or not at all
};

class Translator {
 public:
  Translator(const std::string& pattern, const std::string& where, const SetWriter& write_set)
      : scan_(pattern, where), write_set_(write_set) {}

  std::string run() {
    std::string result = alternatives({}, 0);
    if (!scan_.done()) scan_.fail_syntax("a ) without its (");
    return result;
  }

 private:
  // Up to the end of the group or pattern.
  std::string alternatives(const Options& options, int depth) {
    constexpr int kDeepest = 100;
    if (depth > kDeepest) scan_.fail("a group within more than 100 others");
    std::string result;
    while (!scan_.done() && scan_.peek() != ')') {
      if (scan_.skip("|")) {
        result += '|';
        run_.clear();
        continue;
      }
      if (options.extended && skip_comment()) continue;
      if (const auto changed = read_options(options)) {
        // Without a colon they hold to the end of the group, across `|`.
        if (scan_.skip(")")) return result + "(?:" + alternatives(*changed, depth + 1) + ")";
        scan_.skip(":");
        result += repeated("(?:" + group_rest(*changed, depth) + ")", true);
        continue;
      }
      result += item(options, depth);
    }
    return result;
  }

  bool skip_comment() {
    if (scan_.skip("#")) {
      while (!scan_.done() && scan_.next() != '\n') {
      }
      return true;
    }
    const char32_t c = scan_.peek();
    if (c != ' ' && (c < '\t' || c > '\r')) return false;
    scan_.next();
    return true;
  }

  std::string group_rest(const Options& options, int depth) {
    std::string inner = alternatives(options, depth + 1);
    if (!scan_.skip(")")) scan_.fail_syntax("a ( without its )");
    return inner;
  }

  // "(?" and letters that set options, up to ")" or ":"; nothing is read if something else comes.
  std::optional<Options> read_options(const Options& options) {
    if (!scan_.starts("(?")) return std::nullopt;
    const std::string_view rest = scan_.rest().substr(2);
    const size_t length = rest.find_first_of(":)");
    if (length == rest.npos || length == 0) return std::nullopt;
    Options changed = options;
    bool on = true;
    for (const char c : rest.substr(0, length)) {
      if (c == '-') {
        on = false;
      } else if (c == 'i') {
        changed.ignore_case = on;
      } else if (c == 'm') {
        changed.dot_is_all = on;
      } else if (c == 'x') {
        changed.extended = on;
      } else if (is_ascii_letter(c)) {
        scan_.fail(str_cat("(?", rest.substr(0, length), ")"));
      } else {
        return std::nullopt;
      }
    }
    scan_.skip_bytes(2 + length);
    return changed;
  }

  std::string item(const Options& options, int depth) {
    if (scan_.skip("(?#")) {
      while (scan_.next_or_fail("a comment without its end") != ')') {
      }
      return "";
    }
    if (scan_.peek() == '(') return group(options, depth);
    if (scan_.peek() == '[') {
      scan_.next();
      run_.clear();
      const OnigClass parsed = parse_onig_class(scan_);
      return repeated(class_text(parsed, options.ignore_case), true);
    }
    if (scan_.skip(".")) {
      run_.clear();
      return repeated(options.dot_is_all ? "(?s:.)" : ".", true);
    }
    if (scan_.skip("^")) return anchor("(?m:^)");
    if (scan_.skip("$")) return anchor("(?m:$)");
    if (scan_.peek() == '\\') return escape(options);
    const char32_t c = scan_.peek();
    if (c == '*' || c == '+' || c == '?') scan_.fail_syntax("nothing to repeat");
    if (c == '{' && interval()) scan_.fail_syntax("nothing to repeat");
    return literal(scan_.next(), options);
  }

  std::string group(const Options& options, int depth) {
    struct Kind {
      std::string_view begin;
      const char* written;
      bool repeats;
    };
    static constexpr Kind kKinds[] = {{"(?:", "(?:", true},    {"(?=", "(?=", false},
                                      {"(?!", "(?!", false},   {"(?>", "(?>", true},
                                      {"(?<=", "(?<=", false}, {"(?<!", "(?<!", false}};
    for (const Kind& kind : kKinds) {
      if (!scan_.skip(kind.begin)) continue;
      return repeated(kind.written + group_rest(options, depth) + ")", kind.repeats);
    }
    if (scan_.skip("(?<") || scan_.skip("(?'")) {
      char32_t c = scan_.next_or_fail("a group without a name");
      while (c != '>' && c != '\'') c = scan_.next_or_fail("a group's name without its end");
    } else if (scan_.starts("(?") || scan_.starts("(*")) {
      scan_.fail(std::string(scan_.rest().substr(0, 3)));
    } else {
      scan_.next();
    }
    return repeated("(?:" + group_rest(options, depth) + ")", true);
  }

  std::string anchor(const std::string& text) {
    run_.clear();
    return repeated(text, false);
  }

  std::string set(const CodePointSet& set, bool negated) {
    run_.clear();
    return repeated(write_set_(negated ? set.complement() : set, negated), true);
  }

  std::string escape(const Options& options) {
    scan_.next();
    const char32_t c = scan_.next_or_fail("a \\ at the end");
    const bool upper = c >= 'A' && c <= 'Z';
    switch (c) {
      case 'w':
      case 'W':
        return set(regex_bare_word(), upper);
      case 'd':
      case 'D':
        return set(regex_known_property("digit"), upper);
      case 's':
      case 'S':
        return set(regex_known_property("space"), upper);
      case 'h':
      case 'H':
        return set(regex_known_property("xdigit"), upper);
      case 'N':
        return set(CodePointSet({{'\n', '\n'}}), true);
      case 'O':
        return repeated("(?s:.)", true);
      case 'R':
        run_.clear();
        return repeated("(?>\\r\\n|[\\n-\\r\\x{85}\\x{2028}\\x{2029}])", true);
      case 'p':
      case 'P': {
        bool word = false;
        const auto property = onig_property(scan_, &word);
        if (!property) break;  // without braces: a letter
        const bool negated = property->negated != (c == 'P');
        return set(word ? regex_bare_word() : property->set, negated);
      }
      case 'b':
      case 'B': {
        const std::string word = write_set_(regex_bare_word(), false);
        const char* same = c == 'b' ? "!" : "=";
        const char* other = c == 'b' ? "=" : "!";
        return anchor(
            str_cat("(?:(?<=", word, ")(?", same, word, ")|(?<!", word, ")(?", other, word, "))"));
      }
      case 'A':
      case 'Z':
      case 'z':
      case 'G':
        return anchor({'\\', static_cast<char>(c)});
      case 'K':
      case 'X':
      case 'y':
      case 'Y':
      case 'k':
      case 'g':
        scan_.fail({'\\', static_cast<char>(c)});
      default:
        if (c >= '1' && c <= '9') scan_.fail(str_cat("the back reference \\", char(c)));
    }
    return literal(onig_escaped_character(scan_, c), options);
  }

  std::string literal(char32_t c, const Options& options) {
    const size_t before = run_.size();
    if (options.ignore_case) {
      run_.push_back(regex_fold_representative(c));
    } else {
      run_.clear();
    }
    const CodePointSet one({{c, c}});
    const CodePointSet folded = options.ignore_case ? regex_fold(one) : one;
    std::string text = folded.ranges().size() == 1 && folded.contains(one) &&
                               folded.ranges()[0].first == folded.ranges()[0].last
                           ? onig_literal(c)
                           : write_set_(folded, false);
    if (options.ignore_case) {
      // A repeat takes the character out of its neighbours' word.
      std::vector<uint32_t> word = run_;
      if (is_repeat()) {
        word.erase(word.begin(), word.begin() + static_cast<ptrdiff_t>(before));
        run_.clear();
      }
      if (regex_has_case_expansion(word)) {
        scan_.fail("ignoring case in letters that equal another character, as \"ss\" does");
      }
    }
    return repeated(std::move(text), true);
  }

  std::string class_text(const OnigClass& parsed, bool ignore_case) {
    CodePointSet set = parsed.set;
    if (ignore_case) {
      if (!parsed.negated && !(set & regex_expanding()).empty()) {
        scan_.fail("ignoring case in a class with a character that equals several others");
      }
      set = regex_fold(set);
    }
    return write_set_(parsed.negated ? set.complement() : set, parsed.negated);
  }

  bool is_repeat() {
    if (scan_.done()) return false;
    const char32_t c = scan_.peek();
    if (c == '*' || c == '+' || c == '?') return true;
    const size_t position = scan_.position();
    const bool result = c == '{' && interval().has_value();
    scan_.rewind(position);
    return result;
  }

  // "{n}", "{n,}", "{,n}" and "{n,m}"; anything else in braces is text, and nothing is read.
  std::optional<Repeat> interval() {
    const size_t position = scan_.position();
    scan_.next();
    const std::string low = scan_.digits();
    const bool comma = scan_.skip(",");
    const std::string high = comma ? scan_.digits() : low;
    if (!scan_.skip("}") || (low.empty() && high.empty())) {
      scan_.rewind(position);
      return std::nullopt;
    }
    const auto value = [](const std::string& digits) {
      return digits.size() > 6 ? 1000000L : std::strtol(digits.c_str(), nullptr, 10);
    };
    constexpr int kMost = 65535;  // PCRE2's bound
    if (value(low) > kMost || value(high) > kMost) scan_.fail("a repeat of more than 65535");
    if (!high.empty() && value(low) > value(high)) scan_.fail("{n,m} with n > m");
    Repeat repeat;
    repeat.text = str_cat("{", value(low));
    if (comma) repeat.text += high.empty() ? "," : str_cat(",", value(high));
    repeat.text += "}";
    if (scan_.skip("?")) {
      repeat.optional_too = !comma;
      if (comma) repeat.text += "?";
    }
    return repeat;
  }

  // `atom` with what repeats it. A second repeat applies to the first's result.
  std::string repeated(std::string atom, bool repeats) {
    for (bool again = false; !scan_.done(); again = true) {
      Repeat repeat;
      const char32_t c = scan_.peek();
      if (c == '*' || c == '+' || c == '?') {
        repeat.text = static_cast<char>(scan_.next());
        if (scan_.skip("?")) {
          repeat.text += "?";
        } else if (scan_.skip("+")) {
          repeat.text += "+";
        }
      } else if (const auto found = c == '{' ? interval() : std::nullopt) {
        repeat = *found;
      } else {
        break;
      }
      if (!repeats) scan_.fail_syntax("an anchor or a look-around cannot be repeated");
      if (again) atom = str_cat("(?:", atom, ")");
      atom += repeat.text;
      if (repeat.optional_too) atom = str_cat("(?:", atom, ")?");
    }
    return atom;
  }

  OnigScanner scan_;
  const SetWriter& write_set_;
  std::vector<uint32_t> run_;  // the literal characters just before, where case does not count
};

}  // namespace

std::string translate_onig(const std::string& pattern, const std::string& where,
                           const SetWriter& write_set) {
  return Translator(pattern, where, write_set).run();
}

}  // namespace rillkv::io
