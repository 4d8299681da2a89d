// Runs a program of the project and keeps what it said.
#pragma once

#include <string>
#include <vector>

namespace rillkv::testing {

struct ProgramResult {
  int exit_code = -1;  ///< 128 + signal if a signal ended it.
  std::string out, err;
};

/// Runs build/.../bin/NAME. `interrupt_when` not empty: sends SIGINT as soon as that file exists
/// and is not empty.
ProgramResult run_program(const std::string& name, const std::vector<std::string>& arguments,
                          const std::string& interrupt_when = "");

}  // namespace rillkv::testing
