// RotationTable against cosines and sines of its own, above all its window of rows: what it keeps,
// forgets and makes anew as a sequence grows, jumps and starts again.
#include "core/rotation_table.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace rillkv {
namespace {

constexpr int64_t kSinks = 8, kBlockSize = 32;

/// LLaMA's frequencies and one above them: angles of all sizes, none a simple fraction of pi.
std::vector<double> frequencies() {
  std::vector<double> result = {1.9};
  for (int i = 0; i < 16; ++i) result.push_back(std::pow(5e5, -i / 16.0));
  return result;
}

/// Against the rotation by position * frequency in extended precision. A double holds the angle to
/// 2^-53 of itself, cosines change by no more than their angle does and are good to 2^-53, and fp32
/// rounds what is at most 1 by at most 2^-25.
void expect_rotation(float cos, float sin, int64_t position, double frequency) {
  const long double angle = static_cast<long double>(position) * frequency;
  const double tolerance =
      std::ldexp(1.0, -25) + std::ldexp(static_cast<double>(angle), -53) + std::ldexp(1.0, -53);
  ASSERT_TRUE(std::fabs(cos - static_cast<double>(std::cos(angle))) <= tolerance)
      << "cos of " << position << " * " << frequency << ": " << cos;
  ASSERT_TRUE(std::fabs(sin - static_cast<double>(std::sin(angle))) <= tolerance)
      << "sin of " << position << " * " << frequency << ": " << sin;
}

void expect_rows(const float* cos, const float* sin, int64_t first, int64_t count) {
  const std::vector<double> f = frequencies();
  for (int64_t row = 0; row < count; ++row) {
    for (size_t p = 0; p < f.size(); ++p) {
      const size_t at = static_cast<size_t>(row) * f.size() + p;
      expect_rotation(cos[at], sin[at], first + row, f[p]);
      if (testing::Test::HasFatalFailure()) return;
    }
  }
}

class RotationTableTest : public testing::Test {
 protected:
  void expect(int64_t first, int64_t count) {
    SCOPED_TRACE(testing::Message() << "rows " << first << ", " << count);
    const RotationTable::Rows rows = table_.rows(first, count);
    expect_rows(rows.cos, rows.sin, first, count);
  }

  RotationTable table_{frequencies(), kSinks, kBlockSize};
};

TEST_F(RotationTableTest, SinksBlocksAndBlockTables) {
  expect_rows(table_.sink_cos(), table_.sink_sin(), 0, kSinks);
  const std::vector<double> f = frequencies();
  for (const int64_t count : {int64_t{1}, int64_t{3}, int64_t{2}, int64_t{200}}) {  // grows, stays
    const float* const* blocks = table_.blocks(count);
    for (int64_t n = 0; n < count; ++n) {
      expect_rows(blocks[n], blocks[n] + f.size(), kSinks + n * kBlockSize, 1);
    }
  }
  const auto tables = table_.in_block();  // pair-major
  for (size_t p = 0; p < f.size(); ++p) {
    for (int64_t j = 0; j < kBlockSize; ++j) {
      const size_t at = p * kBlockSize + static_cast<size_t>(j);
      expect_rotation(tables.in_block_cos[at], tables.in_block_sin[at], j, f[p]);
      if (HasFatalFailure()) return;
    }
  }
}

// What the kernels got of a block stays where it is when later blocks are added.
TEST_F(RotationTableTest, ABlocksRotationNeverMoves) {
  const float* first = table_.blocks(1)[0];
  EXPECT_EQ(table_.blocks(1000)[0], first);
}

// As a cache asks: chunks from the tail's first token, every layer the same, then token by token.
// The tail starts at the last block's end, so the window slides by blocks.
TEST_F(RotationTableTest, RowsAlongPrefillAndDecode) {
  int64_t length = 0;
  const auto step = [&](int64_t tokens) {
    const int64_t sealed = std::max<int64_t>(length - kSinks, 0) / kBlockSize * kBlockSize;
    const int64_t first = length < kSinks ? length : kSinks + sealed;
    for (int layer = 0; layer < 3; ++layer) expect(first, length + tokens - first);
    length += tokens;
  };
  for (const int64_t tokens : {3, 100, 100, 7, 256, 1}) {
    step(tokens);
    if (HasFatalFailure()) return;
  }
  for (int i = 0; i < 300 && !HasFatalFailure(); ++i) step(1);
}

TEST_F(RotationTableTest, RowsAfterJumpsOfEveryKind) {
  const struct {
    int64_t first, count;
  } calls[] = {
      {0, 10},        {0, 10},       {5, 10},  // within, and past the end of what is there
      {15, 4},                                 // exactly at its end
      {40, 2},                                 // a gap
      {39, 5},                                 // before its first row
      {39, 200},      {39 + 33, 1},            // a window that may stay
      {39 + 34, 1},                            // and one that slides
      {72, 3},                                 // before the rows that slid away
      {0, 1},         {0, 0},                  // a new sequence; nothing
      {1000000, 3},   {1000002, 40},           // far out, where single precision would show
      {1000036, 300},
  };
  for (const auto& [first, count] : calls) {
    expect(first, count);
    if (HasFatalFailure()) return;
  }
}

}  // namespace
}  // namespace rillkv
