// Integer instructions against 128-bit arithmetic and bit-by-bit definitions.
#include <algorithm>
#include <functional>

#include "tests/ptx_executor/ptx_case.h"

namespace rillkv::ptx {
namespace {

constexpr size_t kRows = 700;
using Wide = __int128;

template <typename T>
void expect_rows(const std::string& lines, const std::function<T(size_t)>& expected,
                 const std::vector<T>& got) {
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_EQ(got[i], expected(i)) << lines << ", row " << i;
  }
}

/// d = f(a, b) modulo 2^bits for registers of type T, computed in 128 bits.
template <typename T>
void check_binary(const std::string& opcode, const std::function<Wide(Wide, Wide)>& f,
                  bool skip_zero_divisor = false) {
  std::vector<T> a = interesting_integers<T>(kRows, 1);
  std::vector<T> b = interesting_integers<T>(kRows, 2);
  if (skip_zero_divisor) std::replace(b.begin(), b.end(), T(0), T(7));
  const auto got = run_rows<T>(opcode + " %d, %a, %b;", a, b);
  expect_rows<T>(
      opcode, [&](size_t i) { return static_cast<T>(f(a[i], b[i])); }, got);
}

TEST(PtxInteger, AddsSubtractsAndMultipliesModulo) {
  const auto add = [](Wide x, Wide y) { return x + y; };
  const auto sub = [](Wide x, Wide y) { return x - y; };
  check_binary<uint16_t>("add.u16", add);
  check_binary<int32_t>("add.s32", add);
  check_binary<uint64_t>("add.u64", add);
  check_binary<int16_t>("sub.s16", sub);
  check_binary<uint32_t>("sub.u32", sub);
  check_binary<int64_t>("sub.s64", sub);
  check_binary<uint16_t>("mul.lo.u16", [](Wide x, Wide y) { return x * y; });
  check_binary<int32_t>("mul.lo.s32", [](Wide x, Wide y) { return x * y; });
  check_binary<int32_t>("mul.hi.s32", [](Wide x, Wide y) { return (x * y) >> 32; });
  check_binary<uint32_t>("mul.hi.u32", [](Wide x, Wide y) { return (x * y) >> 32; });
  check_binary<int64_t>("mul.hi.s64", [](Wide x, Wide y) { return (x * y) >> 64; });
  // The product of the halves, put together by hand.
  check_binary<uint64_t>("mul.lo.u64", [](Wide x, Wide y) {
    const uint64_t a = static_cast<uint64_t>(x), b = static_cast<uint64_t>(y);
    return Wide((a & 0xffffffff) * (b & 0xffffffff) +
                (((a >> 32) * b + (a & 0xffffffff) * (b >> 32)) << 32));
  });
}

TEST(PtxInteger, MultipliesWide) {
  const auto a = interesting_integers<int32_t>(kRows, 3);
  const auto b = interesting_integers<int32_t>(kRows, 4);
  const auto c = interesting_integers<int64_t>(kRows, 5);
  const auto product = run_rows<int64_t>("mul.wide.s32 %d, %a, %b;", a, b);
  const auto sum = run_rows<int64_t>("mad.wide.s32 %d, %a, %b, %c;", a, b, c);
  const auto unsigned_product = run_rows<uint64_t>("mul.wide.u32 %d, %a, %b;", a, b);
  for (size_t i = 0; i < kRows; ++i) {
    EXPECT_EQ(product[i], int64_t(Wide{a[i]} * b[i]));
    EXPECT_EQ(sum[i], int64_t(Wide{a[i]} * b[i] + c[i]));
    EXPECT_EQ(unsigned_product[i], uint64_t(Wide{uint32_t(a[i])} * uint32_t(b[i])));
  }
  const auto small = interesting_integers<int16_t>(kRows, 6);
  const auto narrow = run_rows<int32_t>("mul.wide.s16 %d, %a, %a;", small);
  for (size_t i = 0; i < kRows; ++i) EXPECT_EQ(narrow[i], int32_t(small[i]) * small[i]);
}

TEST(PtxInteger, MultipliesAndAdds) {
  const auto a = interesting_integers<uint32_t>(kRows, 7);
  const auto b = interesting_integers<uint32_t>(kRows, 8);
  const auto c = interesting_integers<uint32_t>(kRows, 9);
  const auto low = run_rows<uint32_t>("mad.lo.s32 %d, %a, %b, %c;", a, b, c);
  const auto high = run_rows<uint32_t>("mad.hi.u32 %d, %a, %b, %c;", a, b, c);
  for (size_t i = 0; i < kRows; ++i) {
    EXPECT_EQ(low[i], uint32_t(Wide{a[i]} * b[i] + c[i]));
    EXPECT_EQ(high[i], uint32_t(((Wide{a[i]} * b[i]) >> 32) + c[i]));
  }
}

TEST(PtxInteger, DividesTowardsZero) {
  check_binary<int32_t>(
      "div.s32", [](Wide x, Wide y) { return x / y; }, true);
  check_binary<uint32_t>(
      "div.u32", [](Wide x, Wide y) { return x / y; }, true);
  check_binary<int64_t>(
      "div.s64", [](Wide x, Wide y) { return x / y; }, true);
  check_binary<int32_t>(
      "rem.s32", [](Wide x, Wide y) { return x % y; }, true);
  check_binary<uint64_t>(
      "rem.u64", [](Wide x, Wide y) { return x % y; }, true);
  check_binary<int16_t>(
      "rem.s16", [](Wide x, Wide y) { return x % y; }, true);
}

TEST(PtxInteger, ComparesBySign) {
  check_binary<int32_t>("min.s32", [](Wide x, Wide y) { return x < y ? x : y; });
  check_binary<uint32_t>("min.u32", [](Wide x, Wide y) { return x < y ? x : y; });
  check_binary<int64_t>("max.s64", [](Wide x, Wide y) { return x < y ? y : x; });
  check_binary<uint16_t>("max.u16", [](Wide x, Wide y) { return x < y ? y : x; });
}

TEST(PtxInteger, NegatesAndTakesAbsolutes) {
  const auto a = interesting_integers<int32_t>(kRows, 10);
  const auto negated = run_rows<int32_t>("neg.s32 %d, %a;", a);
  const auto absolute = run_rows<int32_t>("abs.s32 %d, %a;", a);
  const auto is_zero = run_rows<uint32_t>("cnot.b32 %d, %a;", a);
  for (size_t i = 0; i < kRows; ++i) {
    EXPECT_EQ(negated[i], int32_t(-Wide{a[i]}));
    EXPECT_EQ(absolute[i], int32_t(a[i] < 0 ? -Wide{a[i]} : Wide{a[i]}));
    EXPECT_EQ(is_zero[i], a[i] == 0 ? 1u : 0u);
  }
}

// ---- bits: everything as arrays of 64 bools ----

using Bits = std::vector<int>;  // least significant first

template <typename T>
Bits bits_of(T x) {
  Bits bits;
  for (size_t i = 0; i < 8 * sizeof(T); ++i) bits.push_back(static_cast<int>((x >> i) & 1));
  return bits;
}
template <typename T>
T value_of(const Bits& bits) {
  T x = 0;
  for (size_t i = 0; i < bits.size(); ++i) x |= static_cast<T>(T(bits[i]) << i);
  return x;
}

TEST(PtxInteger, CombinesBits) {
  const auto a = interesting_integers<uint32_t>(kRows, 11);
  const auto b = interesting_integers<uint32_t>(kRows, 12);
  const auto c = interesting_integers<uint32_t>(kRows, 13);
  const auto with = [&](size_t i, auto f) {
    Bits result;
    for (size_t k = 0; k < 32; ++k) {
      result.push_back(f(bits_of(a[i])[k], bits_of(b[i])[k], bits_of(c[i])[k]));
    }
    return value_of<uint32_t>(result);
  };
  const auto both = run_rows<uint32_t>("and.b32 %d, %a, %b;", a, b);
  const auto either = run_rows<uint32_t>("or.b32 %d, %a, %b;", a, b);
  const auto differ = run_rows<uint32_t>("xor.b32 %d, %a, %b;", a, b);
  const auto inverse = run_rows<uint32_t>("not.b32 %d, %a;", a);
  // 0xE8: the majority; 0xCA: a chooses b or c; 0x96: the parity.
  const auto majority = run_rows<uint32_t>("lop3.b32 %d, %a, %b, %c, 0xE8;", a, b, c);
  const auto choice = run_rows<uint32_t>("lop3.b32 %d, %a, %b, %c, 0xCA;", a, b, c);
  const auto parity = run_rows<uint32_t>("lop3.b32 %d, %a, %b, %c, 150;", a, b, c);
  for (size_t i = 0; i < kRows; ++i) {
    EXPECT_EQ(both[i], with(i, [](int x, int y, int) { return x + y == 2; }));
    EXPECT_EQ(either[i], with(i, [](int x, int y, int) { return x + y > 0; }));
    EXPECT_EQ(differ[i], with(i, [](int x, int y, int) { return x + y == 1; }));
    EXPECT_EQ(inverse[i], with(i, [](int x, int, int) { return 1 - x; }));
    EXPECT_EQ(majority[i], with(i, [](int x, int y, int z) { return x + y + z >= 2; }));
    EXPECT_EQ(choice[i], with(i, [](int x, int y, int z) { return x != 0 ? y : z; }));
    EXPECT_EQ(parity[i], with(i, [](int x, int y, int z) { return (x + y + z) % 2; }));
  }
}

TEST(PtxInteger, ShiftsPastTheEnd) {
  const auto a = interesting_integers<uint32_t>(kRows, 14);
  std::vector<uint32_t> n(kRows);
  for (size_t i = 0; i < kRows; ++i) n[i] = static_cast<uint32_t>(i % 70);
  const auto left = run_rows<uint32_t>("shl.b32 %d, %a, %b;", a, n);
  const auto right = run_rows<uint32_t>("shr.u32 %d, %a, %b;", a, n);
  const auto arithmetic = run_rows<uint32_t>("shr.s32 %d, %a, %b;", a, n);
  const auto wide = run_rows<uint64_t>("cvt.u64.u32 %d, %a; shl.b64 %d, %d, %b;", a, n);
  for (size_t i = 0; i < kRows; ++i) {
    const Bits bits = bits_of(a[i]);
    const auto moved = [&](int64_t by, int fill, size_t size) {
      Bits result;
      for (int64_t k = 0; k < int64_t(size); ++k) {
        const int64_t from = k + by;
        result.push_back(from < 0 ? 0 : from < 32 ? bits[size_t(from)] : fill);
      }
      return result;
    };
    EXPECT_EQ(left[i], value_of<uint32_t>(moved(-int64_t{n[i]}, 0, 32)));
    EXPECT_EQ(right[i], value_of<uint32_t>(moved(n[i], 0, 32)));
    EXPECT_EQ(arithmetic[i], value_of<uint32_t>(moved(n[i], bits[31], 32)));
    EXPECT_EQ(wide[i], value_of<uint64_t>(moved(-int64_t{n[i]}, 0, 64)));
  }
}

TEST(PtxInteger, ShiftsThroughTwoWords) {
  const auto low = interesting_integers<uint32_t>(kRows, 15);
  const auto high = interesting_integers<uint32_t>(kRows, 16);
  std::vector<uint32_t> n(kRows);
  for (size_t i = 0; i < kRows; ++i) n[i] = static_cast<uint32_t>(i % 50);
  const auto left = run_rows<uint32_t>("shf.l.wrap.b32 %d, %a, %b, %c;", low, high, n);
  const auto left_clamped = run_rows<uint32_t>("shf.l.clamp.b32 %d, %a, %b, %c;", low, high, n);
  const auto right = run_rows<uint32_t>("shf.r.wrap.b32 %d, %a, %b, %c;", low, high, n);
  const auto right_clamped = run_rows<uint32_t>("shf.r.clamp.b32 %d, %a, %b, %c;", low, high, n);
  for (size_t i = 0; i < kRows; ++i) {
    Bits both = bits_of(low[i]);
    const Bits top = bits_of(high[i]);
    both.insert(both.end(), top.begin(), top.end());
    const auto word_from = [&](size_t at) {
      return value_of<uint32_t>(Bits(both.begin() + long(at), both.begin() + long(at) + 32));
    };
    EXPECT_EQ(left[i], word_from(32 - n[i] % 32));
    EXPECT_EQ(left_clamped[i], word_from(32 - std::min(n[i], 32u)));
    EXPECT_EQ(right[i], word_from(n[i] % 32));
    EXPECT_EQ(right_clamped[i], word_from(std::min(n[i], 32u)));
  }
}

TEST(PtxInteger, CountsAndFindsBits) {
  const auto a = interesting_integers<uint32_t>(kRows, 17);
  const auto w = interesting_integers<int64_t>(kRows, 18);
  const auto ones = run_rows<uint32_t>("popc.b32 %d, %a;", a);
  const auto zeros = run_rows<uint32_t>("clz.b32 %d, %a;", a);
  const auto reversed = run_rows<uint32_t>("brev.b32 %d, %a;", a);
  const auto found = run_rows<uint32_t>("bfind.u32 %d, %a;", a);
  const auto found_signed = run_rows<uint32_t>("bfind.s64 %d, %a;", w);
  const auto shift = run_rows<uint32_t>("bfind.shiftamt.u32 %d, %a;", a);
  const auto wide_ones = run_rows<uint32_t>("popc.b64 %d, %a;", w);
  const auto wide_zeros = run_rows<uint32_t>("clz.b64 %d, %a;", w);
  for (size_t i = 0; i < kRows; ++i) {
    Bits bits = bits_of(a[i]);
    EXPECT_EQ(ones[i], uint32_t(std::count(bits.begin(), bits.end(), 1)));
    const auto top = std::find(bits.rbegin(), bits.rend(), 1);
    EXPECT_EQ(zeros[i], uint32_t(top - bits.rbegin()));
    EXPECT_EQ(found[i], a[i] == 0 ? ~0u : uint32_t(31 - (top - bits.rbegin())));
    EXPECT_EQ(shift[i], a[i] == 0 ? ~0u : uint32_t(top - bits.rbegin()));
    std::reverse(bits.begin(), bits.end());
    EXPECT_EQ(reversed[i], value_of<uint32_t>(bits));
    const Bits wide = bits_of(w[i]);
    EXPECT_EQ(wide_ones[i], uint32_t(std::count(wide.begin(), wide.end(), 1)));
    EXPECT_EQ(wide_zeros[i], uint32_t(std::find(wide.rbegin(), wide.rend(), 1) - wide.rbegin()));
    const auto differs = std::find(wide.rbegin(), wide.rend(), 1 - wide[63]);
    EXPECT_EQ(found_signed[i],
              differs == wide.rend() ? ~0u : uint32_t(63 - (differs - wide.rbegin())));
  }
}

TEST(PtxInteger, ExtractsAndInsertsFields) {
  const auto a = interesting_integers<uint32_t>(kRows, 19);
  const auto base = interesting_integers<uint32_t>(kRows, 20);
  for (const auto& [position, length] :
       {std::pair<size_t, size_t>{0, 4}, {28, 4}, {30, 8}, {7, 0}, {0, 32}, {16, 16}, {33, 3}}) {
    const std::string at = std::to_string(position) + ", " + std::to_string(length) + ";";
    const auto field = run_rows<uint32_t>("bfe.u32 %d, %a, " + at, a);
    const auto signed_field = run_rows<uint32_t>("bfe.s32 %d, %a, " + at, a);
    const auto inserted = run_rows<uint32_t>("bfi.b32 %d, %a, %b, " + at, a, base);
    for (size_t i = 0; i < kRows; ++i) {
      const Bits bits = bits_of(a[i]);
      Bits plain, extended, into = bits_of(base[i]);
      const int sign = length == 0 ? 0 : bits[std::min<size_t>(position + length - 1, 31)];
      for (size_t k = 0; k < 32; ++k) {
        const bool inside = k < length && position + k < 32;
        plain.push_back(inside ? bits[position + k] : 0);
        extended.push_back(inside ? bits[position + k] : sign);
        if (inside) into[position + k] = bits[k];
      }
      EXPECT_EQ(field[i], value_of<uint32_t>(plain)) << at;
      EXPECT_EQ(signed_field[i], value_of<uint32_t>(extended)) << at;
      EXPECT_EQ(inserted[i], value_of<uint32_t>(into)) << at;
    }
  }
  const auto wide = interesting_integers<uint64_t>(kRows, 21);
  const auto wide_base = interesting_integers<uint64_t>(kRows, 22);
  const auto inserted = run_rows<uint64_t>("bfi.b64 %d, %a, %b, 32, 32;", wide, wide_base);
  for (size_t i = 0; i < kRows; ++i) {
    EXPECT_EQ(inserted[i], wide[i] << 32 | (wide_base[i] & 0xffffffff));
  }
}

TEST(PtxInteger, PermutesBytes) {
  const auto a = interesting_integers<uint32_t>(kRows, 23);
  const auto b = interesting_integers<uint32_t>(kRows, 24);
  const auto s = interesting_integers<uint32_t>(kRows, 25);
  const auto got = run_rows<uint32_t>("prmt.b32 %d, %a, %b, %c;", a, b, s);
  for (size_t i = 0; i < kRows; ++i) {
    std::vector<uint8_t> bytes;
    for (const uint32_t word : {a[i], b[i]}) {
      for (int k = 0; k < 4; ++k) bytes.push_back(uint8_t(word >> (8 * k)));
    }
    uint32_t expected = 0;
    for (int k = 0; k < 4; ++k) {
      const uint32_t selector = (s[i] >> (4 * k)) % 16;
      const auto byte = static_cast<int8_t>(bytes[selector % 8]);
      // The eighth bit of a selector asks for copies of the byte's sign.
      const uint8_t chosen = selector < 8 ? uint8_t(byte) : byte < 0 ? 255 : 0;
      expected += uint32_t{chosen} << (8 * k);
    }
    EXPECT_EQ(got[i], expected);
  }
}

TEST(PtxInteger, TakesDotProductsOfBytes) {
  const auto a = interesting_integers<uint32_t>(kRows, 26);
  const auto b = interesting_integers<uint32_t>(kRows, 27);
  const auto c = interesting_integers<uint32_t>(kRows, 28);
  for (const bool signed_a : {false, true}) {
    for (const bool signed_b : {false, true}) {
      const std::string opcode = std::string("dp4a.") + (signed_a ? "s32" : "u32") +
                                 (signed_b ? ".s32" : ".u32") + " %d, %a, %b, %c;";
      const auto got = run_rows<uint32_t>(opcode, a, b, c);
      for (size_t i = 0; i < kRows; ++i) {
        Wide sum = c[i];
        for (int k = 0; k < 4; ++k) {
          const Wide x = (a[i] >> (8 * k)) % 256, y = (b[i] >> (8 * k)) % 256;
          sum += (signed_a && x > 127 ? x - 256 : x) * (signed_b && y > 127 ? y - 256 : y);
        }
        EXPECT_EQ(got[i], static_cast<uint32_t>(sum)) << opcode;
      }
    }
  }
}

TEST(PtxInteger, ComparesAndSelects) {
  const auto a = interesting_integers<int32_t>(kRows, 29);
  const auto b = interesting_integers<int32_t>(kRows, 30);
  const auto flag = [&](const std::string& compare) {
    return run_rows<int32_t>(compare + " %pr1, %a, %b; selp.b32 %d, 1, 0, %pr1;", a, b);
  };
  const auto lt = flag("setp.lt.s32"), lo = flag("setp.lo.u32"), ge = flag("setp.ge.s32");
  const auto eq = flag("setp.eq.b32"), hi = flag("setp.gt.u32"), ne = flag("setp.ne.s32");
  const auto combined = run_rows<int32_t>(
      "setp.gt.s32 %pr2, %b, 0; setp.lt.and.s32 %pr1|%pr3, %a, %b, !%pr2;\n"
      "selp.b32 %d, 1, 0, %pr1; selp.b32 %r5, 2, 0, %pr3; add.s32 %d, %d, %r5;",
      a, b);
  const auto logic = run_rows<int32_t>(
      "setp.gt.s32 %pr2, %b, 0; setp.gt.s32 %pr3, %a, 0; and.pred %pr4, %pr2, %pr3;\n"
      "or.pred %pr5, %pr2, %pr3; xor.pred %pr6, %pr2, %pr3; not.pred %pr7, %pr2;\n"
      "selp.b32 %d, 1, 0, %pr4; selp.b32 %r5, 2, 0, %pr5; add.s32 %d, %d, %r5;\n"
      "selp.b32 %r5, 4, 0, %pr6; add.s32 %d, %d, %r5; selp.b32 %r5, 8, 0, %pr7;\n"
      "add.s32 %d, %d, %r5;",
      a, b);
  for (size_t i = 0; i < kRows; ++i) {
    const Wide x = a[i], y = b[i], ux = uint32_t(a[i]), uy = uint32_t(b[i]);
    EXPECT_EQ(lt[i], x - y < 0);
    EXPECT_EQ(ge[i], x - y >= 0);
    EXPECT_EQ(lo[i], ux - uy < 0);
    EXPECT_EQ(hi[i], ux - uy > 0);
    EXPECT_EQ(eq[i], x - y == 0);
    EXPECT_EQ(ne[i], x - y != 0);
    const bool third = !(y > 0);
    EXPECT_EQ(combined[i], (x < y && third ? 1 : 0) + (!(x < y) && third ? 2 : 0));
    const int p = y > 0, q = x > 0;
    EXPECT_EQ(logic[i], p * q + 2 * (p + q > 0) + 4 * (p != q) + 8 * (1 - p));
  }
}

TEST(PtxInteger, PacksAndUnpacksRegisters) {
  const auto a = interesting_integers<uint32_t>(kRows, 31);
  const auto b = interesting_integers<uint32_t>(kRows, 32);
  const auto swapped = run_rows<uint32_t>("mov.b32 {%rs0, %rs1}, %a; mov.b32 %d, {%rs1, %rs0};", a);
  const auto joined = run_rows<uint64_t>("mov.b64 %d, {%a, %b};", a, b);
  const auto upper = run_rows<uint32_t>("mov.b64 %rd2, {%a, %b}; mov.b64 {_, %d}, %rd2;", a, b);
  const auto four = run_rows<uint64_t>(
      "mov.b32 {%rs0, %rs1}, %a; mov.b32 {%rs2, %rs3}, %b;\n"
      "mov.b64 %rd2, {%rs0, %rs1, %rs2, %rs3}; mov.b64 {%rs4, %rs5, %rs6, %rs7}, %rd2;\n"
      "mov.b64 %d, {%rs7, %rs6, %rs5, %rs4};",
      a, b);
  for (size_t i = 0; i < kRows; ++i) {
    EXPECT_EQ(swapped[i], (a[i] % 65536) * 65536u + a[i] / 65536);
    EXPECT_EQ(joined[i], a[i] + uint64_t{b[i]} * 4294967296u);
    EXPECT_EQ(upper[i], b[i]);
    uint64_t expected = 0;
    for (const uint32_t part : {a[i] % 65536, a[i] / 65536, b[i] % 65536, b[i] / 65536}) {
      expected = expected * 65536 + part;
    }
    EXPECT_EQ(four[i], expected);
  }
}

}  // namespace
}  // namespace rillkv::ptx
