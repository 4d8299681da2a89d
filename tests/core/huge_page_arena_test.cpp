#include "core/huge_page_arena.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

namespace rillkv {
namespace {

TEST(HugePageArenaTest, PiecesFollowEachOtherAndAreZero) {
  HugePageArena arena;
  const at::Tensor a = arena.take({3, 5}, at::kFloat), b = arena.take({7}, at::kByte),
                   c = arena.take({65}, at::kByte), d = arena.take({1}, at::kLong);
  const auto* first = static_cast<const uint8_t*>(a.const_data_ptr());
  EXPECT_EQ(reinterpret_cast<uintptr_t>(first) % 64, 0u);
  EXPECT_EQ(static_cast<const uint8_t*>(b.const_data_ptr()) - first, 64);
  EXPECT_EQ(static_cast<const uint8_t*>(c.const_data_ptr()) - first, 128);
  EXPECT_EQ(static_cast<const uint8_t*>(d.const_data_ptr()) - first, 256);
  for (const at::Tensor& x : {a, b, c, d}) EXPECT_EQ(x.count_nonzero().item<int64_t>(), 0);
  EXPECT_EQ(a.sizes(), at::IntArrayRef({3, 5}));
}

// 100 MB: over a region's end.
TEST(HugePageArenaTest, WhatWasWrittenStays) {
  HugePageArena arena;
  std::vector<at::Tensor> pieces;
  const int64_t words = 37'000;
  for (int64_t i = 0; i < 340; ++i) {
    pieces.push_back(arena.take({words}, at::kLong));
    EXPECT_EQ(pieces.back().count_nonzero().item<int64_t>(), 0);
    pieces.back().copy_(at::arange(words, at::kLong) + i * words);
  }
  for (int64_t i = 0; i < 340; ++i) {
    EXPECT_TRUE(pieces[i].equal(at::arange(words, at::kLong) + i * words)) << i;
  }
}

TEST(HugePageArenaTest, LargerThanARegion) {
  HugePageArena arena;
  const at::Tensor before = arena.take({64}, at::kByte).fill_(1);
  const at::Tensor large = arena.take({80, 1 << 20}, at::kByte);
  large.fill_(2);
  const at::Tensor after = arena.take({64}, at::kByte).fill_(3);
  EXPECT_TRUE(before.eq(1).all().item<bool>());
  EXPECT_TRUE(large.eq(2).all().item<bool>());
  EXPECT_TRUE(after.eq(3).all().item<bool>());
}

TEST(HugePageArenaTest, PiecesOutliveTheArena) {
  at::Tensor piece;
  {
    HugePageArena arena;
    piece = arena.take({1000}, at::kInt).fill_(7);
    arena.clear();
    // A fresh region: nothing of the old one comes back.
    EXPECT_EQ(arena.take({1000}, at::kInt).count_nonzero().item<int64_t>(), 0);
  }
  EXPECT_TRUE(piece.eq(7).all().item<bool>());
}

}  // namespace
}  // namespace rillkv
