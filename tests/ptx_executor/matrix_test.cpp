// ldmatrix, movmatrix and mma against the fragment tables of the PTX manual and sums in double.
#include <bit>
#include <cmath>

#include "tests/ptx_executor/exact_oracle.h"
#include "tests/ptx_executor/ptx_case.h"

namespace rillkv::ptx {
namespace {

uint32_t half_code(double x) {
  return half_format().round(static_cast<Exact>(x), Direction::kNearestEven, std::signbit(x));
}
uint32_t bfloat_code(double x) {
  return bfloat_format().round(static_cast<Exact>(x), Direction::kNearestEven, std::signbit(x));
}

/// Loads registers %r0.. of each lane from words [lane * count] of p0 on, runs `lines`, and stores
/// registers %r10.. to p1 in the same way.
std::vector<uint32_t> run_fragments(const std::string& lines, const std::vector<uint32_t>& in,
                                    int in_count, int out_count) {
  std::string body = "mul.lo.u32 %r18, %i, " + std::to_string(4 * in_count) +
                     "; cvt.u64.u32 %rd1, %r18; add.s64 %rd1, %p0, %rd1;\n";
  body += ".reg .b32 %x<16>; .reg .b32 %y<8>;\n";
  for (int i = 0; i < in_count; ++i) {
    body += "ld.global.u32 %x" + std::to_string(i) + ", [%rd1+" + std::to_string(4 * i) + "];\n";
  }
  body += lines + "\nmul.lo.u32 %r18, %i, " + std::to_string(4 * out_count) +
          "; cvt.u64.u32 %rd1, %r18; add.s64 %rd1, %p1, %rd1;\n";
  for (int i = 0; i < out_count; ++i) {
    body += "st.global.u32 [%rd1+" + std::to_string(4 * i) + "], %y" + std::to_string(i) + ";\n";
  }
  DeviceBuffer<uint32_t> input(in), output(static_cast<size_t>(32 * out_count));
  Launcher(Module::parse(entry_text("k", 2, body)), "k")
      .block({32})
      .run(input.data(), output.data());
  return output.to_vector();
}

/// Row and column of element `i` (of 2 a register) of the fragments of m16n8k8 and m16n8k16, as the
/// manual's tables give them.
int a_row(int lane, int i) { return lane / 4 + (i / 2 % 2 == 1 ? 8 : 0); }
int a_column(int lane, int i) { return lane % 4 * 2 + i % 2 + (i >= 4 ? 8 : 0); }
int b_row(int lane, int i) { return lane % 4 * 2 + i % 2 + (i >= 2 ? 8 : 0); }
int b_column(int lane) { return lane / 4; }
int c_row(int lane, int i) { return lane / 4 + (i >= 2 ? 8 : 0); }
int c_column(int lane, int i) { return lane % 4 * 2 + i % 2; }

// Element i of lane l is (l / 4, 2 (l % 4) + i) of the matrix, before and after.
TEST(PtxMatrix, Transposes) {
  std::vector<uint32_t> in(32);
  for (uint32_t lane = 0; lane < 32; ++lane) in[lane] = 2 * lane | (2 * lane + 1) << 16;
  const std::vector<uint32_t> out =
      run_fragments("movmatrix.sync.aligned.m8n8.trans.b16 %y0, %x0;", in, 1, 1);
  for (uint32_t lane = 0; lane < 32; ++lane) {
    const uint32_t row = lane / 4, column = 2 * (lane % 4);
    EXPECT_EQ(out[lane], (8 * column + row) | (8 * (column + 1) + row) << 16) << lane;
  }
}

struct MmaCase {
  const char* opcode;
  int depth;
  bool bfloat;
  bool half_result;
};

TEST(PtxMatrix, MultipliesAndAccumulates) {
  const MmaCase cases[] = {{"mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32", 16, false, false},
                           {"mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", 16, true, false},
                           {"mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32", 8, false, false},
                           {"mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32", 8, true, false},
                           {"mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16", 16, false, true}};
  for (const MmaCase& test : cases) {
    std::mt19937 random(5);
    std::normal_distribution<double> normal;
    const SmallFormat& table = test.bfloat ? bfloat_format() : half_format();
    const auto code = test.bfloat ? bfloat_code : half_code;
    double a[16][16] = {}, b[16][8] = {}, c[16][8] = {};
    const auto rounded = [&](double x) {
      return static_cast<double>(table.value(static_cast<uint16_t>(code(x))));
    };
    for (auto& row : a)
      for (double& x : row) x = rounded(normal(random));
    for (auto& row : b)
      for (double& x : row) x = rounded(normal(random));
    for (auto& row : c)
      for (double& x : row)
        x = test.half_result ? rounded(normal(random)) : static_cast<float>(normal(random));

    const int a_count = test.depth / 4, b_count = test.depth / 8,
              c_count = test.half_result ? 2 : 4;
    const int in_count = a_count + b_count + c_count;
    std::vector<uint32_t> in;
    for (int lane = 0; lane < 32; ++lane) {
      for (int r = 0; r < a_count; ++r) {
        in.push_back(code(a[a_row(lane, 2 * r)][a_column(lane, 2 * r)]) |
                     code(a[a_row(lane, 2 * r + 1)][a_column(lane, 2 * r + 1)]) << 16);
      }
      for (int r = 0; r < b_count; ++r) {
        in.push_back(code(b[b_row(lane, 2 * r)][b_column(lane)]) |
                     code(b[b_row(lane, 2 * r + 1)][b_column(lane)]) << 16);
      }
      for (int r = 0; r < c_count; ++r) {
        const auto at = [&](int i) { return c[c_row(lane, i)][c_column(lane, i)]; };
        in.push_back(test.half_result ? half_code(at(2 * r)) | half_code(at(2 * r + 1)) << 16
                                      : std::bit_cast<uint32_t>(static_cast<float>(at(r))));
      }
    }
    const auto list = [](const char* name, int first, int count) {
      std::string text = "{";
      for (int i = 0; i < count; ++i) {
        text += (i > 0 ? ", %" : "%") + std::string(name) + std::to_string(first + i);
      }
      return text + "}";
    };
    const auto out = run_fragments(std::string(test.opcode) + ' ' + list("y", 0, c_count) + ", " +
                                       list("x", 0, a_count) + ", " + list("x", a_count, b_count) +
                                       ", " + list("x", a_count + b_count, c_count) + ";",
                                   in, in_count, c_count);
    for (int lane = 0; lane < 32; ++lane) {
      for (int i = 0; i < 4; ++i) {
        const int row = c_row(lane, i), column = c_column(lane, i);
        double sum = c[row][column], size = std::fabs(sum);
        for (int k = 0; k < test.depth; ++k) {
          sum += a[row][k] * b[k][column];
          size += std::fabs(a[row][k] * b[k][column]);
        }
        const uint32_t word =
            out[static_cast<size_t>(lane * c_count + (test.half_result ? i / 2 : i))];
        const double got = test.half_result ? static_cast<double>(half_format().value(
                                                  static_cast<uint16_t>(word >> (16 * (i % 2)))))
                                            : std::bit_cast<float>(word);
        // Each of depth + 1 sums rounds by half an ulp of at most `size`; then once to f16.
        const double tolerance =
            size * (test.depth + 1) * 0x1p-24 + (test.half_result ? std::fabs(sum) * 0x1p-10 : 0);
        ASSERT_TRUE(std::fabs(got - sum) <= tolerance)
            << test.opcode << " row " << row << " column " << column << ": " << got << " vs "
            << sum;
      }
    }
  }
}

TEST(PtxMatrix, MultipliesBytes) {
  // m16n8k32: element i of a register's 4 belongs to column 4 * (lane % 4) + i.
  std::mt19937 random(6);
  int a[16][32], b[32][8], c[16][8];
  for (auto& row : a)
    for (int& x : row) x = static_cast<int>(random() % 256) - 128;
  for (auto& row : b)
    for (int& x : row) x = static_cast<int>(random() % 256);
  for (auto& row : c)
    for (int& x : row) x = static_cast<int>(random() % 100000) - 50000;
  std::vector<uint32_t> in;
  for (int lane = 0; lane < 32; ++lane) {
    for (int r = 0; r < 4; ++r) {
      uint32_t word = 0;
      for (int i = 0; i < 4; ++i) {
        word |=
            static_cast<uint32_t>(a[lane / 4 + 8 * (r % 2)][lane % 4 * 4 + i + 16 * (r / 2)] & 255)
            << (8 * i);
      }
      in.push_back(word);
    }
    for (int r = 0; r < 2; ++r) {
      uint32_t word = 0;
      for (int i = 0; i < 4; ++i)
        word |= static_cast<uint32_t>(b[lane % 4 * 4 + i + 16 * r][lane / 4]) << (8 * i);
      in.push_back(word);
    }
    for (int i = 0; i < 4; ++i)
      in.push_back(static_cast<uint32_t>(c[c_row(lane, i)][c_column(lane, i)]));
  }
  const auto out = run_fragments(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.u8.s32 {%y0, %y1, %y2, %y3}, {%x0, %x1, %x2, %x3}, "
      "{%x4, %x5}, {%x6, %x7, %x8, %x9};",
      in, 10, 4);
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 4; ++i) {
      int64_t sum = c[c_row(lane, i)][c_column(lane, i)];
      for (int k = 0; k < 32; ++k) sum += a[c_row(lane, i)][k] * b[k][c_column(lane, i)];
      ASSERT_EQ(static_cast<int32_t>(out[static_cast<size_t>(4 * lane + i)]), sum);
    }
  }
}

TEST(PtxMatrix, LoadsMatrices) {
  // 32 rows of 8 elements; row r of matrix m is at a scattered place that lane 8 * m + r knows.
  for (const int count : {1, 2, 4}) {
    for (const bool transposed : {false, true}) {
      std::string results;
      for (int i = 0; i < count; ++i) results += (i > 0 ? ", %y" : "%y") + std::to_string(i);
      const std::string n = std::to_string(count);
      std::string lines =
          ".shared .align 16 .b8 sm[1024];\n"
          "mul.lo.u32 %r1, %i, 7; and.b32 %r1, %r1, 31; shl.b32 %r1, %r1, 5; mov.u32 %r2, sm;\n"
          "add.u32 %r1, %r1, %r2; st.shared.v4.u32 [%r1], {%x0, %x1, %x2, %x3};\n"
          "bar.warp.sync -1;\n"
          "ldmatrix.sync.aligned.m8n8.x";
      lines += n;
      lines += transposed ? ".trans" : "";
      lines += ".shared.b16 {" + results + "}, [%r1];";
      std::vector<uint32_t> in(128);
      for (uint32_t i = 0; i < 128; ++i) in[i] = (2 * i) | (2 * i + 1) << 16;  // element numbers
      const auto out = run_fragments(lines, in, 4, count);
      for (int m = 0; m < count; ++m) {
        for (int lane = 0; lane < 32; ++lane) {
          for (int i = 0; i < 2; ++i) {
            int row = lane / 4, column = lane % 4 * 2 + i;
            if (transposed) std::swap(row, column);
            const uint32_t word = out[static_cast<size_t>(lane * count + m)];
            ASSERT_EQ(word >> (16 * i) & 0xffff, static_cast<uint32_t>(64 * m + 8 * row + column))
                << "matrix " << m << " lane " << lane;
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace rillkv::ptx
