#define PCRE2_CODE_UNIT_WIDTH 8
#include "src/io/regex.h"

#include <pcre2.h>

#include "rillkv/error.h"
#include "rillkv/quotes.h"

namespace rillkv::io {
namespace {

// Unicode's White_Space property, as a character class's content.
constexpr char kWhiteSpace[] =
    R"(\x{9}-\x{d}\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";

// Replaces \s and \S. Inside a class \S cannot be spelt out, and no known tokenizer does so.
std::string with_unicode_spaces(const std::string& pattern, const std::string& where) {
  std::string result;
  bool in_class = false;
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c == '\\' && i + 1 < pattern.size()) {
      const char escaped = pattern[++i];
      if (escaped == 's') {
        result += in_class ? std::string(kWhiteSpace) : str_cat("[", kWhiteSpace, "]");
      } else if (escaped == 'S') {
        RILLKV_CHECK(!in_class, where, ": \\S inside [] is not supported, in regex ",
                     in_quotes(pattern));
        result += str_cat("[^", kWhiteSpace, "]");
      } else {
        // Oniguruma's \h is a hexadecimal digit, PCRE2's a horizontal space.
        RILLKV_CHECK(escaped != 'h' && escaped != 'H', where, ": \\", escaped,
                     " is not supported, in regex ", in_quotes(pattern));
        result += c;
        result += escaped;
      }
      continue;
    }
    RILLKV_CHECK(!(in_class && c == '['), where, ": [ inside [] is not supported, in regex ",
                 in_quotes(pattern));
    if (c == '[') in_class = true;
    if (c == ']') in_class = false;
    result += c;
  }
  return result;
}

std::string message(int code) {
  PCRE2_UCHAR text[256];
  pcre2_get_error_message(code, text, sizeof(text));
  return reinterpret_cast<const char*>(text);
}

}  // namespace

Regex::Regex(const std::string& pattern, const std::string& where) : where_(where) {
  const std::string portable = with_unicode_spaces(pattern, where);
  int code = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* compiled =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(portable.data()), portable.size(),
                    PCRE2_UTF | PCRE2_UCP, &code, &offset, nullptr);
  RILLKV_CHECK(compiled != nullptr, where, ": bad regex ", in_quotes(pattern), ": ", message(code));
  code_ = std::shared_ptr<void>(compiled,
                                [](void* p) { pcre2_code_free(static_cast<pcre2_code*>(p)); });
  // Without JIT support the interpreter does the same, slower.
  pcre2_jit_compile(compiled, PCRE2_JIT_COMPLETE);
}

Regex::Matcher::Matcher(const Regex& regex) : regex_(regex) {
  pcre2_match_data* data =
      pcre2_match_data_create_from_pattern(static_cast<pcre2_code*>(regex.code_.get()), nullptr);
  RILLKV_CHECK(data != nullptr, regex.where_, ": out of memory");
  data_ = std::shared_ptr<void>(
      data, [](void* p) { pcre2_match_data_free(static_cast<pcre2_match_data*>(p)); });
}

std::optional<std::pair<size_t, size_t>> Regex::Matcher::find(std::string_view text, size_t start) {
  auto* data = static_cast<pcre2_match_data*>(data_.get());
  const int count = pcre2_match(static_cast<const pcre2_code*>(regex_.code_.get()),
                                reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), start,
                                PCRE2_NO_UTF_CHECK, data, nullptr);
  if (count == PCRE2_ERROR_NOMATCH) return std::nullopt;
  RILLKV_CHECK(count >= 0, regex_.where_, ": the regex failed: ", message(count));
  const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(data);
  return std::pair<size_t, size_t>(bounds[0], bounds[1]);
}

}  // namespace rillkv::io
