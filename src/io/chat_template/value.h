// The values of a template: Python's, as far as templates see them. Everything but a namespace is
// immutable, as in transformers' sandbox.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "src/io/chat_template/budget.h"
#include "src/io/chat_template/text.h"

namespace rillkv::io::jinja {

enum class Kind : uint8_t {
  kUndefined,
  kNone,
  kBool,
  kInt,
  kFloat,
  kString,
  kList,
  kTuple,
  kDict,
  kGenerator,  // of map(), select() and others: iterated once
  kNamespace,
  kLoop,
  kCallable,
};

class Dict;
struct Loop;
struct Callable;
struct Namespace;
struct Generator;

/// What values share. `depth` counts lists in lists.
struct Object {
  virtual ~Object() = default;
  int depth = 0;
};

class Value {
 public:
  Value() = default;  // None
  explicit Value(bool b) : kind_(Kind::kBool), int_(b) {}
  explicit Value(int64_t i) : kind_(Kind::kInt), int_(i) {}
  explicit Value(double f) : kind_(Kind::kFloat), float_(f) {}
  explicit Value(Text text, bool markup = false);
  /// A trusted string.
  static Value own(std::string_view text) { return Value(Text(std::string(text), true)); }
  /// `error` is what an operation on it fails with: "'x' is undefined".
  static Value undefined(std::string error);
  static Value list(std::vector<Value> items);
  static Value tuple(std::vector<Value> items);
  static Value dict(Dict dict);
  static Value generator(std::vector<Value> items);
  static Value callable(Callable callable);
  static Value loop(std::shared_ptr<Loop> loop);
  /// The namespace must outlive the value.
  static Value name_space(Namespace& space);

  Kind kind() const { return kind_; }
  bool is(Kind kind) const { return kind_ == kind; }
  bool is_string() const { return kind_ == Kind::kString; }
  /// A bool is a number too.
  bool is_integral() const { return kind_ == Kind::kInt || kind_ == Kind::kBool; }
  bool is_number() const { return is_integral() || kind_ == Kind::kFloat; }
  bool is_sequence() const { return kind_ == Kind::kList || kind_ == Kind::kTuple; }
  /// Escaped by `|e` or said to be safe: `+` escapes what is added to it.
  bool is_markup() const { return markup_; }

  // Each needs the kind of its name.
  int64_t integer() const { return int_; }  // also of a bool
  double number() const { return kind_ == Kind::kFloat ? float_ : static_cast<double>(int_); }
  const Text& text() const;
  const std::vector<Value>& items() const;
  const Dict& dict() const;
  Generator& generator() const;
  const Callable& callable() const;
  Loop& loop() const;
  Namespace& name_space() const;
  const std::string& undefined_error() const;

  /// Python's name of the type.
  const char* type_name() const;
  int depth() const { return object_ == nullptr ? 0 : object_->depth; }
  /// The identity of an object, nullptr for scalars.
  const Object* identity() const { return object_.get(); }

 private:
  Value(Kind kind, std::shared_ptr<Object> object) : kind_(kind), object_(std::move(object)) {}

  Kind kind_ = Kind::kNone;
  bool markup_ = false;
  union {
    int64_t int_ = 0;
    double float_;
  };
  std::shared_ptr<Object> object_;
};

/// Keeps the order of insertion. Keys are strings, numbers, None and tuples of these.
class Dict {
 public:
  using Item = std::pair<Value, Value>;
  const std::vector<Item>& items() const { return items_; }
  size_t size() const { return items_.size(); }
  /// nullptr if there is none. Fails for a key that Python cannot hash.
  const Value* find(Budget& budget, const Value& key) const;
  const Value* find(std::string_view key) const;
  void set(Budget& budget, Value key, Value value);
  /// The key counts as a user's text.
  void set(std::string_view key, Value value);

 private:
  const Value* look_up(const std::string& name) const;
  void set_named(const std::string& name, Value key, Value value);

  std::vector<Item> items_;
  std::unordered_map<std::string, size_t> index_;  // equal keys have one name
};

struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

struct Generator : Object {
  std::vector<Value> items;
};

/// Mutable and owned by the evaluator, so that cycles leak nothing.
struct Namespace : Object {
  Dict attributes;
};

class Evaluator;
struct MacroStatement;
struct Scope;

/// A function of ours, bound to `self`, or a macro.
struct Callable : Object {
  using Native = Value (*)(Evaluator&, const Value& self, const Arguments&);
  std::string name;
  Native native = nullptr;
  Value self;
  const MacroStatement* macro = nullptr;
  Scope* scope = nullptr;  // in which the macro was defined
  Value caller;            // of a call block's body
};

/// The variable `loop` inside a for statement.
struct Loop : Object {
  std::vector<Value> items;
  size_t index = 0;
  int level = 0;  // of recursion
  const void* statement = nullptr;
  Scope* scope = nullptr;
};

bool is_true(const Value& value);
/// Python's `==`.
bool equal(Budget& budget, const Value& a, const Value& b);
/// Python's `<`; fails for types without an order.
bool less(Budget& budget, const Value& a, const Value& b);
/// One string for all keys that are equal. Fails for what Python cannot hash.
std::string key_name(Budget& budget, const Value& key);
/// Fails for an undefined value, with its message.
void need_defined(const Value& value);
/// The items of something iterable; characters of a string, keys of a dict; consumes a generator.
std::vector<Value> iterate(Budget& budget, const Value& value);

}  // namespace rillkv::io::jinja
