// The parsed form of a PTX file: names resolved to registers and symbols, nothing interpreted yet.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

namespace rillkv::ptx {

/// A PTX type: kind 'b' (bits), 'u', 's', 'f', 'h' (bf16) or 'p' (predicate); f16x2 and bf16x2
/// have `packed` set and 32 bits.
struct Type {
  char kind = 0;
  int bits = 0;
  bool packed = false;
  bool valid() const { return kind != 0; }
  bool operator==(const Type&) const = default;
};

/// Parses "u32", "bf16x2", "pred", ...; an invalid Type if the word is none.
Type parse_type(const std::string& word);

enum class Space { kGeneric, kGlobal, kShared, kLocal, kParam, kConst };

struct Operand {
  enum class Kind {
    kRegister,   // index
    kSpecial,    // name, such as %tid.x
    kImmediate,  // bits
    kSymbol,     // name (+ offset): a variable, label or function
    kAddress,    // elements[0] is the base (register, symbol or immediate), offset
    kVector,     // elements
    kList,       // elements, in parentheses: arguments of a call
    kPair,       // elements[0] | elements[1]
    kSink,       // _
  };
  Kind kind = Kind::kSink;
  int index = -1;
  bool negated = false;   // !register
  bool is_float = false;  // immediate written as 0f... (32 bits) or 0d... (64 bits)
  int float_bits = 0;
  uint64_t bits = 0;
  int64_t offset = 0;
  std::string name;
  std::vector<Operand> elements;
};

/// Where an instruction comes from. `file` is 0 without -lineinfo.
struct SourceLine {
  int ptx_line = 0;
  int file = 0;
  int line = 0;
};

struct Instruction {
  std::string opcode;              // "ld.global.v4.f32"
  std::vector<std::string> parts;  // "ld", "global", "v4", "f32"
  std::vector<Operand> operands;
  int guard = -1;  // predicate register
  bool guard_negated = false;
  SourceLine source;
};

struct Variable {
  std::string name;
  Space space = Space::kGlobal;
  uint32_t align = 1;
  uint64_t bytes = 0;
  bool dynamic = false;          // extern .shared x[]
  std::vector<uint8_t> initial;  // empty: zero
};

struct Parameter {
  std::string name;
  uint32_t align = 1;
  uint64_t bytes = 0;
  uint64_t offset = 0;  // in the block of all parameters
};

struct Register {
  std::string name;
  Type type;
};

struct Function {
  std::string name;
  bool is_entry = false;
  std::vector<Parameter> params;
  std::vector<Parameter> results;
  std::vector<Register> registers;
  std::vector<Variable> variables;  // shared, local and .param variables of the body
  std::vector<Instruction> code;
  std::unordered_map<std::string, size_t> labels;                     // index into code
  std::unordered_map<std::string, std::vector<std::string>> targets;  // .branchtargets lists
  uint64_t param_bytes() const {
    return params.empty() ? 0 : params.back().offset + params.back().bytes;
  }
};

/// A parsed file.
struct SyntaxTree {
  std::string name;
  std::vector<Variable> variables;  // module scope: global, const, (extern) shared
  std::map<std::string, Function> functions;
  std::map<int, std::string> files;  // of .loc lines
};

/// Throws ModuleError with the line of the first syntax error.
SyntaxTree parse_ptx(const std::string& text, const std::string& name);

/// Replaces calls of non-inlined functions by their bodies, so that an entry is one flat list.
/// vprintf does nothing and __assertfail becomes trap. Throws ModuleError for recursion, indirect
/// calls and functions without a body.
Function inline_calls(const SyntaxTree& tree, const Function& entry);

}  // namespace rillkv::ptx
