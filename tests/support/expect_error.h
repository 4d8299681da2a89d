// Expecting one clear line.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "rillkv/error.h"

namespace rillkv::testing {

/// Runs `action`, which must throw rillkv::Error with a message of one line that contains every one
/// of `parts`.
inline void expect_error(const std::function<void()>& action,
                         const std::vector<std::string>& parts) {
  try {
    action();
  } catch (const Error& error) {
    const std::string message = error.what();
    EXPECT_EQ(message.find('\n'), message.npos) << message;
    for (const std::string& part : parts) {
      EXPECT_NE(message.find(part), message.npos) << message << "\nlacks: " << part;
    }
    return;
  } catch (const std::exception& other) {
    ADD_FAILURE() << "expected rillkv::Error, found: " << other.what();
    return;
  }
  ADD_FAILURE() << "nothing was thrown";
}

}  // namespace rillkv::testing
