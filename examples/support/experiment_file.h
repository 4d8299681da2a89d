// Experiment files: the options of the program `experiment` as JSON, so that a run can be kept,
// shared and repeated.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace rillkv::cli {

/// "--max_length=5" -> "--max-length=5" and "--model_name" -> "--model": the names the original
/// runner used. Values are left alone.
std::vector<std::string> normalize_arguments(int argc, const char* const* argv);

/// Replaces "--experiment FILE" by the file's options. A key is an option's name with '_' or '-';
/// lists are joined by commas, true is a flag, null and false are left out. Configuration keys, in
/// the file itself or in its object "set", take any JSON value and become --set options before all
/// others. What the command line also gives wins. Throws UsageError for a file that is no object of
/// such values.
std::vector<std::string> expand_experiment_file(const std::vector<std::string>& arguments);

}  // namespace rillkv::cli
