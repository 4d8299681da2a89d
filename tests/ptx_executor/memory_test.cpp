// Loads, stores, address spaces, module variables and atomics.
#include <gmock/gmock.h>

#include <cstring>
#include <numeric>

#include "tests/ptx_executor/ptx_case.h"

namespace rillkv::ptx {
namespace {

using testing::Each;
using testing::ElementsAre;

std::vector<uint8_t> counting_bytes(size_t count) {
  std::vector<uint8_t> bytes(count);
  for (size_t i = 0; i < count; ++i) bytes[i] = static_cast<uint8_t>(37 * i + 150);
  return bytes;
}

/// Runs `body` in one block with p0 = 1024 bytes to read and p1 = 1024 bytes to write.
std::vector<uint8_t> run_bytes(const std::string& body, uint32_t threads = 32,
                               const std::string& declarations = "") {
  DeviceBuffer<uint8_t> in(counting_bytes(1024)), out(std::vector<uint8_t>(1024, 0));
  const Module module = Module::parse(entry_text("k", 2, body, declarations));
  Launcher(module, "k").block({threads}).seed(3).run(in.data(), out.data());
  return out.to_vector();
}

const std::string kAddresses =
    "mul.wide.u32 %rd1, %i, 16; add.s64 %rd2, %p0, %rd1; add.s64 %rd3, %p1, %rd1;\n";

TEST(PtxMemory, MovesEveryWidth) {
  const auto in = counting_bytes(1024);
  const std::string copies[] = {
      "ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%rd2]; st.global.v4.u32 [%rd3], {%r1, %r2, %r3, "
      "%r4};",
      "ld.global.nc.v2.u64 {%rd4, %rd5}, [%rd2]; st.global.v2.u64 [%rd3], {%rd4, %rd5};",
      "ld.global.v4.f32 {%f1, %f2, %f3, %f4}, [%rd2]; st.global.v4.f32 [%rd3], {%f1, %f2, %f3, "
      "%f4};",
      "ld.global.b64 %rd4, [%rd2]; ld.global.b64 %rd5, [%rd2+8];\n"
      "st.global.b64 [%rd3], %rd4; st.global.b64 [%rd3+8], %rd5;",
      "ld.volatile.global.v2.u16 {%rs1, %rs2}, [%rd2]; ld.global.v2.u16 {%rs3, %rs4}, [%rd2+4];\n"
      "ld.global.v4.u16 {%rs5, %rs6, %rs7, %rs8}, [%rd2+8];\n"
      "st.global.v2.u16 [%rd3], {%rs1, %rs2}; st.global.v2.u16 [%rd3+4], {%rs3, %rs4};\n"
      "st.global.v4.u16 [%rd3+8], {%rs5, %rs6, %rs7, %rs8};",
      // Sixteen bytes one by one, in a loop.
      "mov.u32 %r1, 0;\n$next: ld.global.u8 %rs1, [%rd2]; st.global.u8 [%rd3], %rs1;\n"
      "add.s64 %rd2, %rd2, 1; add.s64 %rd3, %rd3, 1; add.u32 %r1, %r1, 1;\n"
      "setp.lt.u32 %pr1, %r1, 16; @%pr1 bra $next;"};
  for (const std::string& copy : copies) {
    const auto out = run_bytes(kAddresses + copy);
    for (size_t i = 0; i < 512; ++i) ASSERT_EQ(out[i], in[i]) << copy << " byte " << i;
    for (size_t i = 512; i < 1024; ++i) ASSERT_EQ(out[i], 0);
  }
}

TEST(PtxMemory, ExtendsByTheTypesSign) {
  const auto in = counting_bytes(1024);
  const auto out = run_bytes(kAddresses +
                             "ld.global.s8 %r1, [%rd2]; ld.global.u8 %r2, [%rd2];\n"
                             "ld.global.s16 %r3, [%rd2]; ld.global.u16 %r4, [%rd2];\n"
                             "st.global.v4.u32 [%rd3], {%r1, %r2, %r3, %r4};");
  for (size_t i = 0; i < 32; ++i) {
    int32_t got[4];
    std::memcpy(got, &out[16 * i], sizeof got);
    const int low = in[16 * i], high = in[16 * i + 1];
    EXPECT_EQ(got[0], low < 128 ? low : low - 256);
    EXPECT_EQ(got[1], low);
    EXPECT_EQ(got[2], high < 128 ? low + 256 * high : low + 256 * high - 65536);
    EXPECT_EQ(got[3], low + 256 * high);
  }
}

TEST(PtxMemory, StoresCutRegistersAndTakeImmediates) {
  const auto out =
      run_bytes(kAddresses +
                    "mov.u32 %r1, 0x12345678; mov.u64 %rd4, 0x1122334455667788;\n"
                    "st.global.u8 [%rd3], %r1; st.global.u16 [%rd3+2], %r1;\n"
                    "st.global.u32 [%rd3+4], %rd4; st.global.v2.u32 [%rd3+8], {%r1, -1};",
                1);
  EXPECT_THAT(std::vector<uint8_t>(out.begin(), out.begin() + 16),
              ElementsAre(0x78, 0, 0x78, 0x56, 0x88, 0x77, 0x66, 0x55, 0x78, 0x56, 0x34, 0x12, 255,
                          255, 255, 255));
}

TEST(PtxMemory, SharedStaticAndDynamic) {
  // Two static arrays and the dynamic one behind them, reached by name, register and generically.
  const std::string declarations = ".extern .shared .align 16 .b8 dynamic[];\n";
  const Module module = Module::parse(entry_text(
      "k", 1,
      ".shared .align 4 .b8 first[6]; .shared .align 8 .b8 second[16];\n"
      "mov.u32 %r1, first; mov.u32 %r2, second; mov.u32 %r3, dynamic;\n"
      "st.shared.u32 [first], 11; st.shared.u32 [second+4], 22; st.shared.u32 [dynamic+8], 33;\n"
      "cvta.shared.u64 %rd1, 0; mov.u64 %rd2, dynamic; cvta.shared.u64 %rd3, %rd2;\n"
      "ld.u32 %r4, [%rd3+8]; cvta.to.shared.u64 %rd4, %rd3; ld.shared.u32 %r5, [%rd4+8];\n"
      "ld.shared.u32 %r6, [%r2+4]; sub.u32 %r7, %r2, %r1; sub.u32 %r8, %r3, %r1;\n"
      "mov.u32 %r9, %dynamic_smem_size;\n"
      "st.global.v4.u32 [%p0], {%r4, %r5, %r6, %r7}; st.global.v2.u32 [%p0+16], {%r8, %r9};",
      declarations));
  DeviceBuffer<uint32_t> out(6);
  Launcher(module, "k").shared(64).run(out.data());
  EXPECT_THAT(out.to_vector(), ElementsAre(33, 33, 22, 8, 32, 64));
}

TEST(PtxMemory, LocalMemoryIsTheThreadsOwn) {
  const auto out = run_bytes(
      ".local .align 8 .b8 depot[64];\n" + kAddresses +
      "mov.u64 %rd4, depot; cvta.local.u64 %rd5, %rd4; and.b32 %r1, %i, 3; shl.b32 %r2, %r1, 2;\n"
      "cvt.u64.u32 %rd6, %r2; add.s64 %rd7, %rd5, %rd6; add.s64 %rd8, %rd4, %rd6;\n"
      "st.local.v4.u32 [depot], {1, 2, 3, 4}; st.u32 [%rd7], %i; ld.local.u32 %r3, [%rd8];\n"
      "ld.local.v4.u32 {%r4, %r5, %r6, %r7}, [%rd4];\n"
      "st.global.v4.u32 [%rd3], {%r4, %r5, %r6, %r7};");
  for (uint32_t i = 0; i < 32; ++i) {
    uint32_t got[4];
    std::memcpy(got, &out[16 * i], sizeof got);
    for (uint32_t k = 0; k < 4; ++k) EXPECT_EQ(got[k], k == i % 4 ? i : k + 1);
  }
}

struct Params {
  uint32_t* out;
  int32_t table[4];
  int8_t small;
  double factor;
};

TEST(PtxMemory, StructParametersByNameAndAddress) {
  const std::string text =
      std::string(kPtxHeader) +
      ".visible .entry k(.param .align 8 .b8 k_param_0[40], .param .u32 k_param_1)\n{\n"
      ".reg .b64 %rd<9>; .reg .b32 %r<9>; .reg .f64 %fd<3>; .reg .b16 %rs<2>;\n"
      "ld.param.u64 %rd1, [k_param_0]; ld.param.s8 %r1, [k_param_0+24];\n"
      "ld.param.f64 %fd1, [k_param_0+32]; cvt.rzi.s32.f64 %r2, %fd1; ld.param.u32 %r3, "
      "[k_param_1];\n"
      "mov.b64 %rd2, k_param_0; mul.wide.u32 %rd3, %r3, 4; add.s64 %rd4, %rd2, %rd3;\n"
      "ld.param.u32 %r4, [%rd4+8]; cvta.param.u64 %rd5, %rd2; add.s64 %rd5, %rd5, %rd3;\n"
      "ld.u32 %r5, [%rd5+8]; st.global.v4.u32 [%rd1], {%r1, %r2, %r4, %r5};\nret;\n}\n";
  DeviceBuffer<uint32_t> out(4);
  const Params params{out.data(), {5, 6, 7, 8}, -3, 12.75};
  Launcher(Module::parse(text), "k").run(params, uint32_t{2});
  EXPECT_THAT(out.to_vector(), ElementsAre(static_cast<uint32_t>(-3), 12, 7, 7));
}

TEST(PtxMemory, ModuleVariablesKeepTheirValues) {
  const Module module = Module::parse(
      entry_text("k", 1,
                 "mov.u64 %rd1, counter; atom.global.add.u32 %r1, [%rd1], 1; mov.u64 %rd2, table;\n"
                 "ld.const.f32 %f1, [%rd2+4]; ld.global.u8 %r2, [bytes+2]; mov.b32 %r3, %f1;\n"
                 "mov.u64 %rd3, bytes; cvta.global.u64 %rd4, %rd3; ld.u8 %r4, [%rd4+1];\n"
                 "st.global.v4.u32 [%p0], {%r1, %r2, %r3, %r4};",
                 ".global .align 4 .u32 counter = 40;\n.global .align 1 .b8 bytes[4] = {7, 8, 9};\n"
                 ".const .align 4 .f32 table[2] = {0f3F800000, 0f40490FDB};\n"));
  DeviceBuffer<uint32_t> out(4);
  Launcher(module, "k").run(out.data());
  EXPECT_THAT(out.to_vector(), ElementsAre(40, 9, 0x40490FDB, 8));
  Launcher(module, "k").run(out.data());
  EXPECT_EQ(out[0], 41u);
}

/// All 64 threads of 2 blocks apply `opcode` with their index (or 2 * index for cas) to one word.
template <typename T>
T run_atomic(const std::string& opcode, T start, const std::string& value) {
  const Module module = Module::parse(entry_text("k", 2, value + "\n" + opcode + ";"));
  DeviceBuffer<T> word(std::vector<T>{start});
  DeviceBuffer<uint32_t> olds(128);
  for (uint64_t seed = 0; seed < 3; ++seed) {
    word[0] = start;
    Launcher(module, "k").grid({2}).block({64}).seed(seed).run(word.data(), olds.data());
  }
  return word[0];
}

TEST(PtxMemory, Atomics) {
  const std::string index = "mov.b32 %r1, %i; cvt.u64.u32 %rd1, %i; cvt.rn.f32.u32 %f1, %i;";
  EXPECT_EQ(run_atomic<uint32_t>("red.global.add.u32 [%p0], %r1", 5, index), 5u + 127 * 64);
  EXPECT_EQ(run_atomic<uint64_t>("red.global.add.u64 [%p0], %rd1", 5, index), 5u + 127 * 64);
  EXPECT_EQ(run_atomic<float>("atom.global.add.f32 %f2, [%p0], %f1", 0.5f, index), 8128.5f);
  EXPECT_EQ(run_atomic<uint32_t>("red.global.max.u32 [%p0], %r1", 5, index), 127u);
  EXPECT_EQ(run_atomic<int32_t>("red.relaxed.gpu.global.min.s32 [%p0], %r1", 5,
                                index + "neg.s32 %r1, %r1;"),
            -127);
  EXPECT_EQ(run_atomic<uint32_t>("red.global.or.b32 [%p0], %r1", 0, index), 127u);
  EXPECT_EQ(run_atomic<uint32_t>("red.global.and.b32 [%p0], %r1", ~0u, index), 0u);
  EXPECT_EQ(run_atomic<uint32_t>("red.global.xor.b32 [%p0], %r1", 9, index), 9u);
  // Counting modulo 6 and down from 9: 128 steps.
  EXPECT_EQ(run_atomic<uint32_t>("atom.global.inc.u32 %r2, [%p0], 5", 0, index), 128u % 6);
  EXPECT_EQ(run_atomic<uint32_t>("atom.global.dec.u32 %r2, [%p0], 9", 0, index), 10 - 128u % 10);
  // Only one thread finds the start value.
  EXPECT_EQ(run_atomic<uint32_t>("atom.global.cas.b32 %r2, [%p0], 7, 100", 7, index), 100u);
  EXPECT_LT(run_atomic<uint32_t>("atom.global.exch.b32 %r2, [%p0], %r1", 500, index), 128u);
  // 1.0 + 128 * 2 in both halves.
  EXPECT_EQ(run_atomic<uint32_t>("atom.global.add.noftz.f16x2 %r2, [%p0], %r1", 0x3c003c00,
                                 "mov.b32 %r1, 0x40004000;"),
            0x5c045c04u);
}

TEST(PtxMemory, AtomicsReturnWhatWasThere) {
  // Every thread takes a ticket: all numbers once.
  const Module module =
      Module::parse(entry_text("k", 2,
                               "atom.global.add.u32 %r1, [%p0], 1; mul.wide.u32 %rd1, %r1, 4;\n"
                               "add.s64 %rd1, %p1, %rd1; st.global.u32 [%rd1], 1;"));
  for (uint64_t seed = 0; seed < 4; ++seed) {
    DeviceBuffer<uint32_t> word(std::vector<uint32_t>{0}), taken(std::vector<uint32_t>(96, 0));
    Launcher(module, "k").grid({3}).block({32}).seed(seed).run(word.data(), taken.data());
    EXPECT_THAT(taken.to_vector(), Each(1u));
  }
}

TEST(PtxMemory, BuffersStartAsNanBetweenGuards) {
  DeviceBuffer<uint32_t> buffer(3);
  EXPECT_THAT(buffer.to_vector(), Each(0xffffffffu));
  EXPECT_EQ(reinterpret_cast<uint64_t>(buffer.data()) % 256, 0u);
  DeviceBuffer<uint32_t> empty(0);
  EXPECT_NE(empty.data(), nullptr);
}

TEST(PtxMemoryDeathTest, HostWritesOutsideABufferAreNoticed) {
  EXPECT_DEATH(
      {
        DeviceBuffer<uint32_t> buffer(3);
        buffer[3] = 1;
      },
      "outside a buffer of 12 bytes");
}

}  // namespace
}  // namespace rillkv::ptx
