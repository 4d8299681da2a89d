// Reading back what a log or a file of predictions holds. A person may have edited it.
#pragma once

#include <cmath>
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

/// A figure of a record: what was not finite had been stored as null.
inline double figure(const nlohmann::json& record, const char* key) {
  const nlohmann::json& value = record.at(key);
  return value.is_null() ? std::nan("") : value.get<double>();
}

}  // namespace rillkv::eval
