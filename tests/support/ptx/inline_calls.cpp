// Flattens calls: every call site receives its own copy of the callee, with renamed registers,
// variables and labels. Arguments travel in .param variables, which become local memory.
#include <unordered_set>

#include "tests/support/ptx/executor.h"
#include "tests/support/ptx/syntax.h"

namespace rillkv::ptx {
namespace {

using Names = std::unordered_map<std::string, std::string>;

class Inliner {
 public:
  Inliner(const SyntaxTree& tree, Function* out) : tree_(tree), out_(out) {}

  /// Appends `f` to the output. `names` maps its parameters to the caller's variables; `suffix`
  /// makes everything else unique; returns jump to `end_label` if it is not empty.
  void append(const Function& f, Names names, const std::string& suffix,
              const std::string& end_label) {
    if (!active_.insert(f.name).second) {
      throw ModuleError(tree_.name + ": unsupported recursion in " + f.name);
    }
    const int first_register = static_cast<int>(out_->registers.size());
    out_->registers.insert(out_->registers.end(), f.registers.begin(), f.registers.end());
    for (Variable v : f.variables) {
      names[v.name] = v.name + suffix;
      v.name += suffix;
      out_->variables.push_back(std::move(v));
    }
    for (const auto& [label, at] : f.labels) names[label] = label + suffix;
    for (const auto& [label, list] : f.targets) {
      names[label] = label + suffix;
      for (const std::string& target : list) {
        out_->targets[label + suffix].push_back(target + suffix);
      }
    }
    std::unordered_map<size_t, std::vector<std::string>> labels_at;
    for (const auto& [label, at] : f.labels) labels_at[at].push_back(names.at(label));

    for (size_t i = 0; i <= f.code.size(); ++i) {
      for (const std::string& label : labels_at[i]) out_->labels[label] = out_->code.size();
      if (i == f.code.size()) break;
      Instruction instruction = f.code[i];
      if (instruction.guard >= 0) instruction.guard += first_register;
      for (Operand& operand : instruction.operands) rename(&operand, names, first_register);
      if (instruction.parts[0] == "call") {
        call(instruction);
      } else if (instruction.parts[0] == "ret" && !end_label.empty()) {
        out_->code.push_back(branch(end_label, instruction));
      } else {
        out_->code.push_back(std::move(instruction));
      }
    }
    active_.erase(f.name);
  }

 private:
  static void rename(Operand* operand, const Names& names, int first_register) {
    if (operand->kind == Operand::Kind::kRegister) operand->index += first_register;
    if (operand->kind == Operand::Kind::kSymbol) {
      const auto found = names.find(operand->name);
      if (found != names.end()) operand->name = found->second;
    }
    for (Operand& element : operand->elements) rename(&element, names, first_register);
  }

  static Instruction branch(const std::string& label, const Instruction& at) {
    Instruction result;
    result.opcode = "bra";
    result.parts = {"bra"};
    result.operands.resize(1);
    result.operands[0].kind = Operand::Kind::kSymbol;
    result.operands[0].name = label;
    result.guard = at.guard;
    result.guard_negated = at.guard_negated;
    result.source = at.source;
    return result;
  }

  /// call [(results),] name [, (arguments)];
  void call(const Instruction& instruction) {
    const Operand* results = nullptr;
    const Operand* arguments = nullptr;
    std::string name;
    for (const Operand& operand : instruction.operands) {
      if (operand.kind == Operand::Kind::kSymbol && name.empty()) {
        name = operand.name;
      } else if (operand.kind == Operand::Kind::kList) {
        (name.empty() ? results : arguments) = &operand;
      }
    }
    if (name == "vprintf") return;
    if (name == "__assertfail") {
      Instruction trap = instruction;
      trap.opcode = "trap";
      trap.parts = {"trap"};
      trap.operands.clear();
      out_->code.push_back(std::move(trap));
      return;
    }
    const auto found = tree_.functions.find(name);
    const size_t argument_count = arguments == nullptr ? 0 : arguments->elements.size();
    const size_t result_count = results == nullptr ? 0 : results->elements.size();
    if (found == tree_.functions.end() || instruction.guard >= 0 ||
        found->second.params.size() != argument_count ||
        found->second.results.size() != result_count) {
      throw ModuleError(tree_.name + ":" + std::to_string(instruction.source.ptx_line) +
                        ": unsupported instruction " + instruction.opcode + " of '" + name + "'");
    }
    Names names;
    for (size_t i = 0; i < argument_count; ++i) {
      names[found->second.params[i].name] = arguments->elements[i].name;
    }
    for (size_t i = 0; i < result_count; ++i) {
      names[found->second.results[i].name] = results->elements[i].name;
    }
    const std::string suffix = "@" + std::to_string(++calls_);
    const std::string end_label = "$end" + suffix;
    append(found->second, std::move(names), suffix, end_label);
    out_->labels[end_label] = out_->code.size();
  }

  const SyntaxTree& tree_;
  Function* out_;
  std::unordered_set<std::string> active_;
  int calls_ = 0;
};

}  // namespace

Function inline_calls(const SyntaxTree& tree, const Function& entry) {
  Function result;
  result.name = entry.name;
  result.is_entry = entry.is_entry;
  result.params = entry.params;
  Inliner(tree, &result).append(entry, {}, "", "");
  return result;
}

}  // namespace rillkv::ptx
