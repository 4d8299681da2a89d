// A parsed module with its module-scope variables and decoded entries.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "tests/support/ptx/program.h"
#include "tests/support/ptx/syntax.h"

namespace rillkv::ptx {

/// Variables of .global and .const, in registered memory. They keep their values between launches,
/// as on a device.
class ModuleMemory {
 public:
  explicit ModuleMemory(const std::vector<Variable>& variables);
  ~ModuleMemory();
  ModuleMemory(const ModuleMemory&) = delete;
  ModuleMemory& operator=(const ModuleMemory&) = delete;
  /// Null if there is no such variable.
  const char* find(const std::string& name) const;

 private:
  std::map<std::string, char*> addresses_;
};

struct ModuleData {
  explicit ModuleData(SyntaxTree parsed)
      : tree(std::move(parsed)), memory(std::make_shared<ModuleMemory>(tree.variables)) {}
  SyntaxTree tree;
  std::shared_ptr<ModuleMemory> memory;
  std::mutex mutex;  // of programs
  std::map<std::string, std::shared_ptr<const Program>> programs;
};

}  // namespace rillkv::ptx
