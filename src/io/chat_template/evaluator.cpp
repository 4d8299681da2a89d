#include "src/io/chat_template/evaluator.h"

#include <optional>
#include <utility>

#include "src/io/chat_template/format.h"
#include "src/io/chat_template/functions.h"

namespace rillkv::io::jinja {

const Value* Scope::find(std::string_view name) const {
  for (const auto& [known, value] : variables) {
    if (known == name) return &value;
  }
  return nullptr;
}

void Scope::set(std::string_view name, Value value) {
  for (auto& [known, old] : variables) {
    if (known == name) {
      old = std::move(value);
      return;
    }
  }
  variables.emplace_back(name, std::move(value));
}

/// Opens a scope over `parent` for as long as it lives. Kept to the end if something captured it.
class Evaluator::NewScope {
 public:
  NewScope(Evaluator& evaluator, Scope* parent)
      : evaluator_(evaluator), before_(evaluator.scope_), scope_(std::make_unique<Scope>()) {
    scope_->parent = parent;
    evaluator_.scope_ = scope_.get();
  }
  explicit NewScope(Evaluator& evaluator) : NewScope(evaluator, evaluator.scope_) {}
  ~NewScope() {
    evaluator_.scope_ = before_;
    if (scope_->captured) evaluator_.kept_scopes_.push_back(std::move(scope_));
  }
  NewScope(const NewScope&) = delete;
  NewScope& operator=(const NewScope&) = delete;

 private:
  Evaluator& evaluator_;
  Scope* before_;
  std::unique_ptr<Scope> scope_;
};

namespace {

/// A scope outlives its block with all that it stands in.
Scope* capture(Scope* scope) {
  for (Scope* s = scope; s != nullptr && !s->captured; s = s->parent) s->captured = true;
  return scope;
}

}  // namespace

Evaluator::Evaluator(const std::tm& now) : now_(now) { add_globals(globals_); }

Text Evaluator::run(const Block& block, const Dict& variables) {
  Text output;
  out_ = &output;
  scope_ = &globals_;
  const NewScope context(*this);
  for (const auto& [name, value] : variables.items()) scope_->set(name.text().bytes(), value);
  run_block(block);
  return output;
}

void Evaluator::write(const Text& text) {
  if (out_->size() + text.size() > kMaxTextBytes) budget.text(out_->size() + text.size());
  budget.steps(1 + text.size() / 16);
  out_->append(text);
}

void Evaluator::print(const Value& value) {
  if (value.is_string()) {
    write(value.text());
  } else {
    write(to_text(budget, value));
  }
}

Text Evaluator::captured_block(const Block& block) {
  Text text;
  Text* const before = std::exchange(out_, &text);
  run_block(block);
  out_ = before;
  return text;
}

Evaluator::Flow Evaluator::run_block(const Block& block) {
  const Nesting nesting(depth_, kMaxCallDepth);
  for (const auto& statement : block) {
    const Flow flow = run_statement(*statement);
    if (flow != Flow::kNext) return flow;
  }
  return Flow::kNext;
}

Evaluator::Flow Evaluator::run_statement(const Statement& statement) {
  line_ = statement.line;
  budget.steps(1);
  switch (statement.kind) {
    case StatementKind::kData:
      write(statement.data);
      break;
    case StatementKind::kOutput:
      for (const auto& expression : statement.expressions) print(evaluate(*expression));
      break;
    case StatementKind::kIf:
      return run_if(statement);
    case StatementKind::kFor:
      run_for(statement);
      break;
    case StatementKind::kSet:
      assign(*statement.target, evaluate(*statement.expression));
      break;
    case StatementKind::kSetBlock: {
      Value value;
      {
        const NewScope scope(*this);
        value = Value(captured_block(statement.body));
      }
      if (statement.expression != nullptr) value = evaluate_filter(*statement.expression, &value);
      assign(*statement.target, value);
      break;
    }
    case StatementKind::kMacro: {
      const auto& macro = static_cast<const MacroStatement&>(statement);
      scope_->set(macro.name, macro_value(macro));
      break;
    }
    case StatementKind::kCall:
      run_call_block(static_cast<const MacroStatement&>(statement));
      break;
    case StatementKind::kFilter: {
      Value value;
      {
        const NewScope scope(*this);
        value = Value(captured_block(statement.body));
      }
      print(evaluate_filter(*statement.expression, &value));
      break;
    }
    case StatementKind::kWith:
      run_with(statement);
      break;
    case StatementKind::
        kGeneration: {  // Marks what the assistant says, for training; no loops' end
      const NewScope scope(*this);
      return run_block(statement.body);
    }
    case StatementKind::kBreak:
      return Flow::kBreak;
    case StatementKind::kContinue:
      return Flow::kContinue;
  }
  return Flow::kNext;
}

Evaluator::Flow Evaluator::run_if(const Statement& statement) {
  for (const Statement::Branch& branch : statement.branches) {
    if (branch.condition == nullptr || is_true(evaluate(*branch.condition))) {
      return run_block(branch.body);
    }
  }
  return Flow::kNext;
}

void Evaluator::run_for(const Statement& statement) {
  std::vector<Value> items = iterate(budget, evaluate(*statement.expression));
  run_loop(statement, std::move(items), 0, scope_);
}

void Evaluator::run_loop(const Statement& statement, std::vector<Value> items, int level,
                         Scope* scope) {
  if (statement.condition != nullptr) {
    std::vector<Value> kept;
    for (Value& item : items) {
      const NewScope one(*this, scope);
      assign(*statement.target, item);
      if (is_true(evaluate(*statement.condition))) kept.push_back(std::move(item));
    }
    items = std::move(kept);
  }
  auto loop = std::make_shared<Loop>();
  loop->items = std::move(items);
  loop->level = level;
  if (statement.recursive) {
    loop->statement = &statement;
    loop->scope = capture(scope);
  }
  const Value loop_value = Value::loop(loop);
  for (loop->index = 0; loop->index < loop->items.size(); ++loop->index) {
    budget.steps(1);
    const NewScope one(*this, scope);
    scope_->set("loop", loop_value);
    assign(*statement.target, loop->items[loop->index]);
    if (run_block(statement.body) == Flow::kBreak) break;
  }
  if (loop->items.empty()) {
    const NewScope otherwise(*this, scope);
    run_block(statement.otherwise);
  }
}

void Evaluator::run_with(const Statement& statement) {
  std::vector<Value> values = evaluate_all(statement.expressions);
  const NewScope scope(*this);
  for (size_t i = 0; i < values.size(); ++i) assign(*statement.targets[i], values[i]);
  run_block(statement.body);
}

void Evaluator::run_call_block(const MacroStatement& block) {
  const Value caller = macro_value(block);
  print(evaluate_call(*block.expression, &caller));
}

void Evaluator::assign(const Expression& target, const Value& value) {
  switch (target.kind) {
    case ExpressionKind::kName:
      scope_->set(target.name, value);
      return;
    case ExpressionKind::kAttribute: {
      const Value space = look_up(target.operands[0]->name);
      if (!space.is(Kind::kNamespace)) fail("cannot assign attribute on non-namespace object");
      if (target.name[0] == '_') {
        fail("Chat templates cannot store underscore-prefixed attributes on a namespace, but got '",
             target.name, "'");
      }
      space.name_space().attributes.set(target.name, value);
      return;
    }
    default:
      break;
  }
  need_defined(value);
  const std::vector<Value> values = iterate(budget, value);
  if (values.size() != target.operands.size()) {
    fail(values.size() < target.operands.size() ? "not enough" : "too many",
         " values to unpack (expected ", target.operands.size(), ", got ", values.size(), ")");
  }
  for (size_t i = 0; i < values.size(); ++i) assign(*target.operands[i], values[i]);
}

Value Evaluator::look_up(const std::string& name) const {
  for (const Scope* scope = scope_; scope != nullptr; scope = scope->parent) {
    if (const Value* value = scope->find(name)) return *value;
  }
  return Value::undefined(str_cat("'", name, "' is undefined"));
}

Namespace& Evaluator::make_namespace() {
  budget.steps(10);
  namespaces_.push_back(std::make_unique<Namespace>());
  return *namespaces_.back();
}

Value Evaluator::macro_value(const MacroStatement& macro) {
  Callable callable;
  callable.name = macro.name;
  callable.macro = &macro;
  callable.scope = capture(scope_);
  return Value::callable(std::move(callable));
}

Value Evaluator::call(const Value& callee, const Arguments& arguments) {
  budget.steps(1 + arguments.positional.size() + arguments.named.size());
  need_defined(callee);
  if (callee.is(Kind::kLoop)) return call_loop(callee.loop(), arguments);
  if (!callee.is(Kind::kCallable)) fail("'", callee.type_name(), "' object is not callable");
  const Callable& callable = callee.callable();
  if (callable.macro != nullptr) return call_macro(callable, arguments);
  return callable.native(*this, callable.self, arguments);
}

Value Evaluator::call_macro(const Callable& callable, const Arguments& arguments) {
  const MacroStatement& macro = *callable.macro;
  const int line = line_;
  const NewScope scope(*this, callable.scope);
  const size_t count = macro.parameters.size();
  const auto misused = [&](const auto&... parts) { fail("macro '", macro.name, "' ", parts...); };

  std::vector<std::pair<std::string, Value>> rest = arguments.named;
  const auto take_named = [&](const std::string& name) -> std::optional<Value> {
    for (auto it = rest.begin(); it != rest.end(); ++it) {
      if (it->first != name) continue;
      Value value = std::move(it->second);
      rest.erase(it);
      return value;
    }
    return std::nullopt;
  };
  const size_t first_default = count - macro.defaults.size();
  for (size_t i = 0; i < count; ++i) {
    const std::string& name = macro.parameters[i];
    std::optional<Value> named = take_named(name);
    if (i < arguments.positional.size()) {
      if (named) misused("got multiple values for argument '", name, "'");
      scope_->set(name, arguments.positional[i]);
    } else if (named) {
      scope_->set(name, *named);
    } else if (i >= first_default) {
      scope_->set(name, evaluate(*macro.defaults[i - first_default]));
    } else {
      scope_->set(name, Value::undefined(str_cat("parameter '", name, "' was not provided")));
    }
  }
  if (macro.uses_caller) {
    const auto caller = take_named("caller");
    scope_->set("caller", caller ? *caller : Value::undefined("No caller defined"));
  }
  if (macro.uses_kwargs) {
    Dict named;
    for (auto& [name, value] : std::exchange(rest, {})) named.set(name, value);
    scope_->set("kwargs", Value::dict(std::move(named)));
  }
  if (!rest.empty()) misused("takes no keyword argument '", rest[0].first, "'");
  const auto& given = arguments.positional;
  if (macro.uses_varargs) {
    std::vector<Value> more;
    for (size_t i = count; i < given.size(); ++i) more.push_back(given[i]);
    scope_->set("varargs", Value::tuple(std::move(more)));
  } else if (given.size() > count) {
    misused("takes not more than ", count, " argument(s)");
  }
  Value result(captured_block(macro.body));
  line_ = line;
  return result;
}

Value Evaluator::call_loop(Loop& loop, const Arguments& arguments) {
  const auto* statement = static_cast<const Statement*>(loop.statement);
  if (statement == nullptr) fail("the loop must have the 'recursive' marker to be called");
  if (arguments.positional.size() != 1 || !arguments.named.empty()) {
    fail("loop() takes one argument, an iterable");
  }
  const Nesting nesting(depth_, kMaxCallDepth);
  Text text;
  Text* const before = std::exchange(out_, &text);
  run_loop(*statement, iterate(budget, arguments.positional[0]), loop.level + 1, loop.scope);
  out_ = before;
  return Value(std::move(text));
}

}  // namespace rillkv::io::jinja
