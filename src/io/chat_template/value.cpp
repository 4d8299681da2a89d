#include "src/io/chat_template/value.h"

#include <algorithm>
#include <charconv>
#include <cmath>

namespace rillkv::io::jinja {
namespace {

struct StringObject : Object {
  Text text;
};
struct UndefinedObject : Object {
  std::string error;
};
struct ListObject : Object {
  std::vector<Value> items;
};
struct DictObject : Object {
  Dict dict;
};

int deeper(int depth) {
  if (depth >= kMaxValueDepth) fail("values nested deeper than ", kMaxValueDepth, " levels");
  return depth + 1;
}

int depth_of(const std::vector<Value>& items) {
  int depth = 0;
  for (const Value& item : items) depth = std::max(depth, item.depth());
  return deeper(depth);
}

template <class T>
T& as(const std::shared_ptr<Object>& object) {
  return static_cast<T&>(*object);
}

std::shared_ptr<ListObject> list_object(std::vector<Value> items) {
  auto object = std::make_shared<ListObject>();
  object->depth = depth_of(items);
  object->items = std::move(items);
  return object;
}

}  // namespace

Value::Value(Text text, bool markup) : kind_(Kind::kString), markup_(markup) {
  auto object = std::make_shared<StringObject>();
  object->text = std::move(text);
  object_ = std::move(object);
}

Value Value::undefined(std::string error) {
  auto object = std::make_shared<UndefinedObject>();
  object->error = std::move(error);
  return {Kind::kUndefined, std::move(object)};
}

Value Value::list(std::vector<Value> items) { return {Kind::kList, list_object(std::move(items))}; }

Value Value::tuple(std::vector<Value> items) {
  return {Kind::kTuple, list_object(std::move(items))};
}

Value Value::dict(Dict dict) {
  auto object = std::make_shared<DictObject>();
  int depth = 0;
  for (const auto& [key, value] : dict.items()) {
    depth = std::max({depth, key.depth(), value.depth()});
  }
  object->depth = deeper(depth);
  object->dict = std::move(dict);
  return {Kind::kDict, std::move(object)};
}

Value Value::generator(std::vector<Value> items) {
  auto object = std::make_shared<Generator>();
  object->depth = depth_of(items);
  object->items = std::move(items);
  return {Kind::kGenerator, std::move(object)};
}

Value Value::callable(Callable callable) {
  callable.depth = deeper(std::max(callable.self.depth(), callable.caller.depth()));
  return {Kind::kCallable, std::make_shared<Callable>(std::move(callable))};
}

Value Value::loop(std::shared_ptr<Loop> loop) {
  loop->depth = depth_of(loop->items);
  return {Kind::kLoop, std::move(loop)};
}

Value Value::name_space(Namespace& space) {
  return {Kind::kNamespace, std::shared_ptr<Object>(std::shared_ptr<void>(), &space)};
}

const Text& Value::text() const { return as<StringObject>(object_).text; }
const std::vector<Value>& Value::items() const { return as<ListObject>(object_).items; }
const Dict& Value::dict() const { return as<DictObject>(object_).dict; }
Generator& Value::generator() const { return as<Generator>(object_); }
const Callable& Value::callable() const { return as<Callable>(object_); }
Loop& Value::loop() const { return as<Loop>(object_); }
Namespace& Value::name_space() const { return as<Namespace>(object_); }
const std::string& Value::undefined_error() const { return as<UndefinedObject>(object_).error; }

const char* Value::type_name() const {
  switch (kind_) {
    case Kind::kUndefined:
      return "Undefined";
    case Kind::kNone:
      return "NoneType";
    case Kind::kBool:
      return "bool";
    case Kind::kInt:
      return "int";
    case Kind::kFloat:
      return "float";
    case Kind::kString:
      return markup_ ? "Markup" : "str";
    case Kind::kList:
      return "list";
    case Kind::kTuple:
      return "tuple";
    case Kind::kDict:
      return "dict";
    case Kind::kGenerator:
      return "generator";
    case Kind::kNamespace:
      return "Namespace";
    case Kind::kLoop:
      return "LoopContext";
    case Kind::kCallable:
      break;
  }
  return "function";
}

const Value* Dict::look_up(const std::string& name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &items_[found->second].second;
}

const Value* Dict::find(Budget& budget, const Value& key) const {
  return look_up(key_name(budget, key));
}

const Value* Dict::find(std::string_view key) const { return look_up(str_cat("s", key)); }

void Dict::set_named(const std::string& name, Value key, Value value) {
  const auto [entry, fresh] = index_.try_emplace(name, items_.size());
  if (fresh) {
    items_.emplace_back(std::move(key), std::move(value));
  } else {
    items_[entry->second].second = std::move(value);
  }
}

void Dict::set(Budget& budget, Value key, Value value) {
  const std::string name = key_name(budget, key);
  set_named(name, std::move(key), std::move(value));
}

void Dict::set(std::string_view key, Value value) {
  set_named(str_cat("s", key), Value(Text(std::string(key), false)), std::move(value));
}

std::string key_name(Budget& budget, const Value& key) {
  budget.steps(1);
  switch (key.kind()) {
    case Kind::kString:
      budget.text(key.text().size());
      return str_cat("s", key.text().bytes());
    case Kind::kNone:
      return "n";
    case Kind::kFloat:
      if (key.number() != std::floor(key.number()) || std::abs(key.number()) >= 0x1p62) {
        char digits[64];
        const auto end = std::to_chars(digits, digits + sizeof digits, key.number()).ptr;
        return str_cat("f", std::string_view(digits, static_cast<size_t>(end - digits)));
      }
      return str_cat("i", static_cast<int64_t>(key.number()));  // 1.0 is the key 1
    case Kind::kBool:
    case Kind::kInt:
      return str_cat("i", key.integer());
    case Kind::kTuple: {
      std::string name = "t";
      for (const Value& item : key.items()) {
        const std::string part = key_name(budget, item);
        budget.text(name.size() + part.size());
        name += str_cat(part.size(), ":", part);
      }
      return name;
    }
    case Kind::kUndefined:
      return "u";
    case Kind::kNamespace:
    case Kind::kLoop:
    case Kind::kCallable:
    case Kind::kGenerator:
      return str_cat("o", reinterpret_cast<uintptr_t>(key.identity()));
    case Kind::kList:
    case Kind::kDict:
      break;
  }
  fail("unhashable type: '", key.type_name(), "'");
}

bool is_true(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
    case Kind::kNone:
      return false;
    case Kind::kBool:
    case Kind::kInt:
      return value.integer() != 0;
    case Kind::kFloat:
      return value.number() != 0;
    case Kind::kString:
      return !value.text().empty();
    case Kind::kList:
    case Kind::kTuple:
      return !value.items().empty();
    case Kind::kDict:
      return value.dict().size() != 0;
    case Kind::kLoop:
      return !value.loop().items.empty();
    case Kind::kGenerator:
    case Kind::kNamespace:
    case Kind::kCallable:
      break;
  }
  return true;
}

bool equal(Budget& budget, const Value& a, const Value& b) {
  budget.steps(1);
  if (a.is_number() && b.is_number()) {
    if (a.is_integral() && b.is_integral()) return a.integer() == b.integer();
    return a.number() == b.number();
  }
  if (a.kind() != b.kind()) return false;
  if (a.identity() == b.identity()) return true;
  switch (a.kind()) {
    case Kind::kString:
      if (a.text().size() != b.text().size()) return false;
      budget.text(a.text().size());
      return a.text().bytes() == b.text().bytes();
    case Kind::kList:
    case Kind::kTuple: {
      const auto &left = a.items(), &right = b.items();
      if (left.size() != right.size()) return false;
      for (size_t i = 0; i < left.size(); ++i) {
        if (!equal(budget, left[i], right[i])) return false;
      }
      return true;
    }
    case Kind::kDict: {
      if (a.dict().size() != b.dict().size()) return false;
      for (const auto& [key, value] : a.dict().items()) {
        const Value* other = b.dict().find(budget, key);
        if (other == nullptr || !equal(budget, value, *other)) return false;
      }
      return true;
    }
    case Kind::kUndefined:
      return true;
    default:
      return false;  // by identity
  }
}

bool less(Budget& budget, const Value& a, const Value& b) {
  budget.steps(1);
  need_defined(a);
  need_defined(b);
  if (a.is_number() && b.is_number()) {
    if (a.is_integral() && b.is_integral()) return a.integer() < b.integer();
    return a.number() < b.number();
  }
  if (a.is_string() && b.is_string()) {
    budget.text(std::min(a.text().size(), b.text().size()));
    return a.text().bytes() < b.text().bytes();  // UTF-8 sorts as code points do
  }
  if (a.is_sequence() && a.kind() == b.kind()) {
    const auto &left = a.items(), &right = b.items();
    for (size_t i = 0; i < std::min(left.size(), right.size()); ++i) {
      if (!equal(budget, left[i], right[i])) return less(budget, left[i], right[i]);
    }
    return left.size() < right.size();
  }
  fail("'<' not supported between instances of '", a.type_name(), "' and '", b.type_name(), "'");
}

void need_defined(const Value& value) {
  if (value.is(Kind::kUndefined)) throw Failure{value.undefined_error()};
}

std::vector<Value> iterate(Budget& budget, const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
      return {};
    case Kind::kList:
    case Kind::kTuple:
      budget.items(value.items().size());
      return value.items();
    case Kind::kGenerator: {
      Generator& generator = value.generator();
      budget.items(generator.items.size());
      return std::exchange(generator.items, {});
    }
    case Kind::kDict: {
      std::vector<Value> keys;
      budget.items(value.dict().size());
      for (const auto& item : value.dict().items()) keys.push_back(item.first);
      return keys;
    }
    case Kind::kString: {
      std::vector<Value> characters;
      const Text& text = value.text();
      budget.text(text.size());
      budget.items(count_characters(text.bytes()));
      for (size_t at = 0; at < text.size();) {
        const size_t length = character_bytes(text.bytes()[at]);
        characters.emplace_back(text.slice(at, length));
        at += length;
      }
      return characters;
    }
    default:
      fail("'", value.type_name(), "' object is not iterable");
  }
}

}  // namespace rillkv::io::jinja
