// What the executor refuses: unknown syntax, unsupported instructions, launches that do not fit.
#include <gmock/gmock.h>

#include "tests/ptx_executor/ptx_case.h"
#include "tests/support/ptx/device.h"

namespace rillkv::ptx {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

template <typename F>
std::string error_of(F f) {
  try {
    f();
  } catch (const ModuleError& error) {
    return error.what();
  }
  return "no error";
}

std::string decode_error(const std::string& instruction) {
  return error_of([&] { Module::parse(entry_text("k", 1, instruction), "some.ptx").program("k"); });
}

TEST(PtxModule, UnsupportedInstructionsAreNamed) {
  for (const char* opcode :
       {"tex.1d.v4.f32.s32 {%f1, %f2, %f3, %f4}, [%rd1]", "add.cc.u32 %r1, %r2, %r3",
        "wgmma.fence.sync.aligned", "mbarrier.init.shared.b64 [%r1], %r2", "barrier.sync 1, 64",
        "bar.arrive 1, 64", "cp.async.bulk.commit_group", "prmt.b32.f4e %r1, %r2, %r3, 1",
        "mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%fd1, %fd2}, {%fd3}, {%fd4}, {%fd5, "
        "%fd6}",
        "cvt.rna.tf32.f32 %r1, %f1", "atom.global.add.f16 %rs1, [%rd1], %rs2",
        "ld.global.b128 %r1, [%rd1]", "shfl.down.b32 %r1, %r2, 1, 31"}) {
    const std::string name = std::string(opcode).substr(0, std::string(opcode).find(' '));
    EXPECT_THAT(decode_error(std::string(opcode) + ";"),
                AllOf(HasSubstr("unsupported instruction " + name), HasSubstr("some.ptx:")));
  }
}

TEST(PtxModule, OperandsOfTheWrongWidthAreRefused) {
  EXPECT_THAT(decode_error("add.u64 %rd1, %rd2, %r1;"),
              HasSubstr("unsupported instruction add.u64"));
  EXPECT_THAT(decode_error("st.global.u64 [%rd1], %r1;"), HasSubstr("st.global.u64"));
  EXPECT_THAT(decode_error("mov.u32 %r1, nothing;"), HasSubstr("mov.u32"));
}

TEST(PtxModule, SyntaxErrorsTellTheLine) {
  const auto parse_error = [](const std::string& text) {
    return error_of([&] { Module::parse(text, "bad.ptx"); });
  };
  EXPECT_THAT(parse_error(".version 8.0\n.nonsense x;"), HasSubstr("bad.ptx:2"));
  EXPECT_THAT(parse_error(entry_text("k", 0, "add.u32 %r1, %r2 %r3;")), HasSubstr("expected"));
  EXPECT_THAT(parse_error(entry_text("k", 0, "bra $nowhere;")), HasSubstr("$nowhere"));
  EXPECT_THAT(parse_error(".entry k() {"), HasSubstr("unterminated"));
}

TEST(PtxModule, RecursionIsRefused) {
  const std::string recursive = ".func again()\n{\ncall.uni again;\nret;\n}\n";
  EXPECT_THAT(error_of([&] {
                Module::parse(entry_text("k", 0, "call.uni again;", recursive)).program("k");
              }),
              HasSubstr("recursion"));
}

TEST(PtxModule, EntriesAreListed) {
  const std::string two =
      entry_text("one", 0, "") + ".visible .entry two()\n{\nret;\n}\n.func helper()\n{\nret;\n}\n";
  const Module module = Module::parse(two);
  EXPECT_THAT(module.entries(), ElementsAre("one", "two"));
  EXPECT_FALSE(module.has_entry("helper"));
  EXPECT_THAT(error_of([&] { Launcher(module, "three").run(); }), HasSubstr("'three'"));
}

TEST(PtxModule, LaunchesMustFit) {
  const Module module = Module::parse(entry_text("k", 1, ""));
  uint32_t* pointer = nullptr;
  EXPECT_THAT(error_of([&] { Launcher(module, "k").run(); }),
              HasSubstr("takes 1 parameters, got 0"));
  EXPECT_THAT(error_of([&] { Launcher(module, "k").run(1); }), HasSubstr("8 bytes, got 4"));
  EXPECT_THAT(error_of([&] { Launcher(module, "k").block({1025}).run(pointer); }),
              HasSubstr("1025"));
  EXPECT_THAT(error_of([&] { Launcher(module, "k").grid({0}).run(pointer); }),
              HasSubstr("0 blocks"));
}

TEST(PtxModule, MissingFiles) {
  EXPECT_THAT(error_of([] { Module::load("no/such/file.ptx"); }), HasSubstr("no/such/file.ptx"));
}

TEST(PtxDevice, LaunchesEntriesOfSeveralModules) {
  const std::string store = "st.global.u32 [%p0], ";
  ExecutorDevice device({Module::parse(entry_text("one", 1, store + "1;")),
                         Module::parse(entry_text("two", 1, store + "2;"))},
                        3, true);
  DeviceArray<uint32_t> out(device, std::vector<uint32_t>{0, 7});
  uint32_t* pointer = out.data();
  device.launch({"two", {1}, {1}, 0, &pointer, sizeof pointer});
  EXPECT_THAT(out.to_vector(), ElementsAre(2, 7));
  ASSERT_EQ(device.reports().size(), 1u);
  EXPECT_EQ(device.reports()[0].sites.size(), 1u);
  EXPECT_THROW(device.launch({"three", {1}, {1}, 0, &pointer, sizeof pointer}), ModuleError);
}

}  // namespace
}  // namespace rillkv::ptx
