// The message of the rillkv::Error that a call throws.
#pragma once

#include <string>
#include <utility>

#include "rillkv/error.h"

namespace rillkv::testing {

/// Empty if nothing was thrown. Other exceptions pass.
template <typename Call>
std::string error_of(Call&& call) {
  try {
    std::forward<Call>(call)();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace rillkv::testing
