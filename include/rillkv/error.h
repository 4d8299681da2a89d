// Errors of the public interface.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace rillkv {

/// A caller's mistake or unusable input: one line that names what was expected and what was found.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A wrong option or configuration value; command-line programs exit with 2 for it instead of 1.
class UsageError : public Error {
 public:
  using Error::Error;
};

/// Concatenates its arguments with operator<<.
template <typename... Args>
std::string str_cat(const Args&... args) {
  std::ostringstream out;
  (out << ... << args);
  return out.str();
}

}  // namespace rillkv

/// Throws rillkv::Error with the concatenated message unless `condition` holds.
#define RILLKV_CHECK(condition, ...)                         \
  do {                                                       \
    if (!(condition)) {                                      \
      throw ::rillkv::Error(::rillkv::str_cat(__VA_ARGS__)); \
    }                                                        \
  } while (false)
