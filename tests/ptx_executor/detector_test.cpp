// Seeded bugs: every detector must find its own, name the instruction, and stay silent on the
// repaired kernel beside it.
#include <gmock/gmock.h>

#include "tests/ptx_executor/ptx_case.h"

namespace rillkv::ptx {
namespace {

using testing::HasSubstr;
using Kind = Finding::Kind;

/// Shared memory of 128 floats, and its address for this thread in %r1.
const char* const kShared =
    ".shared .align 16 .b8 sm[512];\n"
    "mov.u32 %r0, sm; shl.b32 %r2, %i, 2; add.u32 %r1, %r0, %r2;\n";

struct Shape {
  uint32_t blocks = 1;
  uint32_t threads = 128;
  size_t words = 256;  // of the buffer p0 points to
};

Report run_body(const std::string& body, uint64_t seed, Shape shape = {}) {
  const Module module = Module::parse(entry_text("buggy", 1, body));
  DeviceBuffer<uint32_t> out(std::vector<uint32_t>(shape.words, 0));
  return Launcher(module, "buggy")
      .grid({shape.blocks})
      .block({shape.threads})
      .seed(seed)
      .instruction_limit(1'000'000)
      .collect(out.data());
}

void expect_clean(const std::string& body, Shape shape = {}) {
  for (uint64_t seed = 0; seed < 6; ++seed) {
    const Report report = run_body(body, seed, shape);
    EXPECT_TRUE(report.findings.empty()) << "seed " << seed << '\n' << report.to_string();
    EXPECT_TRUE(report.completed);
  }
}

/// The only kind of finding, under every order of warps, and `where` in its message.
void expect_only(Kind kind, const std::string& where, const std::string& body, Shape shape = {}) {
  for (uint64_t seed = 0; seed < 6; ++seed) {
    const Report report = run_body(body, seed, shape);
    ASSERT_FALSE(report.findings.empty()) << "seed " << seed << " missed it";
    for (const Finding& f : report.findings) EXPECT_EQ(f.kind, kind) << report.to_string();
    EXPECT_THAT(report.to_string(), HasSubstr(where));
  }
}

const std::string kStoreIndex = std::string(kShared) + "st.shared.u32 [%r1], %i;\n";
/// Reads the word of thread i ^ 32 (another warp) or i ^ 1 (a lane of this one), and stores it.
const std::string kStoreResult =
    "mul.wide.u32 %rd1, %i, 4; add.s64 %rd1, %p0, %rd1;\n"
    "st.global.u32 [%rd1], %r4;";
std::string read_of(int distance) {
  return "xor.b32 %r3, %r2, " + std::to_string(4 * distance) +
         "; add.u32 %r3, %r0, %r3; ld.shared.u32 %r4, [%r3];\n" + kStoreResult;
}

TEST(PtxDetector, MissingBarrierIsARace) {
  // With warps in order the first reads what nobody has written yet, too.
  const Report report = run_body(kStoreIndex + read_of(32), 0);
  EXPECT_TRUE(report.has(Kind::kRace)) << report.to_string();
  EXPECT_TRUE(report.has(Kind::kUninitialised)) << report.to_string();
  for (uint64_t seed = 1; seed < 6; ++seed) {
    EXPECT_TRUE(run_body(kStoreIndex + read_of(32), seed).has(Kind::kRace)) << seed;
  }
  expect_clean(kStoreIndex + "bar.sync 0;\n" + read_of(32));
}

TEST(PtxDetector, WriteAfterReadIsARace) {
  const std::string again = "add.u32 %r3, %r0, %r2; st.shared.u32 [%r3], %r4;\n";
  const std::string first = kStoreIndex + "bar.sync 0;\n" + read_of(32) + "\n";
  expect_only(Kind::kRace, "st.shared.u32", first + again);
  expect_clean(first + "bar.sync 0;\n" + again);
}

TEST(PtxDetector, LanesOfOneWarpRaceWithoutWarpSync) {
  expect_only(Kind::kRace, "ld.shared.u32", kStoreIndex + read_of(1));
  expect_clean(kStoreIndex + "bar.warp.sync 0xffffffff;\n" + read_of(1));
  // A shuffle synchronises execution, but orders no memory accesses.
  expect_only(Kind::kRace, "ld.shared.u32",
              kStoreIndex + "shfl.sync.bfly.b32 %r6, %r5, 1, 31, 0xffffffff;\n" + read_of(1));
}

TEST(PtxDetector, WarpSyncOfHalfAWarpOrdersThatHalf) {
  const std::string sync_half =
      "and.b32 %r7, %i, 16; shl.b32 %r8, 65535, %r7; bar.warp.sync %r8;\n";
  expect_clean(kStoreIndex + sync_half + read_of(1));
  expect_only(Kind::kRace, "ld.shared.u32", kStoreIndex + sync_half + read_of(16));
}

TEST(PtxDetector, TwoWritersOfOneWordRace) {
  expect_only(Kind::kRace, "st.shared.u32",
              std::string(kShared) +
                  "shr.u32 %r3, %i, 1; shl.b32 %r3, %r3, 2;\n"
                  "add.u32 %r3, %r0, %r3; st.shared.u32 [%r3], %i;");
}

TEST(PtxDetector, NeighbouringBytesDoNotRace) {
  const std::string bytes = std::string(kShared) +
                            "add.u32 %r3, %r0, %i; st.shared.u8 [%r3], %i; bar.sync 0;\n"
                            "ld.shared.u8 %r4, [%r3];\n" +
                            kStoreResult;
  expect_clean(bytes);
  // The same with two threads a byte.
  expect_only(
      Kind::kRace, "st.shared.u8",
      std::string(kShared) + "shr.u32 %r3, %i, 1; add.u32 %r3, %r0, %r3; st.shared.u8 [%r3], %i;");
}

TEST(PtxDetector, WordAndByteAccessesMeet) {
  // Thread 0 writes a word, thread 32 one byte of it.
  expect_only(Kind::kRace, "byte 2",
              std::string(kShared) +
                  "setp.eq.u32 %pr1, %i, 0; setp.eq.u32 %pr2, %i, 32;\n"
                  "@%pr1 st.shared.u32 [sm], %i; @%pr2 st.shared.u8 [sm+2], %i;");
}

TEST(PtxDetector, BlocksRaceInGlobalMemory) {
  const Shape many{4, 32, 256};
  const std::string same =
      "mov.u32 %r4, %tid.x; mul.wide.u32 %rd1, %r4, 4;\n"
      "add.s64 %rd1, %p0, %rd1; st.global.u32 [%rd1], %i;";
  expect_only(Kind::kRace, "another block", same, many);
  expect_clean(kStoreResult.substr(0, kStoreResult.rfind("st.")) + "st.global.u32 [%rd1], %i;",
               many);
  // One block reads what another writes.
  expect_only(Kind::kRace, "global memory",
              "mul.wide.u32 %rd1, %i, 4; add.s64 %rd1, %p0, %rd1; ld.global.u32 %r4, [%p0];\n"
              "st.global.u32 [%rd1], %r4;",
              many);
  // All read one word: no race.
  expect_clean(
      "mul.wide.u32 %rd1, %i, 4; add.s64 %rd1, %p0, %rd1; ld.global.u32 %r4, [%p0+900];\n"
      "st.global.u32 [%rd1], %r4;",
      many);
}

TEST(PtxDetector, AtomicsDoNotRaceWithEachOther) {
  const Shape many{4, 64, 256};
  expect_clean("red.global.add.u32 [%p0], 1;", many);
  expect_only(Kind::kRace, "atomic", "red.global.add.u32 [%p0], 1; ld.global.u32 %r4, [%p0];",
              many);
}

TEST(PtxDetector, BarriersOrderGlobalMemoryOfTheBlock) {
  const std::string exchange =
      "mul.wide.u32 %rd1, %i, 4; add.s64 %rd1, %p0, %rd1;\n"
      "st.global.u32 [%rd1], %i;\nBARRIER\n"
      "xor.b32 %r3, %i, 64; mul.wide.u32 %rd2, %r3, 4;\n"
      "add.s64 %rd2, %p0, %rd2; ld.global.u32 %r4, [%rd2];";
  const auto with = [&](const std::string& barrier) {
    std::string body = exchange;
    return body.replace(body.find("BARRIER"), 7, barrier);
  };
  expect_clean(with("bar.sync 0;"));
  expect_only(Kind::kRace, "ld.global.u32", with(""));
}

TEST(PtxDetector, UninitialisedSharedMemory) {
  const std::string half = std::string(kShared) +
                           "setp.lt.u32 %pr1, %i, 64; @%pr1 st.shared.u32 [%r1], %i; bar.sync 0;\n";
  expect_only(Kind::kUninitialised, "never written", half + read_of(64));
  // An atomic reads, too.
  expect_only(Kind::kUninitialised, "atom.shared",
              std::string(kShared) + "atom.shared.add.u32 %r3, [%r1], 1;");
}

TEST(PtxDetector, SharedMemoryIsFreshInEveryBlock) {
  expect_only(Kind::kUninitialised, "ld.shared.u32",
              std::string(kShared) +
                  "mov.u32 %r5, %ctaid.x; setp.eq.u32 %pr1, %r5, 0;\n"
                  "mov.u32 %r3, %tid.x; shl.b32 %r3, %r3, 2;\n"
                  "add.u32 %r3, %r0, %r3; @%pr1 st.shared.u32 [%r3], %i;\n"
                  "bar.sync 0; ld.shared.u32 %r4, [%r3];",
              {2, 32, 256});
}

TEST(PtxDetector, OutOfBounds) {
  const std::string at = "mul.wide.u32 %rd1, %i, 4; add.s64 %rd1, %p0, %rd1;\n";
  expect_only(Kind::kOutOfBounds, "offset 508", at + "ld.global.u32 %r4, [%rd1];", {1, 128, 127});
  expect_only(Kind::kOutOfBounds, "st.global.u32", at + "st.global.u32 [%rd1+-4], %i;");
  // The last two words of an odd buffer do not hold a 16-byte vector.
  expect_only(Kind::kOutOfBounds, "16 bytes",
              "mul.wide.u32 %rd1, %i, 16; add.s64 %rd1, %p0, %rd1;\n"
              "ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%rd1];",
              {1, 64, 254});
  expect_only(Kind::kOutOfBounds, "shared memory",
              std::string(kShared) + "st.shared.u32 [%r1+4], %i;");
  expect_only(Kind::kOutOfBounds, "st.shared.u32",
              "mov.u32 %r1, 0; st.shared.u32 [%r1], %i;");  // there is none
}

TEST(PtxDetector, NullPointer) {
  expect_only(Kind::kOutOfBounds, "0x0", "mov.u64 %rd1, 0; ld.global.u32 %r4, [%rd1];");
}

TEST(PtxDetector, WriteToConstantMemory) {
  const Module module =
      Module::parse(entry_text("k", 1, "mov.u64 %rd1, table; st.global.u32 [%rd1], %i;",
                               ".const .align 4 .u32 table[4] = {1, 2, 3, 4};"));
  DeviceBuffer<uint32_t> out(1);
  const Report report = Launcher(module, "k").collect(out.data());
  EXPECT_TRUE(report.has(Kind::kOutOfBounds));
  EXPECT_THAT(report.to_string(), HasSubstr("constant"));
}

TEST(PtxDetector, Misaligned) {
  expect_only(Kind::kMisaligned, "4 modulo 8", "add.s64 %rd1, %p0, 4; ld.global.b64 %rd2, [%rd1];");
  expect_only(Kind::kMisaligned, "8 modulo 16", "ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%p0+8];");
  expect_only(Kind::kMisaligned, "2 modulo 4", std::string(kShared) + "st.shared.u32 [%r0+2], %i;");
}

TEST(PtxDetector, ThreadsThatExitBeforeABarrier) {
  expect_only(Kind::kDivergentBarrier, "exited",
              "setp.ge.u32 %pr1, %i, 100; @%pr1 ret; bar.sync 0;");
  // A whole warp.
  expect_only(Kind::kDivergentBarrier, "exited",
              "setp.ge.u32 %pr1, %i, 96; @%pr1 ret; bar.sync 0;");
  expect_clean("bar.sync 0; setp.ge.u32 %pr1, %i, 100; @%pr1 ret;");
}

TEST(PtxDetector, WarpsAtDifferentBarriers) {
  const std::string two =
      "setp.ge.u32 %pr1, %i, LIMIT; @%pr1 bra $other; bar.sync 0; bra $end;\n"
      "$other: bar.sync 0;\n$end:";
  const auto with = [&](const std::string& limit) {
    std::string body = two;
    return body.replace(body.find("LIMIT"), 5, limit);
  };
  expect_only(Kind::kDivergentBarrier, "bar.sync", with("64"));  // whole warps
  expect_only(Kind::kDivergentBarrier, "bar.sync", with("50"));  // within a warp
  expect_clean(with("128"));
}

TEST(PtxDetector, CollectiveWithoutItsLanes) {
  expect_only(Kind::kDivergentCollective, "never arrive",
              "setp.ge.u32 %pr1, %i, 3; @%pr1 bra $end;\n"
              "shfl.sync.idx.b32 %r1, %i, 0, 31, 0xffffffff;\n$end: bar.warp.sync 0xffffffff;");
  expect_only(Kind::kBadLane, "not in its own mask", "vote.sync.ballot.b32 %r1, %pr0, 0x7fffffff;");
  expect_only(Kind::kBadLane, "reads lane",
              "setp.ge.u32 %pr1, %i, 4; @%pr1 ret; shfl.sync.idx.b32 %r1, %i, 20, 31, 15;",
              {1, 32, 1});
  expect_only(Kind::kDivergentCollective, "all 32 lanes",
              "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r1}, [%r2];", {1, 16, 1});
}

TEST(PtxDetector, Traps) {
  expect_only(Kind::kTrap, "thread 7", "setp.eq.u32 %pr1, %i, 7; @%pr1 trap;");
}

TEST(PtxDetector, EndlessLoops) { expect_only(Kind::kRunaway, "1000000", "$again: bra $again;"); }

TEST(PtxDetector, RunThrowsWhatCollectReturns) {
  const Module module = Module::parse(entry_text("k", 1, "ld.global.u32 %r4, [%p0+4];"));
  DeviceBuffer<uint32_t> one(1);
  try {
    Launcher(module, "k").run(one.data());
    FAIL() << "no Fault";
  } catch (const Fault& fault) {
    EXPECT_TRUE(fault.report.has(Kind::kOutOfBounds));
    EXPECT_FALSE(fault.report.completed);
    EXPECT_THAT(fault.what(), HasSubstr("ld.global.u32"));
  }
}

TEST(PtxDetector, EqualFindingsAreCounted) {
  const Report report = run_body("red.global.add.u32 [%p0], 1; ld.global.u32 %r4, [%p0];", 0);
  ASSERT_EQ(report.findings.size(), 2u) << report.to_string();  // read after atomic, and back
  EXPECT_GT(report.findings[0].count, 1u);
}

}  // namespace
}  // namespace rillkv::ptx
