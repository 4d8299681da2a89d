// Bank conflicts and sectors, for patterns whose cost is known.
#include "tests/ptx_executor/ptx_case.h"

namespace rillkv::ptx {
namespace {

/// The profile of the one memory instruction in `body` (one warp, 32 KB of shared memory).
SiteProfile profile_of(const std::string& body, const std::string& opcode) {
  const Module module = Module::parse(
      entry_text("k", 1, ".shared .align 16 .b8 sm[32768];\nmov.u32 %r1, sm;\n" + body));
  DeviceBuffer<uint32_t> data(std::vector<uint32_t>(8192, 0));
  const Report report = Launcher(module, "k").block({32}).profile().run(data.data());
  for (const SiteProfile& site : report.sites) {
    if (site.source.find(opcode) != std::string::npos) return site;
  }
  ADD_FAILURE() << "no site " << opcode;
  return {};
}

void expect_banks(const std::string& store, uint64_t wavefronts, uint64_t least) {
  const SiteProfile site = profile_of(store, "st.shared");
  EXPECT_TRUE(site.shared);
  EXPECT_EQ(site.executions, 1u);
  EXPECT_EQ(site.wavefronts, wavefronts) << store;
  EXPECT_EQ(site.min_wavefronts, least) << store;
}

TEST(PtxProfile, InstructionsByName) {
  const Module module = Module::parse(entry_text("k", 1,
                                                 "add.u32 %r1, %i, 1;\nadd.u32 %r1, %r1, 2;\n"
                                                 "mul.lo.u32 %r2, %r1, %r1;\n"));
  DeviceBuffer<uint32_t> data(std::vector<uint32_t>(1, 0));
  const Report report = Launcher(module, "k").block({64}).profile().run(data.data());
  EXPECT_EQ(report.opcodes.at("add.u32"), 4u);  // two warps
  EXPECT_EQ(report.opcodes.at("mul.lo.u32"), 2u);
  uint64_t sum = 0;
  for (const auto& [name, count] : report.opcodes) sum += count;
  EXPECT_EQ(sum, report.warp_instructions);
  EXPECT_TRUE(Launcher(module, "k").block({64}).run(data.data()).opcodes.empty());
}

TEST(PtxProfile, BankConflicts) {
  const auto at = [](int stride) {
    return "mad.lo.u32 %r2, %i, " + std::to_string(stride) + ", %r1;\n";
  };
  expect_banks(at(4) + "st.shared.u32 [%r2], %i;", 1, 1);
  expect_banks(at(8) + "st.shared.u32 [%r2], %i;", 2, 1);     // every other bank
  expect_banks(at(128) + "st.shared.u32 [%r2], %i;", 32, 1);  // one bank
  expect_banks(at(132) + "st.shared.u32 [%r2], %i;", 1, 1);   // padded
  expect_banks(at(2) + "st.shared.u16 [%r2], %i;", 1, 1);     // two lanes a word
  expect_banks(at(16) + "st.shared.v4.u32 [%r2], {%i, %i, %i, %i};", 4, 4);
  expect_banks(at(32) + "st.shared.v4.u32 [%r2], {%i, %i, %i, %i};", 8, 4);
  expect_banks(at(8) + "st.shared.v2.u32 [%r2], {%i, %i};", 2, 2);
}

TEST(PtxProfile, EveryPassHasItsOwnConflicts) {
  // Each half of the warp has a two-way conflict, in banks that the other half leaves idle.
  expect_banks(
      "shl.b32 %r2, %i, 4; and.b32 %r3, %i, 16; shr.u32 %r3, %r3, 1;\n"
      "add.u32 %r2, %r2, %r3; add.u32 %r2, %r2, %r1; st.shared.v2.u32 [%r2], {%i, %i};",
      4, 2);
}

TEST(PtxProfile, BroadcastsAreFree) {
  const SiteProfile site = profile_of(
      "setp.eq.u32 %pr1, %i, 0; @%pr1 st.shared.u32 [%r1], 0; bar.warp.sync -1; ld.shared.u32 %r3, "
      "[%r1];",
      "ld.shared");
  EXPECT_EQ(site.wavefronts, 1u);
}

TEST(PtxProfile, MatrixRows) {
  const auto rows = [](int stride) {
    return "mad.lo.u32 %r2, %i, " + std::to_string(stride) +
           ", %r1; st.shared.v4.u32 [%r2], {0, 0, 0, 0};\nbar.warp.sync -1;\n"
           "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r3, %r4, %r5, %r6}, [%r2];";
  };
  EXPECT_EQ(profile_of(rows(256), "ldmatrix").wavefronts, 32u);  // all rows in the same banks
  EXPECT_EQ(profile_of(rows(272), "ldmatrix").wavefronts, 4u);   // padded by 16 bytes
  EXPECT_EQ(profile_of(rows(272), "ldmatrix").min_wavefronts, 4u);
}

void expect_sectors(const std::string& load, uint64_t sectors, uint64_t least) {
  const SiteProfile site = profile_of(load, "ld.global");
  EXPECT_FALSE(site.shared);
  EXPECT_EQ(site.sectors, sectors) << load;
  EXPECT_EQ(site.min_sectors, least) << load;
}

TEST(PtxProfile, Sectors) {
  const auto at = [](int stride, int offset) {
    return "mul.wide.u32 %rd1, %i, " + std::to_string(stride) + "; add.s64 %rd1, %p0, %rd1;\n" +
           "add.s64 %rd1, %rd1, " + std::to_string(offset) + ";\n";
  };
  expect_sectors(at(4, 0) + "ld.global.u32 %r3, [%rd1];", 4, 4);
  expect_sectors(at(4, 4) + "ld.global.u32 %r3, [%rd1];", 5, 4);  // off by a word
  expect_sectors(at(32, 0) + "ld.global.u32 %r3, [%rd1];", 32, 4);
  expect_sectors(at(0, 0) + "ld.global.u32 %r3, [%rd1];", 1, 1);  // all lanes the same
  expect_sectors(at(16, 0) + "ld.global.v4.u32 {%r3, %r4, %r5, %r6}, [%rd1];", 16, 16);
  expect_sectors(at(1, 0) + "ld.global.u8 %r3, [%rd1];", 1, 1);
}

TEST(PtxProfile, AsynchronousCopiesCountOnBothSides) {
  const Module module = Module::parse(
      entry_text("k", 1,
                 ".shared .align 16 .b8 sm[1024];\nmov.u32 %r1, sm; shl.b32 %r2, %i, 4;\n"
                 "add.u32 %r1, %r1, %r2; cvt.u64.u32 %rd1, %r2; add.s64 %rd1, %p0, %rd1;\n"
                 "cp.async.cg.shared.global [%r1], [%rd1], 16; cp.async.wait_all;"));
  DeviceBuffer<uint32_t> data(128);
  const Report report = Launcher(module, "k").block({32}).profile().run(data.data());
  ASSERT_EQ(report.sites.size(), 2u);
  EXPECT_EQ(report.sites[0].wavefronts, 4u);
  EXPECT_EQ(report.sites[1].sectors, 16u);
  EXPECT_EQ(report.bank_conflicts() + report.excess_sectors(), 0u);
}

}  // namespace
}  // namespace rillkv::ptx
