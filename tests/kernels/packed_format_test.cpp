// The offsets and widths of kernels/packed_format.h and planes.h, against plain counting.
#include "kernels/packed_format.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include "kernels/planes.h"

namespace rillkv::format {
namespace {

/// Planes of the kinds of 4, 2 and 1 bits, as the table on top of packed_format.h lists them.
constexpr int kKinds[9][3] = {{},        {0, 0, 1}, {0, 1, 0}, {0, 1, 1}, {1, 0, 0},
                              {1, 0, 1}, {1, 1, 0}, {1, 1, 1}, {2, 0, 0}};

std::vector<uint8_t> random_widths(int head_dim, unsigned seed) {
  std::mt19937 random(seed);
  std::uniform_int_distribution<int> width(kMinWidth, kMaxWidth);
  std::vector<uint8_t> pairs;
  for (int p = 0; p < head_dim / 2; ++p) {
    const int first = width(random), second = width(random);
    pairs.push_back(pair_widths(first, second));
    EXPECT_EQ(first_width(pairs.back()), first);
    EXPECT_EQ(second_width(pairs.back()), second);
  }
  return pairs;
}

TEST(PackedFormat, PlanesOfAWidthAddUpToIt) {
  for (int w = kMinWidth; w <= kMaxWidth; ++w) {
    EXPECT_EQ(nibble_planes(w), kKinds[w][0]) << w;
    EXPECT_EQ(crumb_planes(w), kKinds[w][1]) << w;
    EXPECT_EQ(bit_planes(w), kKinds[w][2]) << w;
    EXPECT_EQ(4 * nibble_planes(w) + 2 * crumb_planes(w) + bit_planes(w), w);
    EXPECT_EQ(codes_bytes(128, w), 16u * static_cast<size_t>(w)) << w;
  }
}

// Sums over eight pairs at a time: head_dims on both sides of a multiple of 16.
TEST(PackedFormat, PlanesOfABlockAreThoseOfItsChannels) {
  for (int head_dim : {2, 14, 16, 18, 64, 80, 128, 254, 256, 512}) {
    const auto widths = random_widths(head_dim, static_cast<unsigned>(head_dim));
    uint32_t kinds[3] = {};
    int sum = 0;
    for (int c = 0; c < head_dim; ++c) {
      const int w = channel_width(widths.data(), c, head_dim);
      sum += w;
      for (int kind = 0; kind < 3; ++kind) kinds[kind] += static_cast<uint32_t>(kKinds[w][kind]);
    }
    const PlaneCounts all = planes_of_block(widths.data(), head_dim);
    EXPECT_EQ(all.nibbles, kinds[0]) << head_dim;
    EXPECT_EQ(all.crumbs, kinds[1]) << head_dim;
    EXPECT_EQ(all.bits, kinds[2]) << head_dim;
    EXPECT_EQ(width_sum(widths.data(), head_dim), sum) << head_dim;
  }
}

// Laid out one after the other, the planes of all channels fill the codes without a gap.
TEST(PackedFormat, ChannelPlanesFollowOneAnother) {
  for (int block_size : {32, 64, 128, 256}) {
    constexpr int kHeadDim = 80;
    const auto widths = random_widths(kHeadDim, 7);
    std::vector<uint8_t> block(
        channel_block_bytes(kHeadDim, block_size, false, width_sum(widths.data(), kHeadDim)));
    std::copy(widths.begin(), widths.end(),
              block.begin() + static_cast<std::ptrdiff_t>(channel_widths_offset(kHeadDim, false)));
    const auto planes = channel_planes(block.data(), block_size, kHeadDim, false);
    const uint8_t* expected[3] = {block.data() + channel_codes_offset(kHeadDim, false)};
    Planes<uint8_t> at = planes.begin;
    for (int kind = 0; kind < 3; ++kind) {
      const size_t plane = static_cast<size_t>(block_size) / (kind == 0 ? 2 : kind == 1 ? 4 : 8);
      if (kind > 0) expected[kind] = expected[kind - 1];
      const uint8_t* begin = kind == 0 ? at.nibbles : kind == 1 ? at.crumbs : at.bits;
      EXPECT_EQ(begin, expected[kind]) << block_size << " kind " << kind;
      for (int c = 0; c < kHeadDim; ++c) {
        expected[kind] +=
            plane * static_cast<size_t>(kKinds[channel_width(widths.data(), c, kHeadDim)][kind]);
      }
    }
    EXPECT_EQ(planes.end, expected[2]) << block_size;
    for (int i = 0; i < kHeadDim; ++i) {
      advance(at, block_size, channel_width(widths.data(), channel_at(i, kHeadDim), kHeadDim));
    }
    EXPECT_EQ(at.nibbles, expected[0]);
    EXPECT_EQ(at.crumbs, expected[1]);
    EXPECT_EQ(at.bits, expected[2]);
  }
}

TEST(PackedFormat, SinksTakeWhatTheyHold) {
  for (int head_dim : {2, 64, 80, 128}) {
    for (int tokens : {1, 8, 33}) {
      for (int bits = 2; bits <= 8; ++bits) {
        EXPECT_EQ(sink_block_bytes(tokens, head_dim, bits),
                  token_block_bytes(tokens, head_dim, 1, true, bits));
      }
      EXPECT_EQ(sink_row_offset(tokens, head_dim), 2u * unsigned(tokens) * unsigned(head_dim));
      const size_t bytes = sink_block_bytes(tokens, head_dim, kRowBits);
      EXPECT_EQ(bytes % kAlignment, 0u);
      EXPECT_GE(bytes, sink_row_offset(tokens, head_dim));
      EXPECT_LT(bytes, sink_row_offset(tokens, head_dim) + kAlignment);
    }
  }
}

TEST(PackedFormat, RowsOfATokenBlockFollowOneAnother) {
  for (int width = kMinWidth; width <= kMaxWidth; ++width) {
    for (int head_dim : {64, 80, 128}) {
      constexpr int kRows = 32;
      std::vector<uint8_t> block(token_block_bytes(kRows, head_dim, 2, false, width));
      Planes<uint8_t> at = token_planes(block.data(), kRows, 0, head_dim, 2, false, width);
      EXPECT_EQ(at.nibbles, block.data() + token_codes_offset(kRows, 2, false));
      for (int row = 0; row < kRows; ++row, advance(at, head_dim, width)) {
        const auto here = token_planes(block.data(), kRows, row, head_dim, 2, false, width);
        EXPECT_EQ(here.nibbles, at.nibbles) << width << " row " << row;
        EXPECT_EQ(here.crumbs, at.crumbs) << width << " row " << row;
        EXPECT_EQ(here.bits, at.bits) << width << " row " << row;
      }
      const size_t end = static_cast<size_t>(at.bits - block.data());
      EXPECT_EQ(align_up(end), block.size()) << width << " " << head_dim;
    }
  }
}

TEST(PackedFormatDeathTest, BoundsAreAssertedInDebugBuilds) {
#ifdef NDEBUG
  GTEST_SKIP() << "assertions are off in this build: build/debug has them";
#else
  const uint8_t widths[2] = {pair_widths(4, 4), pair_widths(4, 4)};
  EXPECT_DEATH(pair_widths(0, 4), "first");
  EXPECT_DEATH(planes_of(9), "width");
  EXPECT_DEATH(channel_width(widths, 4, 4), "channel");
  EXPECT_DEATH(plane_offsets({2, 0, 0}, {1, 0, 0}, 128), "nibbles");
#endif
}

}  // namespace
}  // namespace rillkv::format
