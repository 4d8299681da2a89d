// cp.async: what lands, when, and what is caught before.
#include <gmock/gmock.h>

#include <numeric>

#include "tests/ptx_executor/ptx_case.h"

namespace rillkv::ptx {
namespace {

using testing::HasSubstr;
using Kind = Finding::Kind;

/// One warp; every lane copies 16 bytes from p0 to shared memory (address %r1, source %rd1) and
/// stores what it reads back to p1 (address %rd2).
const std::string kPrologue =
    ".shared .align 16 .b8 sm[1024];\n"
    "mov.u32 %r0, sm; shl.b32 %r2, %i, 4; add.u32 %r1, %r0, %r2; cvt.u64.u32 %rd3, %r2;\n"
    "add.s64 %rd1, %p0, %rd3; add.s64 %rd2, %p1, %rd3;\n";
const std::string kEpilogue =
    "ld.shared.v4.u32 {%r4, %r5, %r6, %r7}, [%r1];\n"
    "st.global.v4.u32 [%rd2], {%r4, %r5, %r6, %r7};";

struct Outcome {
  Report report;
  std::vector<uint32_t> out;
};

Outcome run_copy(const std::string& body, uint64_t seed, uint32_t threads = 32) {
  std::vector<uint32_t> source(256);
  std::iota(source.begin(), source.end(), 1u);
  DeviceBuffer<uint32_t> in(source), out(source.size());
  const Module module = Module::parse(entry_text("copy", 2, kPrologue + body));
  const Report report =
      Launcher(module, "copy").block({threads}).seed(seed).collect(in.data(), out.data());
  return {report, out.to_vector()};
}

void expect_clean_copy(const std::string& body) {
  for (uint64_t seed = 0; seed < 4; ++seed) {
    const Outcome got = run_copy(body, seed);
    EXPECT_TRUE(got.report.findings.empty()) << got.report.to_string();
    for (uint32_t i = 0; i < 128; ++i) ASSERT_EQ(got.out[i], i + 1) << "seed " << seed;
  }
}

void expect_finding(Kind kind, const std::string& body, uint32_t threads = 32) {
  for (uint64_t seed = 0; seed < 4; ++seed) {
    const Outcome got = run_copy(body, seed, threads);
    EXPECT_TRUE(got.report.has(kind)) << "seed " << seed << '\n' << got.report.to_string();
  }
}

TEST(PtxAsync, LandsAtTheWait) {
  const std::string issue = "cp.async.cg.shared.global [%r1], [%rd1], 16;\n";
  expect_clean_copy(issue + "cp.async.commit_group; cp.async.wait_group 0;\n" + kEpilogue);
  expect_clean_copy(issue + "cp.async.wait_all;\n" + kEpilogue);
  expect_clean_copy(
      "cp.async.ca.shared.global [%r1], [%rd1], 8;\n"
      "cp.async.ca.shared.global.L2::128B [%r1+8], [%rd1+8], 8; cp.async.wait_all;\n" +
      kEpilogue);
  expect_clean_copy(
      "cp.async.ca.shared.global [%r1], [%rd1], 4; cp.async.ca.shared.global [%r1+4], [%rd1+4], "
      "4;\n"
      "cp.async.ca.shared.global [%r1+8], [%rd1+8], 8; cp.async.commit_group;\n"
      "cp.async.wait_group 0;\n" +
      kEpilogue);
}

TEST(PtxAsync, ReadingBeforeTheWaitIsCaught) {
  const std::string issue = "cp.async.cg.shared.global [%r1], [%rd1], 16;\n";
  expect_finding(Kind::kPendingCopy, issue + kEpilogue);
  // Committed but not waited for.
  expect_finding(Kind::kPendingCopy, issue + "cp.async.commit_group;\n" + kEpilogue);
  // Waiting for committed groups leaves out what is not committed.
  expect_finding(Kind::kPendingCopy, issue + "cp.async.wait_group 0;\n" + kEpilogue);
  // One group too many left pending.
  expect_finding(Kind::kPendingCopy,
                 issue + "cp.async.commit_group; cp.async.wait_group 1;\n" + kEpilogue);
  // Writing there is as wrong.
  expect_finding(Kind::kPendingCopy, issue + "st.shared.u32 [%r1], %i; cp.async.wait_all;");
}

TEST(PtxAsync, PendingDataReadsAsPoison) {
  const Outcome got = run_copy("cp.async.cg.shared.global [%r1], [%rd1], 16;\n" + kEpilogue, 0);
  EXPECT_EQ(got.out[0], 0xffffffffu);
}

TEST(PtxAsync, WaitsForTheOldestGroups) {
  // Two stages; waiting for all but one makes the first readable.
  const std::string two =
      "cp.async.cg.shared.global [%r1], [%rd1], 16; cp.async.commit_group;\n"
      "cp.async.cg.shared.global [%r1+512], [%rd1+512], 16;\n"
      "cp.async.commit_group; cp.async.wait_group 1;\n";
  expect_clean_copy(two + kEpilogue);
  expect_finding(Kind::kPendingCopy, two + "ld.shared.u32 %r4, [%r1+512];");
  // Empty groups count.
  expect_clean_copy(
      "cp.async.cg.shared.global [%r1], [%rd1], 16; cp.async.commit_group;\n"
      "cp.async.commit_group; cp.async.wait_group 1;\n" +
      kEpilogue);
}

TEST(PtxAsync, OtherThreadsNeedABarrier) {
  const std::string copy = "cp.async.cg.shared.global [%r1], [%rd1], 16; cp.async.wait_all;\n";
  const std::string read =
      "xor.b32 %r3, %r2, 512; add.u32 %r3, %r0, %r3;\n"
      "ld.shared.u32 %r4, [%r3];";
  for (uint64_t seed = 0; seed < 4; ++seed) {
    const Outcome got = run_copy(copy + read, seed, 64);
    EXPECT_FALSE(got.report.findings.empty()) << "seed " << seed;
    EXPECT_TRUE(run_copy(copy + "bar.sync 0;\n" + read, seed, 64).report.findings.empty());
  }
  // The barrier before the wait orders nothing that lands after it.
  expect_finding(
      Kind::kPendingCopy,
      "cp.async.cg.shared.global [%r1], [%rd1], 16; bar.sync 0;\n" + read + "cp.async.wait_all;",
      64);
}

TEST(PtxAsync, OverwritingWhatAnotherWarpStillReadsIsARace) {
  const std::string refill =
      "st.shared.v4.u32 [%r1], {%i, %i, %i, %i}; bar.sync 0;\n"
      "xor.b32 %r3, %r2, 512; add.u32 %r3, %r0, %r3;\n"
      "ld.shared.u32 %r4, [%r3];\nSYNC\n"
      "cp.async.cg.shared.global [%r1], [%rd1], 16; cp.async.wait_all;";
  const auto with = [&](const std::string& sync) {
    std::string body = refill;
    return body.replace(body.find("SYNC"), 4, sync);
  };
  for (uint64_t seed = 0; seed < 4; ++seed) {
    EXPECT_FALSE(run_copy(with(""), seed, 64).report.findings.empty()) << seed;
    EXPECT_TRUE(run_copy(with("bar.sync 0;"), seed, 64).report.findings.empty()) << seed;
  }
}

TEST(PtxAsync, ShortSourcesAreFilledWithZeros) {
  for (const uint32_t bytes : {0u, 4u, 8u, 12u, 16u}) {
    const Outcome got = run_copy("cp.async.cg.shared.global [%r1], [%rd1], 16, " +
                                     std::to_string(bytes) + "; cp.async.wait_all;\n" + kEpilogue,
                                 1);
    EXPECT_TRUE(got.report.findings.empty()) << got.report.to_string();
    for (uint32_t i = 0; i < 128; ++i) {
      ASSERT_EQ(got.out[i], i % 4 < bytes / 4 ? i + 1 : 0u) << bytes << " bytes, word " << i;
    }
  }
}

TEST(PtxAsync, ChecksBothEnds) {
  expect_finding(Kind::kOutOfBounds, "cp.async.cg.shared.global [%r1+1024], [%rd1], 16;");
  expect_finding(Kind::kOutOfBounds, "cp.async.cg.shared.global [%r1], [%rd1+1024], 16;");
  expect_finding(Kind::kMisaligned, "cp.async.cg.shared.global [%r1], [%rd1+8], 16;");
  expect_finding(Kind::kMisaligned, "cp.async.cg.shared.global [%r1+4], [%rd1], 16;");
  // No source byte is read, so its address does not matter.
  const Outcome got = run_copy(
      "mov.u64 %rd1, 0; cp.async.cg.shared.global [%r1], [%rd1], 16, 0;\n"
      "cp.async.wait_all;\n" +
          kEpilogue,
      0);
  EXPECT_TRUE(got.report.findings.empty()) << got.report.to_string();
  EXPECT_EQ(got.out[0], 0u);
}

}  // namespace
}  // namespace rillkv::ptx
