// The methods of strings, lists, tuples and dicts.
#include <algorithm>
#include <map>

#include "src/io/chat_template/characters.h"
#include "src/io/chat_template/format.h"
#include "src/io/chat_template/functions.h"

namespace rillkv::io::jinja {
namespace {

using Method = Value(Evaluator&, const Value&, const Arguments&);

Value string_of(const Value& self, Text text) { return Value(std::move(text), self.is_markup()); }

Value list_of(std::vector<Text> texts) {
  std::vector<Value> values;
  for (Text& text : texts) values.emplace_back(std::move(text));
  return Value::list(std::move(values));
}

template <bool kLeft, bool kRight>
Value strip_method(Evaluator& evaluator, const Value& self, const Arguments& arguments) {
  const Parameters p("strip", arguments, {"chars"}, 0);
  const std::string* characters = p.given(0) != nullptr ? &need_text(*p.given(0)).bytes() : nullptr;
  // Every character may be compared with every one of these.
  const size_t size = self.text().size();
  if (characters != nullptr) evaluator.budget.steps(size * (1 + characters->size() / 16));
  evaluator.budget.text(size);
  return string_of(self, strip(self.text(), characters, kLeft, kRight));
}

template <bool kFromRight>
Value split_method(Evaluator& evaluator, const Value& self, const Arguments& arguments) {
  const Parameters p("split", arguments, {"sep", "maxsplit"}, 0);
  const std::string* separator = p.given(0) != nullptr ? &need_text(*p.given(0)).bytes() : nullptr;
  if (separator != nullptr && separator->empty()) fail("empty separator");
  const int64_t most = p[1] != nullptr ? need_integer(*p[1]) : -1;
  evaluator.budget.text(self.text().size());
  std::vector<Text> parts = split(self.text(), separator, most, kFromRight);
  evaluator.budget.items(parts.size());
  return list_of(std::move(parts));
}

Value splitlines_method(Evaluator& evaluator, const Value& self, const Arguments& arguments) {
  const Parameters p("splitlines", arguments, {"keepends"}, 0);
  evaluator.budget.text(self.text().size());
  std::vector<Text> lines = split_lines(self.text(), p.flag(0));
  evaluator.budget.items(lines.size());
  return list_of(std::move(lines));
}

template <bool kFromRight>
Value partition_method(Evaluator& evaluator, const Value& self, const Arguments& arguments) {
  const Parameters p("partition", arguments, {"sep"}, 1);
  const Text& separator = need_text(*p[0]);
  if (separator.empty()) fail("empty separator");
  const Text& text = self.text();
  evaluator.budget.text(text.size());
  const size_t at =
      kFromRight ? text.bytes().rfind(separator.bytes()) : text.bytes().find(separator.bytes());
  if (at == std::string::npos) {
    return kFromRight ? Value::tuple({Value(Text()), Value(Text()), self})
                      : Value::tuple({self, Value(Text()), Value(Text())});
  }
  const size_t end = at + separator.size();
  return Value::tuple({Value(text.slice(0, at)), Value(text.slice(at, separator.size())),
                       Value(text.slice(end, text.size() - end))});
}

/// The bytes that [start, end) of the arguments leave, in characters; empty if start is past end.
struct Range {
  size_t begin, end;
  bool valid;
};
Range range_of(Evaluator& evaluator, const Text& text, const Value* start, const Value* end) {
  evaluator.budget.text(text.size());
  if (start == nullptr && end == nullptr) return {0, text.size(), true};
  const auto length = static_cast<int64_t>(count_characters(text.bytes()));
  const auto position = [&](const Value* value, int64_t fallback) {
    if (value == nullptr) return fallback;
    const int64_t at = need_integer(*value);
    return at < 0 ? std::max<int64_t>(at + length, 0) : at;
  };
  const int64_t first = position(start, 0);
  const int64_t last = std::min(position(end, length), length);
  if (first > last) return {0, 0, false};
  return {byte_of_character(text.bytes(), static_cast<size_t>(first)),
          byte_of_character(text.bytes(), static_cast<size_t>(last)), true};
}

template <bool kEnd>
Value affix_method(Evaluator& evaluator, const Value& self, const Arguments& arguments) {
  const char* name = kEnd ? "endswith" : "startswith";
  const Parameters p(name, arguments, {"prefix", "start", "end"}, 1);
  need_defined(*p[0]);
  const Range range = range_of(evaluator, self.text(), p.given(1), p.given(2));
  const std::string_view text =
      std::string_view(self.text().bytes()).substr(range.begin, range.end - range.begin);
  const auto matches = [&](const Value& affix) {
    if (!affix.is_string()) {
      fail(name, " first arg must be str or a tuple of str, not ", affix.type_name());
    }
    const std::string& bytes = affix.text().bytes();
    if (!range.valid || bytes.size() > text.size()) return false;
    return text.substr(kEnd ? text.size() - bytes.size() : 0, bytes.size()) == bytes;
  };
  if (!p[0]->is(Kind::kTuple)) return Value(matches(*p[0]));
  for (const Value& affix : p[0]->items()) {
    evaluator.budget.steps(1);
    if (matches(affix)) return Value(true);
  }
  return Value(false);
}

template <bool kFromRight, bool kMustBeThere>
Value find_method_of(Evaluator& evaluator, const Value& self, const Arguments& arguments) {
  const Parameters p("find", arguments, {"sub", "start", "end"}, 1);
  const std::string& part = need_text(*p[0]).bytes();
  const std::string& text = self.text().bytes();
  const Range range = range_of(evaluator, self.text(), p.given(1), p.given(2));
  const std::string_view inside =
      std::string_view(text).substr(range.begin, range.end - range.begin);
  const size_t at = !range.valid ? inside.npos
                    : kFromRight ? inside.rfind(part)
                                 : inside.find(part);
  if (at != inside.npos) {
    return Value(
        static_cast<int64_t>(count_characters(std::string_view(text).substr(0, range.begin + at))));
  }
  if (kMustBeThere) fail("substring not found");
  return Value(int64_t{-1});
}

Value count_method(Evaluator& evaluator, const Value& self, const Arguments& arguments) {
  const Parameters p("count", arguments, {"sub", "start", "end"}, 1);
  const std::string& part = need_text(*p[0]).bytes();
  const Range range = range_of(evaluator, self.text(), p.given(1), p.given(2));
  if (!range.valid) return Value(int64_t{0});
  const std::string_view inside =
      std::string_view(self.text().bytes()).substr(range.begin, range.end - range.begin);
  return Value(static_cast<int64_t>(part.empty() ? count_characters(inside) + 1
                                                 : count_occurrences(inside, part)));
}

Value replace_method(Evaluator& evaluator, const Value& self, const Arguments& arguments) {
  const Parameters p("replace", arguments, {"old", "new", "count"}, 2);
  return string_of(self, checked_replace(evaluator.budget, self.text(), need_text(*p[0]),
                                         need_text(*p[1]), p[2] ? need_integer(*p[2]) : -1));
}

template <Case kTo>
Value case_method(Evaluator& evaluator, const Value& self, const Arguments& arguments) {
  const Parameters p("upper", arguments, {}, 0);
  evaluator.budget.text(self.text().size());
  evaluator.budget.steps(self.text().size());
  return string_of(self, change_case(self.text(), kTo));
}

Value join_method(Evaluator& evaluator, const Value& self, const Arguments& arguments) {
  const Parameters p("join", arguments, {"iterable"}, 1);
  std::vector<Text> parts;
  for (const Value& value : iterate(evaluator.budget, *p[0])) {
    if (!value.is_string()) {
      fail("sequence item ", parts.size(), ": expected str instance, ", value.type_name(),
           " found");
    }
    parts.push_back(value.text());
  }
  return string_of(self, join(evaluator.budget, parts, self.text()));
}

Value format_method(Evaluator& evaluator, const Value& self, const Arguments& arguments) {
  size_t next = 0;
  bool numbered = false, counted = false;  // {0} and {}
  const auto field = [&](const std::string& name) {
    const size_t end = std::min(name.find_first_of(".["), name.size());
    const std::string first = name.substr(0, end);
    Value value;
    if (first.find_first_not_of("0123456789") == first.npos) {
      (first.empty() ? counted : numbered) = true;
      if (counted && numbered) fail("numbered and unnumbered fields in one format string");
      const size_t index = first.empty() ? next++ : first.size() > 9 ? SIZE_MAX : std::stoul(first);
      if (index >= arguments.positional.size()) {
        fail("Replacement index ", index, " out of range for positional args tuple");
      }
      value = arguments.positional[index];
    } else {
      const auto found = std::find_if(arguments.named.begin(), arguments.named.end(),
                                      [&](const auto& named) { return named.first == first; });
      if (found == arguments.named.end()) fail("KeyError: '", first, "'");
      value = found->second;
    }
    for (size_t at = end; at < name.size();) {
      const bool bracket = name[at] == '[';
      const size_t stop =
          bracket ? name.find(']', at) : std::min(name.find_first_of(".[", at + 1), name.size());
      if (stop == name.npos) fail("Missing ']' in format string");
      const std::string key = name.substr(at + 1, stop - at - 1);
      const bool number = bracket && !key.empty() && key.size() < 10 &&
                          key.find_first_not_of("0123456789") == key.npos;
      value = !bracket ? evaluator.attribute(value, key)
                       : evaluator.item(value,
                                        number ? Value(int64_t{std::stol(key)}) : Value::own(key));
      at = bracket ? stop + 1 : stop;
    }
    return value;
  };
  return string_of(self, brace_format(evaluator.budget, self.text(), field));
}

/// True if there are characters and all pass `test`.
template <bool (*kTest)(char32_t)>
Value all_method(Evaluator& evaluator, const Value& self, const Arguments& arguments) {
  const Parameters p("is...", arguments, {}, 0);
  const std::string& text = self.text().bytes();
  evaluator.budget.text(text.size());
  evaluator.budget.steps(text.size());
  bool all = !text.empty();
  for (size_t at = 0; all && at < text.size(); at += character_bytes(text[at])) {
    all = kTest(character_at(text, at));
  }
  return Value(all);
}

bool is_alphanumeric(char32_t c) { return is_alpha(c) || is_decimal(c); }
bool is_ascii(char32_t c) { return c < 0x80; }

/// isupper(), islower(): a cased character, and none of the other case.
template <Case kTo>
Value is_case_method(Evaluator& evaluator, const Value& self, const Arguments& arguments) {
  const Parameters p("isupper", arguments, {}, 0);
  const std::string& text = self.text().bytes();
  evaluator.budget.text(text.size());
  evaluator.budget.steps(text.size());
  bool cased = false;
  for (size_t at = 0; at < text.size(); at += character_bytes(text[at]))
    cased |= is_cased(character_at(text, at));
  return Value(cased && change_case(self.text(), kTo).bytes() == text);
}

template <bool kSuffix>
Value remove_method(Evaluator& evaluator, const Value& self, const Arguments& arguments) {
  const Parameters p("removeprefix", arguments, {"prefix"}, 1);
  const std::string& affix = need_text(*p[0]).bytes();
  const Text& text = self.text();
  evaluator.budget.text(text.size());
  if (affix.size() > text.size()) return self;
  const size_t rest = text.size() - affix.size();
  if (text.bytes().compare(kSuffix ? rest : 0, affix.size(), affix) != 0) return self;
  return string_of(self, text.slice(kSuffix ? 0 : affix.size(), rest));
}

template <char kAlign>
Value justify_method(Evaluator& evaluator, const Value& self, const Arguments& arguments) {
  const Parameters p("ljust", arguments, {"width", "fillchar"}, 1);
  const std::string fill = p[1] != nullptr ? need_text(*p[1]).bytes() : " ";
  if (count_characters(fill) != 1) fail("The fill character must be exactly one character long");
  const int64_t width = need_integer(*p[0]);
  const auto length = static_cast<int64_t>(count_characters(self.text().bytes()));
  if (kAlign != '^' || width <= length) {
    return string_of(self, padded(evaluator.budget, self.text(), width, kAlign, fill));
  }
  // str.center() puts the odd one on the left where the width is odd.
  const int64_t gap = width - length;
  const int64_t left = gap / 2 + (gap & width & 1);
  const Text right = padded(evaluator.budget, self.text(), length + gap - left, '<', fill);
  return string_of(self, padded(evaluator.budget, right, width, '>', fill));
}

Value zfill_method(Evaluator& evaluator, const Value& self, const Arguments& arguments) {
  const Parameters p("zfill", arguments, {"width"}, 1);
  const Text& text = self.text();
  const bool sign = !text.empty() && (text.bytes()[0] == '-' || text.bytes()[0] == '+');
  Text result = text.slice(0, sign);
  result.append(padded(evaluator.budget, text.slice(sign, text.size() - sign),
                       need_integer(*p[0]) - sign, '>', "0"));
  return string_of(self, std::move(result));
}

Value dict_get(Evaluator& evaluator, const Value& self, const Arguments& arguments) {
  const Parameters p("get", arguments, {"key", "default"}, 1);
  if (const Value* found = self.dict().find(evaluator.budget, *p[0])) return *found;
  return p[1] != nullptr ? *p[1] : Value();
}

enum class View { kItems, kKeys, kValues };
template <View kView>
Value dict_view(Evaluator& evaluator, const Value& self, const Arguments& arguments) {
  const Parameters p("items", arguments, {}, 0);
  std::vector<Value> values;
  evaluator.budget.items(self.dict().size());
  for (const auto& [key, value] : self.dict().items()) {
    values.push_back(kView == View::kKeys     ? key
                     : kView == View::kValues ? value
                                              : Value::tuple({key, value}));
  }
  return Value::list(std::move(values));
}

Value copy_method(Evaluator& evaluator, const Value& self, const Arguments& arguments) {
  const Parameters p("copy", arguments, {}, 0);
  evaluator.budget.steps(1);
  return self;  // nothing can change it
}

Value sequence_count(Evaluator& evaluator, const Value& self, const Arguments& arguments) {
  const Parameters p("count", arguments, {"value"}, 1);
  int64_t count = 0;
  for (const Value& item : self.items()) count += equal(evaluator.budget, item, *p[0]);
  return Value(count);
}

Value sequence_index(Evaluator& evaluator, const Value& self, const Arguments& arguments) {
  const Parameters p("index", arguments, {"value"}, 1);
  for (size_t i = 0; i < self.items().size(); ++i) {
    if (equal(evaluator.budget, self.items()[i], *p[0])) return Value(static_cast<int64_t>(i));
  }
  fail("the value is not in the list");
}

Value loop_cycle(Evaluator& evaluator, const Value& self, const Arguments& arguments) {
  evaluator.budget.steps(1);
  if (arguments.positional.empty()) fail("no items for cycling given");
  return arguments.positional[self.loop().index % arguments.positional.size()];
}

const std::map<std::string_view, Method*>& string_methods() {
  static const std::map<std::string_view, Method*> methods = {
      {"capitalize", case_method<Case::kCapitalize>},
      {"casefold", case_method<Case::kLower>},
      {"center", justify_method<'^'>},
      {"count", count_method},
      {"endswith", affix_method<true>},
      {"find", find_method_of<false, false>},
      {"format", format_method},
      {"index", find_method_of<false, true>},
      {"isalnum", all_method<is_alphanumeric>},
      {"isalpha", all_method<is_alpha>},
      {"isascii", all_method<is_ascii>},
      {"isdecimal", all_method<is_decimal>},
      {"isdigit", all_method<is_decimal>},
      {"islower", is_case_method<Case::kLower>},
      {"isnumeric", all_method<is_decimal>},
      {"isspace", all_method<is_space>},
      {"isupper", is_case_method<Case::kUpper>},
      {"join", join_method},
      {"ljust", justify_method<'<'>},
      {"lower", case_method<Case::kLower>},
      {"lstrip", strip_method<true, false>},
      {"partition", partition_method<false>},
      {"removeprefix", remove_method<false>},
      {"removesuffix", remove_method<true>},
      {"replace", replace_method},
      {"rfind", find_method_of<true, false>},
      {"rindex", find_method_of<true, true>},
      {"rjust", justify_method<'>'>},
      {"rpartition", partition_method<true>},
      {"rsplit", split_method<true>},
      {"rstrip", strip_method<false, true>},
      {"split", split_method<false>},
      {"splitlines", splitlines_method},
      {"startswith", affix_method<false>},
      {"strip", strip_method<true, true>},
      {"title", case_method<Case::kTitle>},
      {"upper", case_method<Case::kUpper>},
      {"zfill", zfill_method},
  };
  return methods;
}

const std::map<std::string_view, Method*>& sequence_methods() {
  static const std::map<std::string_view, Method*> methods = {
      {"copy", copy_method}, {"count", sequence_count}, {"index", sequence_index}};
  return methods;
}

const std::map<std::string_view, Method*>& dict_methods() {
  static const std::map<std::string_view, Method*> methods = {{"copy", copy_method},
                                                              {"get", dict_get},
                                                              {"items", dict_view<View::kItems>},
                                                              {"keys", dict_view<View::kKeys>},
                                                              {"values", dict_view<View::kValues>}};
  return methods;
}

bool is_one_of(const std::string& name, std::initializer_list<std::string_view> names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

}  // namespace

Callable::Native find_method(Kind kind, const std::string& name, bool& blocked) {
  const std::map<std::string_view, Method*>* methods = nullptr;
  switch (kind) {
    case Kind::kString:
      methods = &string_methods();
      break;
    case Kind::kList:
    case Kind::kTuple:
      methods = &sequence_methods();
      blocked = kind == Kind::kList && is_one_of(name, {"append", "clear", "pop", "reverse",
                                                        "insert", "sort", "extend", "remove"});
      if (kind == Kind::kTuple && name == "copy") return nullptr;
      break;
    case Kind::kDict:
      methods = &dict_methods();
      blocked = is_one_of(name, {"clear", "pop", "popitem", "setdefault", "update", "fromkeys"});
      break;
    case Kind::kLoop:
      return name == "cycle" ? loop_cycle : nullptr;
    default:
      return nullptr;
  }
  const auto found = methods->find(name);
  return found == methods->end() ? nullptr : found->second;
}

}  // namespace rillkv::io::jinja
