// Records of a log or a file of predictions: where an error belongs, and reading them back. A
// person may have edited them.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "rillkv/error.h"

namespace rillkv::eval {

/// What `read` returns; where a key of the record is missing or of another type, throws Error that
/// names `where` and what the JSON library says of it.
template <typename Read>
auto read_record(const std::string& where, Read&& read) {
  try {
    return std::forward<Read>(read)();
  } catch (const nlohmann::json::exception& error) {
    throw Error(str_cat(where, ": unusable record: ", error.what()));
  }
}

/// What `work` does; an Error of it names `where`, as what it is (UsageError or not).
template <typename Work>
void named(const std::string& where, Work&& work) {
  try {
    std::forward<Work>(work)();
  } catch (const UsageError& error) {
    throw UsageError(str_cat(where, ": ", error.what()));
  } catch (const Error& error) {
    throw Error(str_cat(where, ": ", error.what()));
  }
}

}  // namespace rillkv::eval
