// The filters that work on lists.
#include <algorithm>
#include <functional>
#include <map>

#include "src/io/chat_template/format.h"
#include "src/io/chat_template/functions.h"

namespace rillkv::io::jinja {
namespace {

using Filter = Value(Evaluator&, const Value&, const Arguments&);
using Getter = std::function<Value(const Value&)>;

/// value.a.b for "a.b"; parts that are numbers are indices. `fallback` stands in for what is
/// missing on the way, unless it is null.
Getter attribute_getter(Evaluator& evaluator, const Value& path, const Value* fallback = nullptr) {
  std::vector<Value> keys;
  if (path.is_string()) {
    const std::string separator = ".";
    for (const Text& part : split(path.text(), &separator, -1, false)) {
      const std::string& name = part.bytes();
      const bool number =
          !name.empty() && name.size() < 10 && name.find_first_not_of("0123456789") == name.npos;
      keys.push_back(number ? Value(int64_t{std::stol(name)}) : Value(part));
    }
  } else {
    keys.push_back(path);
  }
  return [&evaluator, keys, fallback](const Value& value) {
    Value result = value;
    for (const Value& key : keys) {
      result = evaluator.item(result, key);
      if (fallback != nullptr && result.is(Kind::kUndefined)) result = *fallback;
    }
    return result;
  };
}

/// What sort() and unique() compare: an attribute, without its case unless that counts.
Getter key_getter(Evaluator& evaluator, const Value* attribute, bool case_sensitive) {
  const Getter get = attribute != nullptr ? attribute_getter(evaluator, *attribute)
                                          : Getter([](const Value& value) { return value; });
  return [&evaluator, get, case_sensitive](const Value& value) {
    Value key = get(value);
    if (case_sensitive || !key.is_string()) return key;
    evaluator.budget.text(key.text().size());
    evaluator.budget.steps(key.text().size());
    return Value(change_case(key.text(), Case::kLower));
  };
}

using Keyed = std::pair<Value, Value>;

void sort_keyed(Budget& budget, std::vector<Keyed>& items, bool reverse) {
  // Python keeps the order of equals in both directions.
  std::stable_sort(items.begin(), items.end(), [&](const Keyed& a, const Keyed& b) {
    return reverse ? less(budget, b.first, a.first) : less(budget, a.first, b.first);
  });
}

std::vector<Value> values_of(std::vector<Keyed> items) {
  std::vector<Value> values;
  values.reserve(items.size());
  for (Keyed& item : items) values.push_back(std::move(item.second));
  return values;
}

Value sort_filter(Evaluator& evaluator, const Value& value, const Arguments& arguments) {
  const Parameters p("sort", arguments, {"reverse", "case_sensitive", "attribute"}, 0);
  std::vector<std::string> names;
  std::vector<Getter> getters;
  if (const Value* attribute = p.given(2); attribute != nullptr && attribute->is_string()) {
    const std::string comma = ",";
    for (const Text& part : split(attribute->text(), &comma, -1, false)) {
      const Value path(part);
      getters.push_back(key_getter(evaluator, &path, p.flag(1)));
    }
  } else {
    getters.push_back(key_getter(evaluator, attribute, p.flag(1)));
  }
  std::vector<Keyed> items;
  for (const Value& item : iterate(evaluator.budget, value)) {
    std::vector<Value> key;
    for (const Getter& getter : getters) key.push_back(getter(item));
    items.emplace_back(key.size() == 1 ? key[0] : Value::list(std::move(key)), item);
  }
  sort_keyed(evaluator.budget, items, p.flag(0));
  return Value::list(values_of(std::move(items)));
}

Value dictsort_filter(Evaluator& evaluator, const Value& value, const Arguments& arguments) {
  const Parameters p("dictsort", arguments, {"case_sensitive", "by", "reverse"}, 0);
  need_defined(value);
  if (!value.is(Kind::kDict)) fail("expected a mapping to sort, found ", value.type_name());
  const std::string by = p[1] != nullptr ? need_text(*p[1]).bytes() : "key";
  if (by != "key" && by != "value") fail("You can only sort by either \"key\" or \"value\"");
  const Getter key = key_getter(evaluator, nullptr, p.flag(0));
  std::vector<Keyed> items;
  for (const auto& [name, item] : value.dict().items()) {
    items.emplace_back(key(by == "key" ? name : item), Value::tuple({name, item}));
  }
  sort_keyed(evaluator.budget, items, p.flag(2));
  return Value::list(values_of(std::move(items)));
}

Value items_filter(Evaluator& evaluator, const Value& value, const Arguments& arguments) {
  const Parameters p("items", arguments, {}, 0);
  if (value.is(Kind::kUndefined)) return Value::generator({});
  if (!value.is(Kind::kDict)) fail("Can only get item pairs from a mapping.");
  std::vector<Value> pairs;
  evaluator.budget.steps(value.dict().size());
  for (const auto& [key, item] : value.dict().items()) pairs.push_back(Value::tuple({key, item}));
  return Value::generator(std::move(pairs));
}

Value join_filter(Evaluator& evaluator, const Value& value, const Arguments& arguments) {
  const Parameters p("join", arguments, {"d", "attribute"}, 0);
  const Getter get = p.given(1) != nullptr ? attribute_getter(evaluator, *p[1]) : Getter();
  std::vector<Text> parts;
  for (const Value& item : iterate(evaluator.budget, value)) {
    parts.push_back(to_text(evaluator.budget, get ? get(item) : item));
  }
  const Text separator = p[0] != nullptr ? to_text(evaluator.budget, *p[0]) : Text();
  return Value(join(evaluator.budget, parts, separator));
}

template <bool kLast>
Value end_filter(Evaluator& evaluator, const Value& value, const Arguments& arguments) {
  const Parameters p("first", arguments, {}, 0);
  const std::vector<Value> items = iterate(evaluator.budget, value);
  if (!items.empty()) return kLast ? items.back() : items.front();
  return Value::undefined(kLast ? "No last item, sequence was empty."
                                : "No first item, sequence was empty.");
}

Value reverse_filter(Evaluator& evaluator, const Value& value, const Arguments& arguments) {
  const Parameters p("reverse", arguments, {}, 0);
  std::vector<Value> items = iterate(evaluator.budget, value);
  std::reverse(items.begin(), items.end());
  if (!value.is_string()) return Value::generator(std::move(items));
  Text text;
  for (const Value& item : items) text.append(item.text());
  return Value(std::move(text));
}

Value unique_filter(Evaluator& evaluator, const Value& value, const Arguments& arguments) {
  const Parameters p("unique", arguments, {"case_sensitive", "attribute"}, 0);
  const Getter key = key_getter(evaluator, p.given(1), p.flag(0));
  Dict seen;
  std::vector<Value> items;
  for (const Value& item : iterate(evaluator.budget, value)) {
    const size_t before = seen.size();
    seen.set(evaluator.budget, key(item), Value());
    if (seen.size() > before) items.push_back(item);
  }
  return Value::generator(std::move(items));
}

template <bool kMax>
Value extreme_filter(Evaluator& evaluator, const Value& value, const Arguments& arguments) {
  const Parameters p("max", arguments, {"case_sensitive", "attribute"}, 0);
  const Getter key = key_getter(evaluator, p.given(1), p.flag(0));
  const std::vector<Value> items = iterate(evaluator.budget, value);
  if (items.empty()) return Value::undefined("No aggregated item, sequence was empty.");
  size_t best = 0;
  for (size_t i = 1; i < items.size(); ++i) {
    const Value a = key(items[kMax ? best : i]), b = key(items[kMax ? i : best]);
    if (less(evaluator.budget, a, b)) best = i;
  }
  return items[best];
}

Value sum_filter(Evaluator& evaluator, const Value& value, const Arguments& arguments) {
  const Parameters p("sum", arguments, {"attribute", "start"}, 0);
  const Getter get = p.given(0) != nullptr ? attribute_getter(evaluator, *p[0]) : Getter();
  Value sum = p[1] != nullptr ? *p[1] : Value(int64_t{0});
  if (sum.is_string()) fail("sum() can't sum strings [use ''.join(seq) instead]");
  for (const Value& item : iterate(evaluator.budget, value)) {
    sum = evaluator.add(sum, get ? get(item) : item);
  }
  return sum;
}

Value map_filter(Evaluator& evaluator, const Value& value, const Arguments& arguments) {
  std::vector<Value> results;
  if (!is_true(value)) return Value::generator({});  // None too
  if (arguments.positional.empty()) {
    const Parameters p("map", arguments, {"attribute", "default"}, 1);
    const Getter get = attribute_getter(evaluator, *p[0], p.given(1));
    for (const Value& item : iterate(evaluator.budget, value)) results.push_back(get(item));
    return Value::generator(std::move(results));
  }
  const Nesting nesting(evaluator.depth(), kMaxCallDepth);  // map('map', 'map', ...)
  const std::string name = need_text(arguments.positional[0]).bytes();
  const Arguments rest{{arguments.positional.begin() + 1, arguments.positional.end()},
                       arguments.named};
  for (const Value& item : iterate(evaluator.budget, value)) {
    evaluator.budget.steps(1 + rest.positional.size());
    results.push_back(apply_filter(evaluator, name, item, rest));
  }
  return Value::generator(std::move(results));
}

/// select, reject, selectattr and rejectattr: keeps what the test says, or what is true without.
template <bool kKeep, bool kAttribute>
Value select_filter(Evaluator& evaluator, const Value& value, const Arguments& arguments) {
  const auto& given = arguments.positional;
  Getter get = [](const Value& item) { return item; };
  if (kAttribute) {
    if (given.empty()) fail("Missing parameter for attribute name");
    get = attribute_getter(evaluator, given[0]);
  }
  const size_t at = kAttribute;  // of the test's name
  std::string test;
  Arguments rest;
  if (given.size() > at) {
    test = need_text(given[at]).bytes();
    rest = {{given.begin() + static_cast<int64_t>(at) + 1, given.end()}, arguments.named};
  }
  std::vector<Value> kept;
  if (!is_true(value)) return Value::generator({});  // None too
  for (const Value& item : iterate(evaluator.budget, value)) {
    const Value tested = get(item);
    const bool holds = test.empty() ? is_true(tested) : apply_test(evaluator, test, tested, rest);
    if (holds == kKeep) kept.push_back(item);
  }
  return Value::generator(std::move(kept));
}

Value batch_filter(Evaluator& evaluator, const Value& value, const Arguments& arguments) {
  const Parameters p("batch", arguments, {"linecount", "fill_with"}, 1);
  const int64_t count = need_integer(*p[0]);
  if (count < 1) fail("expected a batch of at least 1, found ", count);
  std::vector<Value> batches, batch;
  for (const Value& item : iterate(evaluator.budget, value)) {
    if (static_cast<int64_t>(batch.size()) == count) {
      batches.push_back(Value::list(std::exchange(batch, {})));
    }
    batch.push_back(item);
  }
  if (!batch.empty()) {
    while (p.given(1) != nullptr && static_cast<int64_t>(batch.size()) < count) {
      evaluator.budget.steps(1);
      batch.push_back(*p[1]);
    }
    batches.push_back(Value::list(std::move(batch)));
  }
  return Value::generator(std::move(batches));
}

const std::map<std::string_view, Filter*>& sequence_filters() {
  static const std::map<std::string_view, Filter*> all = {
      {"batch", batch_filter},
      {"dictsort", dictsort_filter},
      {"first", end_filter<false>},
      {"items", items_filter},
      {"join", join_filter},
      {"last", end_filter<true>},
      {"map", map_filter},
      {"max", extreme_filter<true>},
      {"min", extreme_filter<false>},
      {"reject", select_filter<false, false>},
      {"rejectattr", select_filter<false, true>},
      {"reverse", reverse_filter},
      {"select", select_filter<true, false>},
      {"selectattr", select_filter<true, true>},
      {"sort", sort_filter},
      {"sum", sum_filter},
      {"unique", unique_filter},
  };
  return all;
}

}  // namespace

Value apply_sequence_filter(Evaluator& evaluator, const std::string& name, const Value& value,
                            const Arguments& arguments) {
  const auto found = sequence_filters().find(name);
  if (found == sequence_filters().end()) {
    fail("the filter '", name, "' is unknown or not supported");
  }
  return found->second(evaluator, value, arguments);
}

}  // namespace rillkv::io::jinja
