// Runs a parsed template.
#pragma once

#include <ctime>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "src/io/chat_template/syntax.h"
#include "src/io/chat_template/value.h"

namespace rillkv::io::jinja {

/// The variables of a block. A macro keeps the scope in which it was defined.
struct Scope {
  Scope* parent = nullptr;
  std::vector<std::pair<std::string, Value>> variables;
  bool captured = false;  // outlives its block

  const Value* find(std::string_view name) const;
  void set(std::string_view name, Value value);
};

/// For one rendering. Throws Failure; line() says where.
class Evaluator {
 public:
  /// `now` is what strftime_now() formats.
  explicit Evaluator(const std::tm& now);

  Text run(const Block& block, const Dict& variables);

  int line() const { return line_; }
  const std::tm& now() const { return now_; }

  // What filters, tests, methods and functions need.
  Budget budget;
  Value call(const Value& callee, const Arguments& arguments);
  /// object.name, looked up among methods first; undefined if there is none.
  Value attribute(const Value& object, const std::string& name);
  /// object[key]
  Value item(const Value& object, const Value& key);
  bool contains(const Value& container, const Value& value);
  Value add(const Value& a, const Value& b);
  Namespace& make_namespace();
  /// For a Nesting of whatever calls back.
  int& depth() { return depth_; }

 private:
  enum class Flow : uint8_t { kNext, kBreak, kContinue };
  class NewScope;

  Flow run_block(const Block& block);
  Flow run_statement(const Statement& statement);
  Flow run_if(const Statement& statement);
  void run_for(const Statement& statement);
  void run_loop(const Statement& statement, std::vector<Value> items, int level, Scope* scope);
  void run_with(const Statement& statement);
  void run_call_block(const MacroStatement& block);
  Text captured_block(const Block& block);
  void print(const Value& value);
  void write(const Text& text);

  void assign(const Expression& target, const Value& value);
  Value look_up(const std::string& name) const;
  Value macro_value(const MacroStatement& macro);
  Value call_macro(const Callable& callable, const Arguments& arguments);
  Value call_loop(Loop& loop, const Arguments& arguments);
  Value loop_attribute(const Loop& loop, const std::string& name) const;

  Value evaluate(const Expression& expression);
  Value evaluate_call(const Expression& expression, const Value* caller);
  Value evaluate_filter(const Expression& expression, const Value* input);
  Value evaluate_test(const Expression& expression);
  Value evaluate_binary(const Expression& expression);
  Value evaluate_compare(const Expression& expression);
  Value evaluate_slice(const Expression& expression);
  Value evaluate_dict(const Expression& expression);
  Value evaluate_concat(const Expression& expression);
  Value evaluate_sign(const Expression& expression);
  std::vector<Value> evaluate_all(const std::vector<ExpressionPointer>& expressions);
  Arguments evaluate_arguments(const Expression& expression);

  std::tm now_;
  int line_ = 0;
  int depth_ = 0;
  Text* out_ = nullptr;
  Scope globals_;
  Scope* scope_ = nullptr;
  std::vector<std::unique_ptr<Scope>> kept_scopes_;
  std::vector<std::unique_ptr<Namespace>> namespaces_;
};

}  // namespace rillkv::io::jinja
