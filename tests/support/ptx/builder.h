// What the decoders of instruction families see: one parsed instruction, and the means to turn its
// words into an Op. A modifier that no decoder takes makes the instruction unsupported, so that
// nothing is silently ignored.
#pragma once

#include <string>
#include <unordered_map>
#include <vector>

#include "tests/support/ptx/program.h"

namespace rillkv::ptx {

struct ModuleData;

/// Registers, symbols and constants of the entry being decoded.
class Layout {
 public:
  Layout(const ModuleData& module, const Function& entry, Program* program);

  Ref register_ref(int index) const { return register_refs_[static_cast<size_t>(index)]; }
  Type register_type(int index) const {
    return function_.registers[static_cast<size_t>(index)].type;
  }
  /// An array of 32 equal values.
  Ref constant(uint64_t bits, int width);
  Ref special(SpecialValue::Kind kind, uint64_t offset = 0);
  /// Where results that nobody wants go.
  Ref sink();
  /// The address of a variable or parameter as a 64-bit (or shared: 32-bit) array; kNoRef if the
  /// name is unknown.
  Ref symbol(const std::string& name, int64_t offset, int width);
  /// The space of a parameter or .param variable: those of the entry, or of an inlined call.
  bool is_entry_parameter(const std::string& name) const;
  int label(const std::string& name) const;
  const Function& function() const { return function_; }
  Program& program() { return *program_; }

 private:
  Ref allocate(int bytes);

  const ModuleData& module_;
  const Function& function_;
  Program* program_;
  std::vector<Ref> register_refs_;
  std::unordered_map<uint64_t, Ref> constants_[65];
  std::map<std::pair<int, uint64_t>, Ref> specials_;
  std::unordered_map<std::string, uint64_t> shared_offsets_;
  std::unordered_map<std::string, uint64_t> local_offsets_;
  Ref sink_ = kNoRef;
};

class Builder {
 public:
  Builder(Layout& layout, const Instruction& instruction);

  const std::string& name() const { return instruction_.parts[0]; }
  const Instruction& instruction() const { return instruction_; }
  Layout& layout() { return layout_; }

  /// True, and the modifier is used up, if the opcode has it.
  bool take(const std::string& modifier);
  /// The first of the modifiers the opcode has, or "".
  std::string take_any(const std::vector<std::string>& modifiers);
  /// The next type of the opcode, from the left.
  Type take_type();
  bool all_taken() const;

  size_t operand_count() const { return instruction_.operands.size(); }
  const Operand& operand(size_t i) const;
  /// A source of exactly the type's width: register, immediate, special register or symbol.
  Ref in(size_t i, Type type) { return in(operand(i), type); }
  Ref in(const Operand& operand, Type type);
  Ref out(size_t i, Type type) { return out(operand(i), type); }
  Ref out(const Operand& operand, Type type);
  /// A source or result whose register may be wider than `type`; tells the width in bits.
  Ref in_wide(const Operand& operand, Type type, int* bits);
  Ref out_wide(const Operand& operand, Type type, int* bits);
  /// An immediate operand's value.
  uint64_t immediate(size_t i) const;
  /// Sets operand[slot] to the address's base and adds its offset to `immediate`.
  void address(size_t i, size_t slot, Space space);

  [[noreturn]] void unsupported() const;

  Op op;

 private:
  Layout& layout_;
  const Instruction& instruction_;
  std::vector<bool> taken_;
};

// Each returns false if the instruction is not of its family, and fills in builder.op if it is.
bool decode_move(Builder& b);     // mov selp setp set cvta
bool decode_integer(Builder& b);  // arithmetic and bits
bool decode_float(Builder& b);    // f32, f64
bool decode_half(Builder& b);     // f16, bf16, packed pairs
bool decode_convert(Builder& b);  // cvt
bool decode_memory(Builder& b);   // ld st prefetch
bool decode_async(Builder& b);    // cp.async
bool decode_warp(Builder& b);     // shfl vote match redux activemask bar.warp
bool decode_matrix(Builder& b);   // ldmatrix movmatrix mma
bool decode_control(Builder& b);  // bra ret bar trap membar

}  // namespace rillkv::ptx
