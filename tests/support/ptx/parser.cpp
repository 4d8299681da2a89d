// A recursive-descent parser for the PTX that nvcc emits (and a little more, for hand-written
// tests). Registers and block-scoped names are resolved here; instructions stay words.
#include <cstdlib>
#include <string>
#include <utility>

#include "tests/support/ptx/executor.h"
#include "tests/support/ptx/lexer.h"
#include "tests/support/ptx/syntax.h"

namespace rillkv::ptx {

Type parse_type(const std::string& word) {
  static const std::unordered_map<std::string, Type> kTypes = {
      {"pred", {'p', 1}},         {"b8", {'b', 8}},
      {"b16", {'b', 16}},         {"b32", {'b', 32}},
      {"b64", {'b', 64}},         {"b128", {'b', 128}},
      {"u8", {'u', 8}},           {"u16", {'u', 16}},
      {"u32", {'u', 32}},         {"u64", {'u', 64}},
      {"s8", {'s', 8}},           {"s16", {'s', 16}},
      {"s32", {'s', 32}},         {"s64", {'s', 64}},
      {"f16", {'f', 16}},         {"f32", {'f', 32}},
      {"f64", {'f', 64}},         {"bf16", {'h', 16}},
      {"f16x2", {'f', 32, true}}, {"bf16x2", {'h', 32, true}},
  };
  const auto found = kTypes.find(word);
  return found == kTypes.end() ? Type{} : found->second;
}

namespace {

class Parser {
 public:
  Parser(const std::string& text, const std::string& name) : tokens_(tokenize(text)) {
    tree_.name = name;
  }

  SyntaxTree parse() {
    while (!peek().empty()) top_level();
    return std::move(tree_);
  }

 private:
  // ---- tokens ----
  const std::string& peek(size_t ahead = 0) const {
    return tokens_[std::min(next_ + ahead, tokens_.size() - 1)].text;
  }
  int line() const { return tokens_[next_].line; }
  std::string take() {
    const std::string text = peek();
    if (next_ + 1 < tokens_.size()) ++next_;
    return text;
  }
  bool accept(const std::string& text) {
    if (peek() != text) return false;
    take();
    return true;
  }
  void expect(const std::string& text) {
    if (!accept(text)) fail("expected '" + text + "', found '" + peek() + "'");
  }
  [[noreturn]] void fail(const std::string& what) const {
    throw ModuleError(tree_.name + ":" + std::to_string(line()) + ": " + what);
  }
  void skip_statement() {
    while (!peek().empty() && !accept(";")) take();
  }

  int64_t integer() {
    const bool negative = accept("-");
    std::string word = take();
    while (!word.empty() && (word.back() == 'U' || word.back() == 'u')) word.pop_back();
    char* end = nullptr;
    const uint64_t value = std::strtoull(word.c_str(), &end, 0);
    if (word.empty() || *end != '\0') fail("expected an integer, found '" + word + "'");
    return static_cast<int64_t>(negative ? 0 - value : value);
  }

  // ---- module scope ----
  void top_level() {
    const std::string& word = peek();
    if (word == ".version" || word == ".target" || word == ".address_size") {
      const int at = line();
      while (!peek().empty() && line() == at) take();
    } else if (word == ".file") {
      file();
    } else if (word == ".section") {
      while (!accept("}")) {
        if (peek().empty()) fail("unterminated .section");
        take();
      }
    } else if (word == ".visible" || word == ".weak" || word == ".extern" || word == ".common") {
      is_extern_ = word == ".extern";
      take();
      return;  // the flag belongs to what follows
    } else if (word == ".entry" || word == ".func") {
      function();
    } else if (word == ".global" || word == ".const" || word == ".shared") {
      tree_.variables.push_back(variable(is_extern_));
    } else {
      fail("unsupported directive '" + word + "'");
    }
    is_extern_ = false;
  }

  void file() {
    take();
    const int index = static_cast<int>(integer());
    std::string name = take();
    if (name.size() >= 2) name = name.substr(1, name.size() - 2);
    const size_t slash = name.find_last_of('/');
    tree_.files[index] = slash == std::string::npos ? name : name.substr(slash + 1);
    while (accept(",")) take();
  }

  static Space space_of(const std::string& word) {
    if (word == ".shared") return Space::kShared;
    if (word == ".local") return Space::kLocal;
    if (word == ".param") return Space::kParam;
    if (word == ".const") return Space::kConst;
    return Space::kGlobal;
  }

  /// .space [.align n] .type name [\[n\]...] [= initialiser] ;
  Variable variable(bool is_extern) {
    Variable result;
    result.space = space_of(take());
    const Type type = aligned_type(&result.align);
    result.name = take();
    result.bytes = static_cast<uint64_t>(type.bits / 8);
    while (accept("[")) {
      if (accept("]")) {
        result.dynamic = is_extern;
        if (!is_extern) fail("array without a size");
      } else {
        result.bytes *= static_cast<uint64_t>(integer());
        expect("]");
      }
    }
    if (accept("=")) initialiser(type, &result);
    expect(";");
    return result;
  }

  Type aligned_type(uint32_t* align) {
    *align = 0;
    Type type;
    while (!type.valid()) {
      const std::string word = take();
      if (word == ".align") {
        *align = static_cast<uint32_t>(integer());
      } else if (word == ".ptr" || word == ".global" || word == ".attribute") {
        continue;
      } else {
        type = word.empty() ? Type{} : parse_type(word.substr(1));
        if (!type.valid()) fail("expected a type, found '" + word + "'");
      }
    }
    if (*align == 0) *align = static_cast<uint32_t>(std::max(type.bits / 8, 1));
    return type;
  }

  void initialiser(Type type, Variable* out) {
    if (accept("{")) {
      do {
        initialiser(type, out);
      } while (accept(","));
      expect("}");
      return;
    }
    const Operand value = operand();
    if (value.kind != Operand::Kind::kImmediate) fail("unsupported initialiser of " + out->name);
    for (int byte = 0; byte < type.bits / 8; ++byte) {
      out->initial.push_back(static_cast<uint8_t>(value.bits >> (8 * byte)));
    }
  }

  // ---- functions ----
  void function() {
    Function f;
    f.is_entry = take() == ".entry";
    if (peek() == "(") f.results = parameters();
    f.name = take();
    if (peek() == "(") f.params = parameters();
    while (peek() != "{" && peek() != ";") take();  // .maxntid and other performance directives
    if (accept(";")) return;                        // a declaration
    function_ = &f;
    scopes_.assign(1, {});
    source_ = {};
    expect("{");
    while (!accept("}")) statement();
    check_labels(f);
    tree_.functions[f.name] = std::move(f);
    function_ = nullptr;
  }

  std::vector<Parameter> parameters() {
    std::vector<Parameter> result;
    uint64_t offset = 0;
    expect("(");
    while (!accept(")")) {
      expect(".param");
      Parameter p;
      const Type type = aligned_type(&p.align);
      p.bytes = static_cast<uint64_t>(type.bits / 8);
      while (peek() == ".ptr" || peek() == ".global" || peek() == ".align") {
        if (take() == ".align") integer();
      }
      p.name = take();
      if (accept("[")) {
        p.bytes *= static_cast<uint64_t>(integer());
        expect("]");
      }
      offset = (offset + p.align - 1) / p.align * p.align;
      p.offset = offset;
      offset += p.bytes;
      result.push_back(std::move(p));
      accept(",");
    }
    return result;
  }

  void check_labels(const Function& f) const {
    for (const Instruction& instruction : f.code) {
      if (instruction.parts[0] != "bra") continue;
      if (f.labels.count(instruction.operands[0].name) == 0) {
        throw ModuleError(tree_.name + ": " + f.name + " branches to the unknown label " +
                          instruction.operands[0].name);
      }
    }
  }

  // ---- statements ----
  using Scope = std::unordered_map<std::string, std::string>;  // name -> unique name

  void statement() {
    const std::string& word = peek();
    if (word.empty()) fail("unterminated function body");
    if (accept("{")) {
      scopes_.emplace_back();
      while (!accept("}")) statement();
      scopes_.pop_back();
    } else if (accept(";")) {
    } else if (word == ".reg") {
      registers();
    } else if (word == ".shared" || word == ".local" || word == ".param") {
      Variable v = variable(false);
      const std::string name = v.name;
      if (scopes_.size() > 1) v.name += "#" + std::to_string(unique_++);
      scopes_.back()[name] = v.name;
      function_->variables.push_back(std::move(v));
    } else if (word == ".loc") {
      location();
    } else if (word == ".pragma") {
      skip_statement();
    } else if (peek(1) == ":") {
      label();
    } else if (word[0] == '.') {
      fail("unsupported directive '" + word + "'");
    } else {
      instruction();
    }
  }

  void registers() {
    take();
    const Type type = parse_type(take().substr(1));
    if (!type.valid()) fail("unknown register type");
    do {
      const std::string name = take();
      if (accept("<")) {
        const int64_t count = integer();
        expect(">");
        for (int64_t i = 0; i < count; ++i) declare_register(name + std::to_string(i), type);
      } else {
        declare_register(name, type);
      }
    } while (accept(","));
    expect(";");
  }

  void declare_register(const std::string& name, Type type) {
    registers_in_scope()[name] = std::to_string(function_->registers.size());
    function_->registers.push_back({name, type});
  }
  // Registers share the scopes of variables; '\1' keeps the two kinds of names apart.
  struct RegisterScope {
    Scope& scope;
    std::string& operator[](const std::string& name) { return scope["\1" + name]; }
  };
  RegisterScope registers_in_scope() { return {scopes_.back()}; }

  const std::string* lookup(const std::string& name) const {
    for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
      const auto found = scope->find(name);
      if (found != scope->end()) return &found->second;
    }
    return nullptr;
  }

  void location() {
    take();
    source_.file = static_cast<int>(integer());
    source_.line = static_cast<int>(integer());
    integer();
    while (accept(",")) {  // function_name x [+ n], inlined_at file line column
      if (take() == "function_name") {
        take();
        if (accept("+")) integer();
      } else {
        integer();
        integer();
        integer();
      }
    }
  }

  void label() {
    const std::string name = take();
    expect(":");
    if (accept(".branchtargets")) {
      std::vector<std::string>& list = function_->targets[name];
      do {
        list.push_back(take());
      } while (accept(","));
      expect(";");
      return;
    }
    function_->labels[name] = function_->code.size();
  }

  void instruction() {
    Instruction result;
    source_.ptx_line = line();
    result.source = source_;
    if (accept("@")) {
      result.guard_negated = accept("!");
      const Operand guard = operand();
      if (guard.kind != Operand::Kind::kRegister) fail("a guard must be a register");
      result.guard = guard.index;
    }
    result.opcode = take();
    for (size_t begin = 0; begin <= result.opcode.size();) {
      const size_t dot = std::min(result.opcode.find('.', begin), result.opcode.size());
      result.parts.push_back(result.opcode.substr(begin, dot - begin));
      begin = dot + 1;
    }
    while (!accept(";")) {
      result.operands.push_back(operand());
      if (accept("|")) {
        Operand pair;
        pair.kind = Operand::Kind::kPair;
        pair.elements.push_back(std::move(result.operands.back()));
        pair.elements.push_back(operand());
        result.operands.back() = std::move(pair);
      }
      if (peek() != ";") expect(",");
    }
    function_->code.push_back(std::move(result));
  }

  // ---- operands ----
  std::vector<Operand> operand_list(const std::string& close) {
    std::vector<Operand> result;
    while (!accept(close)) {
      result.push_back(operand());
      if (peek() != close) expect(",");
    }
    return result;
  }

  Operand operand() {
    Operand result;
    if (accept("{")) {
      result.kind = Operand::Kind::kVector;
      result.elements = operand_list("}");
    } else if (accept("(")) {
      result.kind = Operand::Kind::kList;
      result.elements = operand_list(")");
    } else if (accept("[")) {
      result.kind = Operand::Kind::kAddress;
      result.elements.push_back(operand());
      result.offset = std::exchange(result.elements[0].offset, 0);
      if (accept("+")) result.offset += integer();
      expect("]");
    } else if (accept("!")) {
      result = operand();
      result.negated = !result.negated;
    } else if (peek() == "-" || (!peek().empty() && peek()[0] >= '0' && peek()[0] <= '9')) {
      result = number();
    } else {
      result = name();
    }
    return result;
  }

  Operand number() {
    Operand result;
    result.kind = Operand::Kind::kImmediate;
    const std::string& word = peek();
    if (word.size() > 2 && word[0] == '0' && (word[1] == 'f' || word[1] == 'F')) {
      result.is_float = true;
      result.float_bits = 32;
    } else if (word.size() > 2 && word[0] == '0' && (word[1] == 'd' || word[1] == 'D')) {
      result.is_float = true;
      result.float_bits = 64;
    }
    if (result.is_float) {
      result.bits = std::strtoull(take().c_str() + 2, nullptr, 16);
    } else {
      result.bits = static_cast<uint64_t>(integer());
    }
    return result;
  }

  Operand name() {
    Operand result;
    const std::string word = take();
    if (word == "_") return result;
    if (function_ != nullptr) {
      if (const std::string* index = lookup("\1" + word)) {
        result.kind = Operand::Kind::kRegister;
        result.index = std::stoi(*index);
        return result;
      }
    }
    if (word == "WARP_SZ") {
      result.kind = Operand::Kind::kImmediate;
      result.bits = 32;
      return result;
    }
    result.kind = word[0] == '%' ? Operand::Kind::kSpecial : Operand::Kind::kSymbol;
    const std::string* unique = lookup(word);
    result.name = unique != nullptr ? *unique : word;
    if (result.kind == Operand::Kind::kSymbol && peek() == "+") {
      take();
      result.offset = integer();
    }
    return result;
  }

  SyntaxTree tree_;
  std::vector<Token> tokens_;
  size_t next_ = 0;
  bool is_extern_ = false;
  Function* function_ = nullptr;
  std::vector<Scope> scopes_;
  SourceLine source_;
  int unique_ = 0;
};

}  // namespace

SyntaxTree parse_ptx(const std::string& text, const std::string& name) {
  return Parser(text, name).parse();
}

}  // namespace rillkv::ptx
