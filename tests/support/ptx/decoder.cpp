#include <algorithm>
#include <cstring>
#include <set>

#include "tests/support/ptx/builder.h"
#include "tests/support/ptx/executor.h"
#include "tests/support/ptx/module_data.h"

namespace rillkv::ptx {
namespace {

constexpr size_t kMaxSites = 65536;  // Cell stores them in 16 bits

uint64_t align_to(uint64_t value, uint64_t alignment) {
  return (value + alignment - 1) / alignment * alignment;
}

void collect_symbols(const Operand& operand, std::set<std::string>* names) {
  if (operand.kind == Operand::Kind::kSymbol) names->insert(operand.name);
  for (const Operand& element : operand.elements) collect_symbols(element, names);
}

SpecialValue::Kind special_kind(const std::string& name) {
  using Kind = SpecialValue::Kind;
  static const std::map<std::string, Kind> kNames = {
      {"%tid.x", Kind::kTidX},
      {"%tid.y", Kind::kTidY},
      {"%tid.z", Kind::kTidZ},
      {"%ntid.x", Kind::kNtidX},
      {"%ntid.y", Kind::kNtidY},
      {"%ntid.z", Kind::kNtidZ},
      {"%ctaid.x", Kind::kCtaidX},
      {"%ctaid.y", Kind::kCtaidY},
      {"%ctaid.z", Kind::kCtaidZ},
      {"%nctaid.x", Kind::kNctaidX},
      {"%nctaid.y", Kind::kNctaidY},
      {"%nctaid.z", Kind::kNctaidZ},
      {"%laneid", Kind::kLaneId},
      {"%warpid", Kind::kWarpId},
      {"%nwarpid", Kind::kNwarpId},
      {"%lanemask_eq", Kind::kLaneMaskEq},
      {"%lanemask_lt", Kind::kLaneMaskLt},
      {"%lanemask_le", Kind::kLaneMaskLe},
      {"%lanemask_gt", Kind::kLaneMaskGt},
      {"%lanemask_ge", Kind::kLaneMaskGe},
      {"%dynamic_smem_size", Kind::kDynamicSharedBytes},
      {"%total_smem_size", Kind::kTotalSharedBytes},
  };
  const auto found = kNames.find(name);
  return found == kNames.end() ? Kind::kUnknown : found->second;
}

}  // namespace

// ---- layout ----

Layout::Layout(const ModuleData& module, const Function& entry, Program* program)
    : module_(module), function_(entry), program_(program) {
  for (const Register& r : entry.registers) {
    register_refs_.push_back(allocate(r.type.kind == 'p' ? 4 : r.type.bits / 8 * kLanes));
  }
  std::set<std::string> used;
  for (const Instruction& instruction : entry.code) {
    for (const Operand& operand : instruction.operands) collect_symbols(operand, &used);
  }
  uint64_t shared = 0;
  uint64_t local = 0;
  const auto place = [&](const Variable& v) {
    if (v.space == Space::kShared && !v.dynamic && used.count(v.name) != 0) {
      shared = align_to(shared, v.align);
      shared_offsets_[v.name] = shared;
      shared += v.bytes;
    } else if (v.space == Space::kLocal || v.space == Space::kParam) {
      local = align_to(local, v.align);
      local_offsets_[v.name] = local;
      local += v.bytes;
    }
  };
  for (const Variable& v : module.tree.variables) place(v);
  for (const Variable& v : entry.variables) place(v);
  for (const Variable& v : module.tree.variables) {
    if (v.dynamic && used.count(v.name) != 0) {
      shared = align_to(shared, v.align);
      shared_offsets_[v.name] = shared;
    }
  }
  program->static_shared_bytes = shared;
  program->local_bytes = align_to(local, 16);
}

Ref Layout::allocate(int bytes) {
  const int size = static_cast<int>(align_to(static_cast<uint64_t>(bytes), bytes < 64 ? 4 : 64));
  const size_t at = align_to(program_->file_bytes, bytes < 64 ? 4 : 64);
  program_->file_bytes = at + static_cast<size_t>(size);
  return static_cast<Ref>(at);
}

Ref Layout::constant(uint64_t bits, int width) {
  if (width < 64) bits &= (uint64_t{1} << width) - 1;
  if (width == 1 && bits != 0) {  // a predicate is a mask of lanes
    bits = kAllLanes;
    width = 32;
  }
  const auto [found, inserted] = constants_[width].try_emplace(bits, 0);
  if (!inserted) return found->second;
  // Arrays start on cache lines within the pool; the pool's own alignment does not matter.
  const size_t at = program_->constants.size() * sizeof(uint64_t);
  program_->constants.resize(program_->constants.size() + kMaxArrayBytes / sizeof(uint64_t));
  char* array = reinterpret_cast<char*>(program_->constants.data()) + at;
  for (int lane = 0; lane < kLanes && width >= 8; ++lane) {
    std::memcpy(array + lane * (width / 8), &bits, static_cast<size_t>(width / 8));
  }
  found->second = ~static_cast<Ref>(at);
  return found->second;
}

Ref Layout::special(SpecialValue::Kind kind, uint64_t offset) {
  const auto [found, inserted] =
      specials_.try_emplace(std::make_pair(static_cast<int>(kind), offset), 0);
  if (inserted) {
    found->second = allocate(kMaxArrayBytes);
    program_->specials.push_back({kind, offset, found->second});
  }
  return found->second;
}

Ref Layout::sink() {
  if (sink_ == kNoRef) sink_ = allocate(kMaxArrayBytes);
  return sink_;
}

bool Layout::is_entry_parameter(const std::string& name) const {
  return std::any_of(function_.params.begin(), function_.params.end(),
                     [&](const Parameter& p) { return p.name == name; });
}

Ref Layout::symbol(const std::string& name, int64_t offset, int width) {
  const auto shared = shared_offsets_.find(name);
  if (shared != shared_offsets_.end()) {
    return constant(shared->second + static_cast<uint64_t>(offset), width);
  }
  if (width != 64) return kNoRef;
  const auto local = local_offsets_.find(name);
  if (local != local_offsets_.end()) {
    return special(SpecialValue::Kind::kLocalAddress,
                   local->second + static_cast<uint64_t>(offset));
  }
  for (const Parameter& p : function_.params) {
    if (p.name == name) {
      return special(SpecialValue::Kind::kParamAddress, p.offset + static_cast<uint64_t>(offset));
    }
  }
  const char* address = module_.memory->find(name);
  if (address == nullptr) return kNoRef;
  return constant(reinterpret_cast<uint64_t>(address) + static_cast<uint64_t>(offset), 64);
}

int Layout::label(const std::string& name) const {
  return static_cast<int>(function_.labels.at(name));
}

// ---- builder ----

Builder::Builder(Layout& layout, const Instruction& instruction)
    : layout_(layout), instruction_(instruction), taken_(instruction.parts.size(), false) {
  taken_[0] = true;
  if (instruction.guard >= 0) {
    op.guard = layout.register_ref(instruction.guard);
    op.guard_negated = instruction.guard_negated;
  }
}

bool Builder::take(const std::string& modifier) {
  for (size_t i = 1; i < taken_.size(); ++i) {
    if (!taken_[i] && instruction_.parts[i] == modifier) return taken_[i] = true;
  }
  return false;
}

std::string Builder::take_any(const std::vector<std::string>& modifiers) {
  for (const std::string& modifier : modifiers) {
    if (take(modifier)) return modifier;
  }
  return "";
}

Type Builder::take_type() {
  for (size_t i = 1; i < taken_.size(); ++i) {
    if (taken_[i]) continue;
    const Type type = parse_type(instruction_.parts[i]);
    if (type.valid()) {
      taken_[i] = true;
      return type;
    }
  }
  unsupported();
}

bool Builder::all_taken() const {
  return std::all_of(taken_.begin(), taken_.end(), [](bool taken) { return taken; });
}

void Builder::unsupported() const {
  const SourceLine& at = instruction_.source;
  throw ModuleError(layout_.program().source_name + ":" + std::to_string(at.ptx_line) +
                    ": unsupported instruction " + instruction_.opcode + " in " +
                    layout_.function().name);
}

const Operand& Builder::operand(size_t i) const {
  if (i >= instruction_.operands.size()) unsupported();
  return instruction_.operands[i];
}

Ref Builder::in_wide(const Operand& operand, Type type, int* bits) {
  *bits = type.bits;
  if (operand.negated) unsupported();
  switch (operand.kind) {
    case Operand::Kind::kRegister: {
      const Type declared = layout_.register_type(operand.index);
      if ((declared.kind == 'p') != (type.kind == 'p')) unsupported();
      *bits = declared.bits;
      return layout_.register_ref(operand.index);
    }
    case Operand::Kind::kImmediate: {
      uint64_t value = operand.bits;
      if (operand.is_float && operand.float_bits != type.bits) {
        if (type.bits != 64 || operand.float_bits != 32) unsupported();
        float narrow;
        std::memcpy(&narrow, &operand.bits, sizeof narrow);
        const double wide = narrow;
        std::memcpy(&value, &wide, sizeof wide);
      }
      *bits = std::max(type.bits, type.kind == 'p' ? 1 : 16);  // there are no 8-bit registers
      if (type.bits == 8 && type.kind == 's') value = static_cast<uint64_t>(int8_t(value));
      return layout_.constant(type.kind == 'p' ? value != 0 : value, *bits);
    }
    case Operand::Kind::kSpecial: {
      const SpecialValue::Kind kind = special_kind(operand.name);
      if (kind == SpecialValue::Kind::kUnknown || type.bits != 32) unsupported();
      return layout_.special(kind);
    }
    case Operand::Kind::kSymbol: {
      const Ref ref = layout_.symbol(operand.name, operand.offset, type.bits);
      if (ref == kNoRef) unsupported();
      return ref;
    }
    default:
      unsupported();
  }
}

Ref Builder::out_wide(const Operand& operand, Type type, int* bits) {
  *bits = std::max(type.bits, type.kind == 'p' ? 1 : 16);
  if (operand.kind == Operand::Kind::kSink) return layout_.sink();
  if (operand.kind != Operand::Kind::kRegister) unsupported();
  const Type declared = layout_.register_type(operand.index);
  if ((declared.kind == 'p') != (type.kind == 'p')) unsupported();
  *bits = declared.bits;
  return layout_.register_ref(operand.index);
}

Ref Builder::in(const Operand& operand, Type type) {
  int bits = 0;
  const Ref ref = in_wide(operand, type, &bits);
  if (bits != type.bits) unsupported();
  return ref;
}

Ref Builder::out(const Operand& operand, Type type) {
  int bits = 0;
  const Ref ref = out_wide(operand, type, &bits);
  if (bits != type.bits) unsupported();
  return ref;
}

uint64_t Builder::immediate(size_t i) const {
  if (operand(i).kind != Operand::Kind::kImmediate || operand(i).is_float) unsupported();
  return operand(i).bits;
}

void Builder::address(size_t i, size_t slot, Space space) {
  const Operand& address = operand(i);
  if (address.kind != Operand::Kind::kAddress) unsupported();
  const Operand& base = address.elements[0];
  op.immediate = address.offset;
  op.space = space;
  const Type wide{'u', 64};
  if (base.kind == Operand::Kind::kRegister && layout_.register_type(base.index).bits == 32) {
    if (space != Space::kShared) unsupported();
    op.narrow_address = true;
    op.operand[slot] = in(base, {'u', 32});
    return;
  }
  if (base.kind == Operand::Kind::kSymbol && space == Space::kParam &&
      !layout_.is_entry_parameter(base.name)) {
    op.space = Space::kLocal;  // arguments and results of an inlined call
  }
  op.operand[slot] = in(base, wide);
}

// ---- the whole entry ----

std::string Program::describe(int op) const {
  if (op < 0 || op >= static_cast<int>(ops.size())) return "?";
  const SourceLine& at = sources[static_cast<size_t>(op)];
  const auto file = files.find(at.file);
  std::string text;
  if (file != files.end() && at.line > 0) text = file->second + ":" + std::to_string(at.line) + " ";
  return text + "(" + source_name + ":" + std::to_string(at.ptx_line) + ") " +
         opcodes[static_cast<size_t>(op)];
}

std::shared_ptr<const Program> decode(const ModuleData& module, const Function& entry) {
  using Decoder = bool (*)(Builder&);
  static constexpr Decoder kDecoders[] = {decode_move,    decode_integer, decode_float, decode_half,
                                          decode_convert, decode_memory,  decode_async, decode_warp,
                                          decode_matrix,  decode_control};
  auto program = std::make_shared<Program>();
  program->name = entry.name;
  program->source_name = module.tree.name;
  program->files = module.tree.files;
  program->params = entry.params;
  program->param_bytes = entry.param_bytes();
  program->module_memory = module.memory;
  Layout layout(module, entry, program.get());
  for (const Instruction& instruction : entry.code) {
    Builder builder(layout, instruction);
    const bool known = std::any_of(std::begin(kDecoders), std::end(kDecoders),
                                   [&](Decoder decoder) { return decoder(builder); });
    if (!known || !builder.all_taken()) builder.unsupported();
    if (builder.op.site >= 0) {
      builder.op.site = static_cast<int32_t>(program->site_ops.size());
      program->site_ops.push_back(static_cast<int>(program->ops.size()));
    }
    program->ops.push_back(builder.op);
    program->sources.push_back(instruction.source);
    program->opcodes.push_back(instruction.opcode);
  }
  // Control may run off the end of a body, and labels may stand there.
  Op end;
  end.control = Control::kExit;
  program->ops.push_back(end);
  program->sources.push_back(entry.code.empty() ? SourceLine{} : entry.code.back().source);
  program->opcodes.push_back("end");
  if (program->site_ops.size() >= kMaxSites) {
    throw ModuleError(
        module.tree.name + ": " + entry.name + " has " + std::to_string(program->site_ops.size()) +
        " memory instructions, more than the executor's " + std::to_string(kMaxSites - 1));
  }
  return program;
}

}  // namespace rillkv::ptx
