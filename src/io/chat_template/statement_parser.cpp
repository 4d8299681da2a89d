#include <algorithm>
#include <utility>

#include "src/io/chat_template/parser.h"

namespace rillkv::io::jinja {
namespace {

class StatementParser : public ExpressionParser {
 public:
  using ExpressionParser::ExpressionParser;

  Block run() { return parse_block({}); }

 private:
  using StatementPointer = std::unique_ptr<Statement>;
  using Names = std::initializer_list<std::string_view>;

  StatementPointer make(StatementKind kind, int line) const {
    auto statement = std::make_unique<Statement>();
    statement->kind = kind;
    statement->line = line;
    return statement;
  }

  /// Statements up to a tag of `ends`, whose name is left to be taken; to the end without.
  Block parse_block(Names ends) {
    Block block;
    if (nesting_ >= kMaxSyntaxDepth) {
      fail(str_cat("blocks nested deeper than ", kMaxSyntaxDepth, " levels"));
    }
    const Nesting nesting(nesting_, kMaxSyntaxDepth);
    while (true) {
      const int line = current().line;
      switch (current().kind) {
        case TokenKind::kData: {
          StatementPointer data = make(StatementKind::kData, line);
          data->data = Text(take().text, true);
          block.push_back(std::move(data));
          break;
        }
        case TokenKind::kVariableBegin: {
          take();
          StatementPointer output = make(StatementKind::kOutput, line);
          output->expressions.push_back(parse_tuple(true));
          if (current().kind != TokenKind::kVariableEnd) {
            fail("expected '}}', found " + describe());
          }
          take();
          block.push_back(std::move(output));
          break;
        }
        case TokenKind::kBlockBegin: {
          take();
          if (std::any_of(ends.begin(), ends.end(), [&](auto end) { return is_name(end); })) {
            return block;
          }
          block.push_back(parse_statement(ends));
          break;
        }
        default:  // kEnd: nothing else stands outside of tags
          if (ends.size() > 0)
            fail(str_cat("unexpected end of template, expected '", *ends.begin(), "'"));
          return block;
      }
    }
  }

  /// The rest of a tag, the block behind it, and the tag that ends it.
  Block parse_body(std::string_view end) {
    skip_operator(":");
    expect_block_end();
    Block body = parse_block({end});
    take();
    expect_block_end();
    return body;
  }

  StatementPointer parse_statement(Names ends) {
    const int line = current().line;
    if (current().kind != TokenKind::kName) fail("expected a tag's name, found " + describe());
    const std::string name = take().text;
    if (name == "if") return parse_if(line);
    if (name == "for") return parse_for(line);
    if (name == "set") return parse_set(line);
    if (name == "macro") return parse_macro(line);
    if (name == "call") return parse_call_block(line);
    if (name == "with") return parse_with(line);
    if (name == "print") return parse_print(line);
    if (name == "filter") {
      StatementPointer filter = make(StatementKind::kFilter, line);
      filter->expression = parse_filters(nullptr, true);
      filter->body = parse_body("endfilter");
      return filter;
    }
    if (name == "generation") {
      StatementPointer generation = make(StatementKind::kGeneration, line);
      generation->body = parse_body("endgeneration");
      return generation;
    }
    if (name == "break" || name == "continue") {
      if (loops_ == 0) fail("'" + name + "' outside of a loop", line);
      expect_block_end();
      return make(name == "break" ? StatementKind::kBreak : StatementKind::kContinue, line);
    }
    std::string message = str_cat("the tag '", name, "' is unknown or not supported");
    if (ends.size() > 0) message += str_cat(" (the block here ends with '", *ends.begin(), "')");
    fail(message, line);
  }

  StatementPointer parse_if(int line) {
    StatementPointer statement = make(StatementKind::kIf, line);
    while (true) {
      Statement::Branch branch;
      branch.condition = parse_tuple(false);
      skip_operator(":");
      expect_block_end();
      branch.body = parse_block({"endif", "elif", "else"});
      statement->branches.push_back(std::move(branch));
      const std::string next = take().text;
      if (next == "elif") continue;
      if (next == "else") {
        statement->branches.emplace_back();
        statement->branches.back().body = parse_body("endif");
      } else {
        expect_block_end();
      }
      return statement;
    }
  }

  StatementPointer parse_for(int line) {
    StatementPointer statement = make(StatementKind::kFor, line);
    statement->target = parse_target("in", false);
    if (!skip_name("in")) fail("expected 'in', found " + describe());
    statement->expression = parse_tuple(false, "recursive");
    if (skip_name("if")) statement->condition = parse_expression();
    statement->recursive = skip_name("recursive");
    skip_operator(":");
    expect_block_end();
    ++loops_;
    statement->body = parse_block({"endfor", "else"});
    --loops_;
    if (take().text == "else") {
      statement->otherwise = parse_body("endfor");
    } else {
      expect_block_end();
    }
    return statement;
  }

  StatementPointer parse_set(int line) {
    StatementPointer statement = make(StatementKind::kSet, line);
    statement->target = parse_target({}, true);
    if (skip_operator("=")) {
      statement->expression = parse_tuple(true);
      expect_block_end();
      return statement;
    }
    statement->kind = StatementKind::kSetBlock;
    statement->expression = parse_filters(nullptr, false);
    statement->body = parse_body("endset");
    return statement;
  }

  StatementPointer parse_with(int line) {
    StatementPointer statement = make(StatementKind::kWith, line);
    while (current().kind != TokenKind::kBlockEnd) {
      if (!statement->targets.empty()) expect_operator(",");
      statement->targets.push_back(parse_target({}, false));
      expect_operator("=");
      statement->expressions.push_back(parse_expression());
    }
    statement->body = parse_body("endwith");
    return statement;
  }

  StatementPointer parse_print(int line) {
    StatementPointer statement = make(StatementKind::kOutput, line);
    while (current().kind != TokenKind::kBlockEnd) {
      if (!statement->expressions.empty()) expect_operator(",");
      statement->expressions.push_back(parse_expression());
    }
    expect_block_end();
    return statement;
  }

  void parse_signature(MacroStatement& macro) {
    expect_operator("(");
    while (!is_operator(")")) {
      if (!macro.parameters.empty()) expect_operator(",");
      macro.parameters.push_back(expect_name());
      if (skip_operator("=")) {
        macro.defaults.push_back(parse_expression());
      } else if (!macro.defaults.empty()) {
        fail("non-default argument follows default argument");
      }
    }
    expect_operator(")");
  }

  /// A body that is a function of its own: what it mentions counts for it, loops outside do not.
  void parse_macro_body(MacroStatement& macro, std::string_view end) {
    MacroStatement* const outer = std::exchange(macro_, &macro);
    const int loops = std::exchange(loops_, 0);
    macro.body = parse_body(end);
    macro_ = outer;
    loops_ = loops;
  }

  StatementPointer parse_macro(int line) {
    auto macro = std::make_unique<MacroStatement>();
    macro->kind = StatementKind::kMacro;
    macro->line = line;
    macro->name = expect_name();
    parse_signature(*macro);
    parse_macro_body(*macro, "endmacro");
    return macro;
  }

  StatementPointer parse_call_block(int line) {
    auto block = std::make_unique<MacroStatement>();
    block->kind = StatementKind::kCall;
    block->line = line;
    block->name = "caller";
    if (is_operator("(")) parse_signature(*block);
    block->expression = parse_expression();
    if (block->expression->kind != ExpressionKind::kCall) fail("expected a call", line);
    parse_macro_body(*block, "endcall");
    return block;
  }

  int loops_ = 0;  // around here, inside one macro
};

}  // namespace

Block parse(std::string_view source) { return StatementParser(tokenize(source)).run(); }

}  // namespace rillkv::io::jinja
