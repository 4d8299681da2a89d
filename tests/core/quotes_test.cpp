#include "rillkv/quotes.h"

#include <gtest/gtest.h>

namespace rillkv {
namespace {

TEST(Quotes, KeepAMessageOnOneLine) {
  EXPECT_EQ(in_quotes("plain"), "\"plain\"");
  EXPECT_EQ(in_quotes(std::string("a\n\0\x1b\x7f", 5)), "\"a\\x0a\\x00\\x1b\\x7f\"");
  EXPECT_EQ(in_quotes(std::string(200, 'x')), "\"" + std::string(120, 'x') + "...\"");
}

}  // namespace
}  // namespace rillkv
