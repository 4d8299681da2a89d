// A parsed template.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "src/io/chat_template/value.h"

namespace rillkv::io::jinja {

enum class ExpressionKind : uint8_t {
  kConstant,     // constant
  kName,         // name
  kList,         // operands
  kTuple,        // operands; also a target
  kDict,         // operands: key, value, key, value ...
  kAttribute,    // operands[0].name; as a target of set: a namespace's
  kItem,         // operands[0][operands[1]]
  kSlice,        // operands[0][operands[1]:operands[2]:operands[3]], any of the three null
  kCall,         // operands[0](operands[1] ...)
  kFilter,       // operands[0] | name(operands[1] ...); no operands[0] in blocks
  kTest,         // operands[0] is name(operands[1] ...)
  kNot,          // operands[0]
  kNegative,     //
  kPositive,     //
  kBinary,       // operands[0] name operands[1]
  kConcat,       // operands joined as text
  kCompare,      // operands[0] comparisons[0] operands[1] comparisons[1] ...
  kAnd,          // operands
  kOr,           //
  kConditional,  // operands[0] if operands[1] else operands[2]; the last may be null
};

struct Expression;
using ExpressionPointer = std::unique_ptr<Expression>;

struct Expression {
  ExpressionKind kind = ExpressionKind::kConstant;
  int line = 0;
  int depth = 1;  // of the tree
  std::string name;
  Value constant;
  std::vector<ExpressionPointer> operands;
  std::vector<std::string> comparisons;
  // Of calls, filters and tests.
  std::vector<std::pair<std::string, ExpressionPointer>> named;
  ExpressionPointer star, star_star;  // *operands, **named
};

enum class StatementKind : uint8_t {
  kData,        // data
  kOutput,      // expressions
  kIf,          // branches, the last without a condition for else
  kFor,         // target, expression, condition (may be null), body, otherwise
  kSet,         // target, expression
  kSetBlock,    // target, expression (filters, may be null), body
  kMacro,       // a MacroStatement
  kCall,        // a MacroStatement of the block's body; expression: the call
  kFilter,      // expression, body
  kWith,        // targets, expressions, body
  kGeneration,  // body
  kBreak,
  kContinue,
};

struct Statement;
using Block = std::vector<std::unique_ptr<Statement>>;

struct Statement {
  virtual ~Statement() = default;

  struct Branch {
    ExpressionPointer condition;
    Block body;
  };

  StatementKind kind = StatementKind::kData;
  int line = 0;
  Text data;
  ExpressionPointer target, expression, condition;
  std::vector<ExpressionPointer> targets, expressions;
  std::vector<Branch> branches;
  Block body, otherwise;
  bool recursive = false;
};

/// Also the body of a call block.
struct MacroStatement : Statement {
  std::string name;
  std::vector<std::string> parameters;
  std::vector<ExpressionPointer> defaults;  // of the last parameters
  bool uses_varargs = false, uses_kwargs = false, uses_caller = false;
};

/// Parses a template. Throws SyntaxFailure (lexer.h).
Block parse(std::string_view source);

}  // namespace rillkv::io::jinja
