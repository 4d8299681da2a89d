// The bf16 linear layers of every instruction set that has them, against double.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <random>

#include "tests/kernels/isa_fixture.h"

namespace rillkv {
namespace {

using kernels::cpu::kLinearPanel;
using kernels::cpu::LinearParams;
using test::GuardedBuffer;

class LinearKernels : public test::EveryIsa {
 protected:
  void SetUp() override {
    EveryIsa::SetUp();
    if (IsSkipped()) return;
    ASSERT_EQ(isa().linear == nullptr, isa().pack_linear == nullptr);
    if (isa().linear == nullptr) {
      // Its LinearImpl multiplies with Torch; there is nothing of ours to test.
      GTEST_SKIP() << isa().name << " has no linear kernel";
    }
  }
};

RILLKV_INSTANTIATE_FOR_EVERY_ARITHMETIC(LinearKernels);

struct Case {
  int64_t rows, in, out;
  bool bias, out_float32;
};

void PrintTo(const Case& c, std::ostream* stream) {
  *stream << c.rows << " rows, " << c.in << " -> " << c.out << (c.bias ? ", bias" : "")
          << (c.out_float32 ? ", float32" : ", bf16");
}

/// bf16 numbers and the same in double.
struct Numbers {
  Numbers(int64_t count, uint32_t seed) : bits(static_cast<size_t>(count)), values(bits.size()) {
    std::mt19937 random(seed);
    std::normal_distribution<double> normal;
    for (size_t i = 0; i < bits.size(); ++i) {
      test::store_element(normal(random), kernels::Dtype::kBFloat16, &bits[i]);
      values[i] = reference::bfloat16_value(bits[i]);
    }
  }
  std::vector<uint16_t> bits;
  std::vector<double> values;
};

struct Oracle {
  double exact = 0, magnitude = 0;  // sum of the products, and of their sizes
  float plain = 0;                  // what a loop in float32 makes of it
};

Oracle oracle(const Numbers& x, const Numbers& w, const Numbers& b, const Case& c, int64_t row,
              int64_t column) {
  Oracle o;
  for (int64_t k = 0; k < c.in; ++k) {
    const double product = x.values[row * c.in + k] * w.values[column * c.in + k];  // exact
    o.exact += product;
    o.magnitude += std::abs(product);
    o.plain += static_cast<float>(product);  // 16 significant bits: exact too
  }
  if (c.bias) {
    o.exact += b.values[column];
    o.magnitude += std::abs(b.values[column]);
    o.plain += static_cast<float>(b.values[column]);
  }
  return o;
}

/// `bytes` bytes whose end is the end of what may be read: a page without access follows.
class BeforeGap {
 public:
  explicit BeforeGap(size_t bytes) {
    const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t used = (bytes + page - 1) / page * page;
    mapped_ = used + page;
    base_ = static_cast<uint8_t*>(
        mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (base_ == MAP_FAILED || mprotect(base_ + used, page, PROT_NONE) != 0) std::abort();
    data_ = base_ + used - bytes;
  }
  ~BeforeGap() { munmap(base_, mapped_); }
  BeforeGap(const BeforeGap&) = delete;
  BeforeGap& operator=(const BeforeGap&) = delete;
  uint8_t* data() { return data_; }

 private:
  size_t mapped_ = 0;
  uint8_t *base_ = nullptr, *data_ = nullptr;
};

/// Multiplies as threads do it: runs of panels, and of `row_run` rows.
std::vector<uint8_t> multiply(const kernels::cpu::KernelTable& isa, const Case& c,
                              const std::vector<uint16_t>& x, const std::vector<uint16_t>& w,
                              const std::vector<uint16_t>& b, int64_t row_run = 1 << 20) {
  const int64_t panels = (c.out + kLinearPanel - 1) / kLinearPanel, middle = panels / 2;
  GuardedBuffer guarded(static_cast<size_t>(panels * c.in * kLinearPanel * 2));
  isa.pack_linear(w.data(), c.out, c.in, 0, middle, guarded.data());
  isa.pack_linear(w.data(), c.out, c.in, middle, panels, guarded.data());
  EXPECT_TRUE(guarded.intact());
  BeforeGap packed(guarded.size()), input(x.size() * 2), bias(b.size() * 2);
  std::memcpy(packed.data(), guarded.data(), guarded.size());
  std::copy_n(x.data(), x.size(), reinterpret_cast<uint16_t*>(input.data()));
  std::copy_n(b.data(), b.size(), reinterpret_cast<uint16_t*>(bias.data()));

  // All that is written before it is read: NaN.
  GuardedBuffer out(static_cast<size_t>(c.rows * c.out) * (c.out_float32 ? 4 : 2), 0xff);
  LinearParams params;
  params.x = input.data();
  params.packed = packed.data();
  params.bias = c.bias ? bias.data() : nullptr;
  params.out = out.data();
  params.out_float32 = c.out_float32;
  params.rows = c.rows;
  params.in_features = c.in;
  params.out_features = c.out;
  const int64_t first = isa.first_tiled_row(params);
  EXPECT_TRUE(first >= 0 && first <= c.rows) << first;
  GuardedBuffer tiles(kernels::cpu::linear_tiles_bytes(c.rows - first, c.in), 0xff);
  params.tiles = tiles.data();
  const int64_t second = std::min(c.rows, first + 16);
  isa.tile_rows(params, second, c.rows);
  isa.tile_rows(params, first, second);
  EXPECT_TRUE(tiles.intact());
  const size_t workspace_bytes = isa.linear_workspace_bytes(params);
  EXPECT_LE(workspace_bytes, size_t{1} << 20);
  for (int64_t row = 0; row < c.rows; row += row_run) {
    const int64_t end = std::min(c.rows, row + row_run);
    for (const auto& [begin_panel, end_panel] : {std::pair(middle, panels), {int64_t{0}, middle}}) {
      GuardedBuffer workspace(workspace_bytes, 0xff);
      isa.linear(params, begin_panel, end_panel, row, end, workspace.data());
      EXPECT_TRUE(workspace.intact());
    }
  }
  EXPECT_TRUE(out.intact());
  return out.bytes();
}

void check(const kernels::cpu::KernelTable& isa, const Case& c, int64_t row_run = 1 << 20) {
  SCOPED_TRACE(isa.name + (", " + ::testing::PrintToString(c)));
  const Numbers x(c.rows * c.in, 1), w(c.out * c.in, 2), b(c.out, 3);
  const size_t bytes = c.out_float32 ? 4 : 2;
  const std::vector<uint8_t> out = multiply(isa, c, x.bits, w.bits, b.bits, row_run);

  const auto dtype = c.out_float32 ? kernels::Dtype::kFloat32 : kernels::Dtype::kBFloat16;
  double squares = 0, plain_squares = 0;
  for (int64_t row = 0; row < c.rows; ++row) {
    for (int64_t column = 0; column < c.out; ++column) {
      const Oracle o = oracle(x, w, b, c, row, column);
      const double got =
          test::load_element(dtype, out.data() + static_cast<size_t>(row * c.out + column) * bytes);
      // Products of bf16 are exact in float32. In whatever order, each of at most in + 1 additions
      // rounds a partial sum by 2^-24 of its size, which is at most that of all products together;
      // 16-bit output rounds once more, by half a unit of 8 significant bits: 2^-8 of its size.
      double allowed = static_cast<double>(c.in + 1) * 0x1p-24 * o.magnitude;
      if (!c.out_float32) allowed += 0x1p-8 * (std::abs(o.exact) + allowed);
      const double error = std::abs(got - o.exact);
      ASSERT_TRUE(error <= allowed) << "row " << row << ", output " << column << ": " << got
                                    << " for " << o.exact << ", allowed " << allowed;
      squares += error * error;
      plain_squares += std::pow(static_cast<double>(o.plain) - o.exact, 2);
    }
  }
  // That bound is the worst case. On the average a kernel must not lose more than twice what a
  // plain loop in float32 loses; over fewer outputs the average says little.
  if (c.out_float32 && c.rows * c.out >= 100) {
    EXPECT_LE(std::sqrt(squares), 2 * std::sqrt(plain_squares));
  }
}

// Rows around blocks of 12 (AVX-512), 16 and 32 (tiles); outputs around panels of 32; inputs around
// products of 32 and from one pair on. bias and out_float32 alternate, so that each meets each.
TEST_P(LinearKernels, EqualDoubleForAnyRows) {
  for (int64_t rows = 1; rows <= 40; ++rows) {
    check(isa(), {rows, rows % 3 == 0 ? 34 : 64, 33, rows % 2 == 0, rows % 4 < 2});
  }
  for (const int64_t rows : {63, 64, 65}) check(isa(), {rows, 96, 40, true, rows % 2 == 0});
}

TEST_P(LinearKernels, EqualDoubleForAnySize) {
  for (const int64_t in : {2, 32, 34, 62, 64, 130, 576}) {
    for (const int64_t out : {1, 31, 32, 33, 95, 100}) {
      for (const int64_t rows : {1, 3, 4, 17, 33}) {
        check(isa(), {rows, in, out, (in + out) % 2 == 0, (rows + out) % 2 == 0});
        check(isa(), {rows, in, out, (in + out) % 2 != 0, (rows + in / 2) % 2 == 0});
      }
    }
  }
}

// Inputs that are taken in parts, by either kernel, with parts of one length and not; rows 2 KB and
// 4 KB apart.
TEST_P(LinearKernels, EqualDoubleWhereDeep) {
  for (const int64_t in : {608, 1024, 1536, 2048, 2050, 4096}) {
    for (const int64_t rows : {1, 5, 16, 37}) {
      check(isa(), {rows, in, 33, in % 4 == 0, rows % 2 == 0});
      check(isa(), {rows, in, 100, in % 4 != 0, true});
    }
  }
}

// More than a kernel takes at once: of panels (16, with 512 rows or with AVX-512), of rows (512).
TEST_P(LinearKernels, EqualDoubleWhereLarge) {
  check(isa(), {25, 2048, 17 * kLinearPanel + 5, true, true});
  check(isa(), {512, 608, 17 * 2 * kLinearPanel + 5, true, false});
  check(isa(), {576 + 31, 608, 40, false, true});
}

TEST_P(LinearKernels, RowsMayBeShared) {
  for (const int64_t in : {64, 130, 1024}) {
    check(isa(), {kernels::cpu::kLinearRowUnit + 1, in, 70, true, true},
          kernels::cpu::kLinearRowUnit);
    check(isa(), {2 * kernels::cpu::kLinearRowUnit + 47, in, 33, false, false},
          kernels::cpu::kLinearRowUnit);
  }
}

// A row is computed from its own inputs: NaN and infinity stay in their row, whatever tile the row
// shares and whatever lies behind its last input.
TEST_P(LinearKernels, NanStaysInItsRow) {
  for (const int64_t in : {34, 64, 1024, 1056}) {
    for (const int64_t rows : {2, 5, 17, 35, 49}) {
      const Case c = {rows, in, 40, false, true};
      SCOPED_TRACE(::testing::PrintToString(c));
      const Numbers w(c.out * in, 5);
      Numbers x(rows * in, 4);
      for (const uint16_t special : {0x7fc0, 0x7f80}) {
        for (const int64_t row : {int64_t{0}, rows / 2, rows - 1}) {
          for (const int64_t k : {int64_t{0}, in - 1}) {
            Numbers one = x;
            one.bits[static_cast<size_t>(row * in + k)] = special;
            const std::vector<uint8_t> out = multiply(isa(), c, one.bits, w.bits, {});
            int64_t wrong = 0;
            for (int64_t i = 0; i < rows * c.out; ++i) {
              const double y = test::load_element(kernels::Dtype::kFloat32,
                                                  out.data() + static_cast<size_t>(i) * 4);
              wrong += std::isfinite(y) == (i / c.out == row);
            }
            EXPECT_EQ(wrong, 0) << "row " << row << ", input " << k;
          }
        }
      }
    }
  }
}

// The same of outputs: a weight that is no number spoils its own output alone.
TEST_P(LinearKernels, NanStaysInItsOutput) {
  for (const int64_t in : {34, 62, 64, 608}) {
    for (const int64_t rows : {1, 4, 37}) {
      const Case c = {rows, in, 70, false, true};
      SCOPED_TRACE(::testing::PrintToString(c));
      const Numbers x(rows * in, 4);
      for (const int64_t output : {0, 31, 32, 69}) {
        Numbers w(c.out * in, 5);
        std::fill_n(w.bits.begin() + output * in, in, uint16_t{0x7fc0});
        const std::vector<uint8_t> out = multiply(isa(), c, x.bits, w.bits, {});
        int64_t wrong = 0;
        for (int64_t i = 0; i < rows * c.out; ++i) {
          const double y =
              test::load_element(kernels::Dtype::kFloat32, out.data() + static_cast<size_t>(i) * 4);
          wrong += std::isfinite(y) == (i % c.out == output);
        }
        EXPECT_EQ(wrong, 0) << "output " << output;
      }
    }
  }
}

// Whether the kernel's tile instructions mean what the plain tiles do. Hardware may round the sums
// of a product in another order; the emulator may not.
TEST(LinearTiles, EmulatedInstructionsGiveThePlainTilesBits) {
  const kernels::cpu::KernelTable* plain = test::runnable_kernels("amx_plain");
  const kernels::cpu::KernelTable* tiles = test::runnable_kernels("amx");
  if (plain == nullptr || tiles == nullptr) GTEST_SKIP() << "this machine or build lacks AVX-512";
  if (kernels::cpu::find_kernels("amx") != nullptr) GTEST_SKIP() << "the tile unit is real here";
  for (const Case& c : {Case{33, 576, 100, true, true},
                        {64, 1536, 64, false, false},
                        {47, 2048, 33, true, false},
                        {17, 34, 31, false, true}}) {
    SCOPED_TRACE(::testing::PrintToString(c));
    const Numbers x(c.rows * c.in, 7), w(c.out * c.in, 8), b(c.out, 9);
    const int64_t before = test::emulated_tile_instructions();
    EXPECT_EQ(multiply(*plain, c, x.bits, w.bits, b.bits),
              multiply(*tiles, c, x.bits, w.bits, b.bits));
    EXPECT_GT(test::emulated_tile_instructions(), before);
  }
}

}  // namespace
}  // namespace rillkv
