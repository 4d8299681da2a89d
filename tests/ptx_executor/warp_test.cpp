// Collectives of a warp, divergence and reconvergence, calls, barriers with reductions.
#include <gmock/gmock.h>

#include <functional>
#include <numeric>
#include <set>

#include "tests/ptx_executor/ptx_case.h"

namespace rillkv::ptx {
namespace {

/// Runs `lines` in one warp; %d becomes the result of each lane.
std::vector<uint32_t> run_lanes(const std::string& lines, uint64_t seed = 1) {
  const Module module =
      Module::parse(entry_text("k", 1,
                               ".reg .b32 %d;\n" + lines +
                                   "\nmul.wide.u32 %rd1, %i, 4; add.s64 %rd1, %p0, %rd1;\n"
                                   "st.global.u32 [%rd1], %d;"));
  DeviceBuffer<uint32_t> out(32);
  Launcher(module, "k").block({32}).seed(seed).run(out.data());
  return out.to_vector();
}

void expect_lanes(const std::string& lines, const std::function<uint32_t(uint32_t)>& expected) {
  const auto got = run_lanes(lines);
  for (uint32_t lane = 0; lane < 32; ++lane) {
    EXPECT_EQ(got[lane], expected(lane)) << lines << " lane " << lane;
  }
}

// What CUDA's __shfl_*_sync(mask, value, offset, width) promise, by segments of `width` lanes; the
// clamp operand is nvcc's for that width.
TEST(PtxWarp, ShufflesWithinSegments) {
  for (const uint32_t width : {32u, 16u, 8u, 2u}) {
    const std::string down_clamp = std::to_string(((32 - width) << 8) | 31);
    const std::string up_clamp = std::to_string((32 - width) << 8);
    for (const uint32_t offset : {0u, 1u, 3u, 7u, 16u}) {
      const std::string by = std::to_string(offset);
      const std::string value = "add.u32 %r1, %i, 100;\n";
      const auto segment = [=](uint32_t lane) { return lane / width * width; };
      expect_lanes(value + "shfl.sync.down.b32 %d, %r1, " + by + ", " + down_clamp + ", -1;",
                   [=](uint32_t lane) {
                     return 100 + (lane + offset < segment(lane) + width ? lane + offset : lane);
                   });
      expect_lanes(value + "shfl.sync.up.b32 %d, %r1, " + by + ", " + up_clamp + ", -1;",
                   [=](uint32_t lane) {
                     return 100 + (lane >= segment(lane) + offset ? lane - offset : lane);
                   });
      expect_lanes(value + "shfl.sync.idx.b32 %d, %r1, " + by + ", " + down_clamp + ", -1;",
                   [=](uint32_t lane) { return 100 + segment(lane) + offset % width; });
      if (offset < width) {
        expect_lanes(value + "shfl.sync.bfly.b32 %d, %r1, " + by + ", " + down_clamp + ", -1;",
                     [=](uint32_t lane) { return 100 + (lane ^ offset); });
      }
    }
  }
}

TEST(PtxWarp, ShufflesTellWhetherTheSourceWasInRange) {
  expect_lanes("shfl.sync.down.b32 %r1|%pr1, %i, 5, 31, -1; selp.b32 %d, %r1, 99, %pr1;",
               [](uint32_t lane) { return lane + 5 < 32 ? lane + 5 : 99; });
  expect_lanes("shfl.sync.up.b32 %r1|%pr1, %i, 5, 0, -1; selp.b32 %d, %r1, 99, %pr1;",
               [](uint32_t lane) { return lane >= 5 ? lane - 5 : 99; });
}

TEST(PtxWarp, Votes) {
  const std::string odd = "and.b32 %r1, %i, 1; setp.ne.u32 %pr1, %r1, 0;\n";
  expect_lanes(odd + "vote.sync.ballot.b32 %d, %pr1, -1;", [](uint32_t) { return 0xaaaaaaaau; });
  expect_lanes(odd + "vote.sync.ballot.b32 %d, !%pr1, -1;", [](uint32_t) { return 0x55555555u; });
  expect_lanes(odd + "vote.sync.any.pred %pr2, %pr1, -1; selp.b32 %d, 1, 0, %pr2;",
               [](uint32_t) { return 1u; });
  expect_lanes(odd + "vote.sync.all.pred %pr2, %pr1, -1; selp.b32 %d, 1, 0, %pr2;",
               [](uint32_t) { return 0u; });
  expect_lanes(odd + "vote.sync.uni.pred %pr2, %pr1, -1; selp.b32 %d, 1, 0, %pr2;",
               [](uint32_t) { return 0u; });
  // Each half votes by itself.
  expect_lanes(odd +
                   "and.b32 %r2, %i, 16; shl.b32 %r3, 65535, %r2;\n"
                   "setp.lt.u32 %pr2, %i, 16; vote.sync.all.pred %pr3, %pr2, %r3;\n"
                   "selp.b32 %d, 1, 0, %pr3;",
               [](uint32_t lane) { return lane < 16 ? 1u : 0u; });
}

TEST(PtxWarp, MatchesReducesAndTellsActiveLanes) {
  expect_lanes("and.b32 %r1, %i, 3; match.any.sync.b32 %d, %r1, -1;",
               [](uint32_t lane) { return 0x11111111u << (lane % 4); });
  expect_lanes("redux.sync.add.u32 %d, %i, -1;", [](uint32_t) { return 31u * 32 / 2; });
  expect_lanes("neg.s32 %r1, %i; redux.sync.min.s32 %d, %r1, -1;",
               [](uint32_t) { return static_cast<uint32_t>(-31); });
  expect_lanes("redux.sync.max.u32 %d, %i, -1;", [](uint32_t) { return 31u; });
  expect_lanes("shl.b32 %r1, 1, %i; redux.sync.or.b32 %d, %r1, -1;", [](uint32_t) { return ~0u; });
  expect_lanes("mov.u32 %d, 0; setp.lt.u32 %pr1, %i, 10; @%pr1 activemask.b32 %d;",
               [](uint32_t lane) { return lane < 10 ? 1023u : 0u; });
}

TEST(PtxWarp, SpecialRegisters) {
  expect_lanes("mov.u32 %r1, %laneid; mov.u32 %r2, %lanemask_lt; add.u32 %d, %r1, %r2;",
               [](uint32_t lane) { return lane + ((1u << lane) - 1); });
  expect_lanes("mov.u32 %r1, %lanemask_ge; mov.u32 %r2, %lanemask_eq; sub.u32 %d, %r1, %r2;",
               [](uint32_t lane) { return lane == 31 ? 0 : ~0u << (lane + 1); });
  expect_lanes("mov.u32 %r1, %lanemask_le; mov.u32 %r2, %lanemask_gt; add.u32 %d, %r1, %r2;",
               [](uint32_t) { return ~0u; });
  const Module module = Module::parse(entry_text(
      "k", 1,
      "mov.u32 %r1, %tid.x; mov.u32 %r2, %tid.y; mov.u32 %r3, %tid.z; mov.u32 %r4, %ntid.y;\n"
      "mov.u32 %r5, %ctaid.y; mov.u32 %r6, %nctaid.y; mov.u32 %r7, %warpid;\n"
      "mul.lo.u32 %r2, %r2, 10; mul.lo.u32 %r3, %r3, 100; mul.lo.u32 %r4, %r4, 1000;\n"
      "mul.lo.u32 %r5, %r5, 10000; mul.lo.u32 %r6, %r6, 100000; mul.lo.u32 %r7, %r7, 1000000;\n"
      "add.u32 %r1, %r1, %r2; add.u32 %r1, %r1, %r3; add.u32 %r1, %r1, %r4;\n"
      "add.u32 %r1, %r1, %r5; add.u32 %r1, %r1, %r6; add.u32 %r1, %r1, %r7;\n"
      "mov.u32 %r10, %ctaid.y; mov.u32 %r11, %tid.x; mov.u32 %r12, %tid.y; mov.u32 %r13, %tid.z;\n"
      "mad.lo.u32 %r10, %r10, 5, %r13; mad.lo.u32 %r10, %r10, 3, %r12; mad.lo.u32 %r10, %r10, 4, "
      "%r11;\n"
      "mul.wide.u32 %rd1, %r10, 4; add.s64 %rd1, %p0, %rd1; st.global.u32 [%rd1], %r1;"));
  DeviceBuffer<uint32_t> out(2 * 60);
  Launcher(module, "k").grid({1, 2, 1}).block({4, 3, 5}).seed(1).run(out.data());
  for (uint32_t i = 0; i < 120; ++i) {
    const uint32_t thread = i % 60;
    EXPECT_EQ(out[i], thread % 4 + thread / 4 % 3 * 10 + thread / 12 * 100 + 3000 + i / 60 * 10000 +
                          200000 + thread / 32 * 1000000);
  }
}

TEST(PtxWarp, LoopsOfDifferentLengthReconverge) {
  // Collatz steps of lane + 1, then a ballot that needs all lanes.
  const auto steps = [](uint32_t lane) {
    uint32_t count = 0;
    for (uint32_t n = lane + 1; n != 1; ++count) n = n % 2 == 0 ? n / 2 : 3 * n + 1;
    return count;
  };
  expect_lanes(
      "add.u32 %r1, %i, 1; mov.u32 %d, 0;\n"
      "$loop: setp.eq.u32 %pr1, %r1, 1; @%pr1 bra $done; and.b32 %r2, %r1, 1;\n"
      "setp.eq.u32 %pr2, %r2, 0; @%pr2 bra $even; mad.lo.u32 %r1, %r1, 3, 1; bra $count;\n"
      "$even: shr.u32 %r1, %r1, 1;\n$count: add.u32 %d, %d, 1; bra $loop;\n"
      "$done: activemask.b32 %r3; setp.ne.s32 %pr1, %r3, -1; @%pr1 mov.u32 %d, 1000;\n"
      "setp.gt.u32 %pr2, %d, 10; vote.sync.ballot.b32 %r4, %pr2, -1;",
      steps);
}

TEST(PtxWarp, AnIfReconvergesBehindItsBody) {
  expect_lanes(
      "mov.u32 %r1, 5; setp.lt.u32 %pr1, %i, 7; @%pr1 bra $skip; mov.u32 %r1, 6;\n"
      "$skip: activemask.b32 %d; sub.u32 %d, %d, %r1;",
      [](uint32_t lane) { return ~0u - (lane < 7 ? 5 : 6); });
}

TEST(PtxWarp, GuardsAndEarlyExits) {
  expect_lanes(
      "mov.u32 %d, 7; setp.lt.u32 %pr1, %i, 16; @%pr1 mov.u32 %d, 8; @!%pr1 add.u32 %d, %d, 2;",
      [](uint32_t lane) { return lane < 16 ? 8u : 9u; });
  // Lanes that exit leave the collectives of the others alone.
  const Module module = Module::parse(entry_text(
      "k", 1,
      "setp.ge.u32 %pr1, %i, 20; @%pr1 exit; vote.sync.ballot.b32 %r1, %pr1, -1;\n"
      "redux.sync.add.u32 %r2, %i, -1; mul.wide.u32 %rd1, %i, 4; add.s64 %rd1, %p0, %rd1;\n"
      "st.global.u32 [%rd1], %r2;"));
  DeviceBuffer<uint32_t> out(std::vector<uint32_t>(32, 0));
  Launcher(module, "k").block({32}).run(out.data());
  for (uint32_t lane = 0; lane < 32; ++lane) EXPECT_EQ(out[lane], lane < 20 ? 190u : 0u);
}

TEST(PtxWarp, CollectivesOnBothSidesOfABranch) {
  // Each side votes among its own lanes at a different instruction.
  expect_lanes(
      "setp.lt.u32 %pr1, %i, 12; setp.ne.u32 %pr2, %i, 3; @%pr1 bra $small;\n"
      "vote.sync.ballot.b32 %d, %pr2, 0xfffff000; bra $end;\n"
      "$small: vote.sync.ballot.b32 %d, %pr2, 0xfff;\n$end:",
      [](uint32_t lane) { return lane < 12 ? 0xff7u : 0xfffff000u; });
}

TEST(PtxWarp, BranchTables) {
  expect_lanes(
      "and.b32 %r1, %i, 3;\n"
      "$table: .branchtargets $zero, $one, $two, $three;\n"
      "brx.idx %r1, $table;\n"
      "$zero: mov.u32 %d, 10; bra $end;\n$one: mov.u32 %d, 21; bra $end;\n"
      "$two: mov.u32 %d, 32; bra $end;\n$three: mov.u32 %d, 43;\n$end:",
      [](uint32_t lane) { return 10 + 11 * (lane % 4); });
}

TEST(PtxWarp, CallsOfFunctions) {
  const std::string functions =
      ".func (.param .b32 result) triple(.param .b32 x)\n{\n.reg .b32 %a<3>; .reg .pred %q;\n"
      ".local .align 4 .b8 scratch[4];\nld.param.u32 %a0, [x]; st.local.u32 [scratch], %a0;\n"
      "setp.gt.u32 %q, %a0, 20; @%q bra $big; ld.local.u32 %a1, [scratch];\n"
      "mul.lo.u32 %a1, %a1, 3; st.param.b32 [result+0], %a1; ret;\n"
      "$big: mov.u32 %a1, 0; st.param.b32 [result+0], %a1; ret;\n}\n"
      ".func (.param .b32 result) sum(.param .b32 x, .param .b32 y)\n{\n.reg .b32 %a<4>;\n"
      "{ .param .b32 param0; .param .b32 retval0; ld.param.u32 %a0, [x];\n"
      "st.param.b32 [param0+0], %a0; call.uni (retval0), triple, (param0);\n"
      "ld.param.b32 %a1, [retval0+0]; }\n"
      "ld.param.u32 %a2, [y]; add.u32 %a3, %a1, %a2; st.param.b32 [result+0], %a3; ret;\n}\n";
  const Module module = Module::parse(
      entry_text("k", 1,
                 "{ .param .b32 param0; .param .b32 param1; .param .b32 retval0;\n"
                 "st.param.b32 [param0+0], %i; st.param.b32 [param1+0], 1000;\n"
                 "call.uni (retval0), sum, (param0, param1); ld.param.b32 %r1, [retval0+0]; }\n"
                 "{ .param .b32 param0; .param .b32 retval0; st.param.b32 [param0+0], %r1;\n"
                 "call.uni (retval0), triple, (param0); ld.param.b32 %r2, [retval0+0]; }\n"
                 "add.u32 %r3, %r1, %r2; mul.wide.u32 %rd1, %i, 4; add.s64 %rd1, %p0, %rd1;\n"
                 "st.global.u32 [%rd1], %r3;",
                 functions));
  DeviceBuffer<uint32_t> out(32);
  Launcher(module, "k").block({32}).seed(2).run(out.data());
  for (uint32_t i = 0; i < 32; ++i) EXPECT_EQ(out[i], 1000 + (i > 20 ? 0 : 3 * i));
}

TEST(PtxWarp, BarriersReduce) {
  const Module module = Module::parse(
      entry_text("k", 1,
                 "setp.lt.u32 %pr1, %i, 40; bar.red.popc.u32 %r1, 0, %pr1;\n"
                 "bar.red.and.pred %pr2, 0, %pr1; barrier.sync.aligned 1;\n"
                 "bar.red.or.pred %pr3, 0, !%pr1; selp.b32 %r2, 100, 0, %pr2;\n"
                 "selp.b32 %r3, 1000, 0, %pr3; add.u32 %r1, %r1, %r2; add.u32 %r1, %r1, %r3;\n"
                 "mul.wide.u32 %rd1, %i, 4; add.s64 %rd1, %p0, %rd1; st.global.u32 [%rd1], %r1;"));
  DeviceBuffer<uint32_t> out(100);
  Launcher(module, "k").block({100}).seed(9).run(out.data());
  EXPECT_THAT(out.to_vector(), testing::Each(1040u));
}

TEST(PtxWarp, SeedsChangeTheOrderOfWarpsAndBlocks) {
  // The ticket each warp draws tells when it ran.
  const Module module = Module::parse(entry_text(
      "k", 2,
      "and.b32 %r1, %i, 31; setp.ne.u32 %pr1, %r1, 0; @%pr1 ret;\n"
      "atom.global.add.u32 %r2, [%p0], 1; shr.u32 %r3, %i, 5; mul.wide.u32 %rd1, %r3, 4;\n"
      "add.s64 %rd1, %p1, %rd1; st.global.u32 [%rd1], %r2;"));
  std::set<std::vector<uint32_t>> orders;
  for (uint64_t seed = 0; seed < 12; ++seed) {
    std::vector<uint32_t> repeated[2];
    for (auto& order : repeated) {
      DeviceBuffer<uint32_t> word(std::vector<uint32_t>{0}), tickets(32);
      Launcher(module, "k").grid({4}).block({256}).seed(seed).run(word.data(), tickets.data());
      order = tickets.to_vector();
    }
    EXPECT_EQ(repeated[0], repeated[1]) << "a seed repeats";
    if (seed == 0) {
      for (uint32_t i = 0; i < 32; ++i) EXPECT_EQ(repeated[0][i], i);
    }
    orders.insert(repeated[0]);
  }
  EXPECT_EQ(orders.size(), 12u);
}

}  // namespace
}  // namespace rillkv::ptx
