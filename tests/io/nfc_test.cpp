#include "src/io/tokenizer/nfc.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>

#include "src/io/tokenizer/nfc_tables.h"
#include "src/io/utf8.h"

namespace rillkv::io {
namespace {

std::string text_of(std::u32string_view codes) {
  std::string text;
  for (const char32_t code : codes) append_utf8(text, code);
  return text;
}

// Each row is a rule of Unicode Standard Annex 15.
TEST(Nfc, FollowsTheAnnex) {
  const std::pair<std::u32string_view, std::u32string_view> cases[] = {
      {U"", U""},
      {U"plain \u00e9", U"plain \u00e9"},
      {U"e\u0301", U"\u00e9"},                         // composes
      {U"\u212b", U"\u00c5"},                          // a singleton decomposes for good
      {U"q\u0307\u0323", U"q\u0323\u0307"},            // marks are ordered by class
      {U"e\u0323\u0301", U"\u1eb9\u0301"},             // the first mark composes
      {U"a\u0301\u0301", U"\u00e1\u0301"},             // the second of a class is blocked
      {U"o\u0302\u0300", U"\u1ed3"},                   // twice
      {U"\u0958", U"\u0915\u093c"},                    // composition exclusion
      {U"\u1100\u1161\u11a8", U"\uac01"},              // Hangul
      {U"\uac00\u11a8", U"\uac01"},                    // a syllable and a trail
      {U"\uac01\u11a8", U"\uac01\u11a8"},              // not two trails
      {U"\u1100\u0301\u1161", U"\u1100\u0301\u1161"},  // a mark blocks starters
      {U"\u0301a", U"\u0301a"},                        // a mark without a starter
      {U"\U0001d15e", U"\U0001d157\U0001d165"},        // beyond the basic plane
      {U"\u0344", U"\u0308\u0301"},                    // a mark that decomposes to two
  };
  for (const auto& [before, after] : cases) {
    EXPECT_EQ(normalize_nfc(text_of(before)), text_of(after)) << text_of(before);
  }
}

TEST(Nfc, IsIdempotentForEveryCharacter) {
  for (char32_t code = 0; code <= 0x10ffff; ++code) {
    if (code >= 0xd800 && code < 0xe000) continue;
    const std::string once = normalize_nfc(text_of({&code, 1}));
    ASSERT_EQ(normalize_nfc(once), once) << static_cast<uint32_t>(code);
  }
}

TEST(Nfc, TablesAreSorted) {
  for (size_t i = 1; i < kDecompositionCount; ++i) {
    ASSERT_LT(kDecompositions[i - 1].code, kDecompositions[i].code);
  }
  for (size_t i = 1; i < kCombiningRangeCount; ++i) {
    ASSERT_LT(kCombiningRanges[i - 1].last, kCombiningRanges[i].first);
  }
}

}  // namespace
}  // namespace rillkv::io
