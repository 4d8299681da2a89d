#include "src/io/regex/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <mutex>

#include "rillkv/error.h"
#include "rillkv/quotes.h"
#include "src/io/regex/onig_syntax.h"
#include "src/io/regex/pcre_unicode.h"

namespace rillkv::io {
namespace {

std::string message(int code) {
  PCRE2_UCHAR text[256];
  pcre2_get_error_message(code, text, sizeof(text));
  return reinterpret_cast<const char*>(text);
}

std::string translate(const std::string& pattern, const std::string& where,
                      PcreUnicode::Mode mode) {
  return translate_onig(pattern, where, [&](const CodePointSet& set, bool negated) {
    return PcreUnicode::get().write(set, negated, mode);
  });
}

std::shared_ptr<void> compile(const std::string& portable, const std::string& pattern,
                              const std::string& where) {
  const std::unique_ptr<pcre2_compile_context, decltype(&pcre2_compile_context_free)> context(
      pcre2_compile_context_create(nullptr), pcre2_compile_context_free);
  RILLKV_CHECK(context != nullptr, where, ": out of memory");
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int code = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* compiled = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(portable.data()),
                                       portable.size(), PCRE2_UTF, &code, &offset, context.get());
  RILLKV_CHECK(compiled != nullptr, where, ": bad regex ", in_quotes(pattern), ": ", message(code));
  std::shared_ptr<void> result(compiled,
                               [](void* p) { pcre2_code_free(static_cast<pcre2_code*>(p)); });
  // Without JIT support the interpreter does the same, slower.
  pcre2_jit_compile(compiled, PCRE2_JIT_COMPLETE);
  return result;
}

}  // namespace

struct Regex::Exact {
  std::string pattern;
  std::once_flag made;
  std::shared_ptr<void> code;
};

Regex::Regex(const std::string& pattern, const std::string& where) : where_(where) {
  code_ = compile(translate(pattern, where, PcreUnicode::Mode::kFast), pattern, where);
  exact_ = std::make_shared<Exact>();
  exact_->pattern = pattern;
}

Regex::Matcher::Matcher(const Regex& regex) : regex_(regex) {
  // Neither program captures anything.
  pcre2_match_data* data = pcre2_match_data_create(1, nullptr);
  RILLKV_CHECK(data != nullptr, regex.where_, ": out of memory");
  data_ = std::shared_ptr<void>(
      data, [](void* p) { pcre2_match_data_free(static_cast<pcre2_match_data*>(p)); });
}

std::optional<std::pair<size_t, size_t>> Regex::Matcher::find(std::string_view text, size_t start) {
  if (start == 0 || text.data() != text_.data() || text.size() != text_.size()) {
    text_ = text;
    code_ = regex_.code_.get();
    if (PcreUnicode::get().differs(text)) {
      Exact& exact = *regex_.exact_;
      std::call_once(exact.made, [&] {
        exact.code = compile(translate(exact.pattern, regex_.where_, PcreUnicode::Mode::kExact),
                             exact.pattern, regex_.where_);
      });
      code_ = exact.code.get();
    }
  }
  auto* data = static_cast<pcre2_match_data*>(data_.get());
  const auto match = [&](uint32_t options) {
    return pcre2_match(static_cast<const pcre2_code*>(code_),
                       reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), start,
                       PCRE2_NO_UTF_CHECK | options, data, nullptr);
  };
  int count = match(0);
  // The interpreter keeps its state on the heap.
  if (count == PCRE2_ERROR_JIT_STACKLIMIT) count = match(PCRE2_NO_JIT);
  if (count == PCRE2_ERROR_NOMATCH) return std::nullopt;
  RILLKV_CHECK(count >= 0, regex_.where_, ": the regex failed: ", message(count));
  const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(data);
  return std::pair<size_t, size_t>(bounds[0], bounds[1]);
}

}  // namespace rillkv::io
