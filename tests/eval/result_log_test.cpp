// Finished work survives interruptions, crashes and a second start; mixed set-ups do not.
#include "rillkv/eval/result_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <csignal>
#include <limits>

#include "rillkv/eval/progress.h"
#include "rillkv/files.h"
#include "tests/support/error_of.h"
#include "tests/support/temporary_folder.h"

namespace rillkv::eval {
namespace {

using Json = nlohmann::json;
using ::testing::AllOf;
using testing::error_of;
using ::testing::HasSubstr;
using testing::TemporaryFolder;

const Json kFingerprint = {{"model", "m"}, {"config", {{"policy", "ema"}, {"decay", 1.0}}}};

TEST(ResultLog, GoesOnWhereItStopped) {
  TemporaryFolder folder;
  const auto path = folder / "deep/results.jsonl";
  {
    ResultLog log(path, kFingerprint);
    log.append("a", {{"x", 1}});
    log.append("b", {{"x", "\xFF is no UTF-8"}});
    EXPECT_EQ(log.find("c"), nullptr);
  }
  ResultLog log(path, kFingerprint);
  ASSERT_EQ(log.records().size(), 2u);
  EXPECT_EQ(log.find("a")->at("x"), 1);
  log.append("c", {{"x", 3}});
  EXPECT_EQ(read_jsonl(path).size(), 3u);
}

TEST(ResultLog, IsValidAfterEveryAppend) {
  TemporaryFolder folder;
  const auto path = folder / "results.jsonl";
  ResultLog log(path, kFingerprint);
  for (int i = 1; i <= 3; ++i) {
    log.append(std::to_string(i), {{"x", i}});
    // Read behind the writer's back, as after kill -9.
    EXPECT_EQ(read_jsonl(path).size(), static_cast<size_t>(i));
  }
}

TEST(ResultLog, DropsATornLastLine) {
  TemporaryFolder folder;
  const auto path = folder / "results.jsonl";
  { ResultLog(path, kFingerprint).append("a", {{"x", 1}}); }
  const std::string whole = read_file(path.string());
  folder.write("results.jsonl", whole + R"({"key":"b","x":)");
  ResultLog log(path, kFingerprint);
  EXPECT_EQ(log.records().size(), 1u);
  log.append("b", {{"x", 2}});
  EXPECT_EQ(read_jsonl(path).size(), 2u);
}

TEST(ResultLog, MalformedLineIsNamed) {
  TemporaryFolder folder;
  const auto path = folder / "results.jsonl";
  { ResultLog(path, kFingerprint).append("a", {{"x", 1}}); }
  folder.write("results.jsonl", read_file(path.string()) + "oops\n");
  EXPECT_THAT(error_of([&] { ResultLog(path, kFingerprint); }), HasSubstr("results.jsonl:2:"));
}

TEST(ResultLog, RefusesAnotherSetUpAndNamesTheDifference) {
  TemporaryFolder folder;
  const auto path = folder / "results.jsonl";
  { ResultLog(path, kFingerprint).append("a", {{"x", 1}}); }
  Json other = kFingerprint;
  other["config"]["policy"] = "adaptive";
  EXPECT_THAT(error_of([&] { ResultLog(path, other); }),
              AllOf(HasSubstr("/config/policy"), HasSubstr("\"ema\""), HasSubstr("\"adaptive\"")));
  ResultLog log(path, other, /*restart=*/true);
  EXPECT_TRUE(log.records().empty());
}

TEST(ResultLog, WithoutRecordsBindsNobody) {
  TemporaryFolder folder;
  const auto path = folder / "results.jsonl";
  { ResultLog(path, kFingerprint); }
  const Json other = {{"model", "another"}};
  { ResultLog(path, other).append("a", {{"x", 1}}); }
  EXPECT_THAT(error_of([&] { ResultLog(path, kFingerprint); }), HasSubstr("made differently"));
}

TEST(ResultLog, RefusesRecordsOfUnknownOrigin) {
  TemporaryFolder folder;
  const auto path = folder.write("results.jsonl", "{\"key\":\"a\"}\n");
  EXPECT_THAT(error_of([&] { ResultLog(path, kFingerprint); }), HasSubstr("run.json"));
}

TEST(ResultLog, RefusesAKeyTwice) {
  TemporaryFolder folder;
  ResultLog log(folder / "r.jsonl", kFingerprint);
  log.append("a", Json::object());
  EXPECT_THAT(error_of([&] { log.append("a", Json::object()); }), HasSubstr("already"));
}

TEST(ResultLog, RefusesWhatIsNoNumberAndKeepsWhatItHas) {
  TemporaryFolder folder;
  const auto path = folder / "r.jsonl";
  ResultLog log(path, kFingerprint);
  log.append("a", {{"x", 1.5}, {"none", nullptr}});
  for (const double bad : {std::nan(""), std::numeric_limits<double>::infinity()}) {
    const Json record = {{"x", 1}, {"stats", {{"list", {1.0, bad}}}}};
    EXPECT_THAT(error_of([&] { log.append("b", record); }),
                AllOf(HasSubstr("\"b\""), HasSubstr("/stats/list/1"), HasSubstr("finite")));
  }
  EXPECT_EQ(log.find("b"), nullptr);
  EXPECT_EQ(read_jsonl(path).size(), 1u);
  log.append("b", {{"x", 2}});
  EXPECT_EQ(ResultLog(path, kFingerprint).records().size(), 2u);
}

TEST(ResultLog, UnwritableFolderIsAnError) {
  TemporaryFolder folder;
  folder.write("file", "");
  EXPECT_NE(error_of([&] { ResultLog(folder / "file/r.jsonl", kFingerprint); }), "");
}

TEST(ResultLog, AFingerprintMayHoldAnyBytes) {
  TemporaryFolder folder;
  const Json fingerprint = {{"model", "folder \xFF"}};
  { ResultLog(folder / "r.jsonl", fingerprint).append("a", {}); }
  EXPECT_TRUE(ResultLog::made_with(folder / "r.jsonl", fingerprint));
  EXPECT_EQ(ResultLog(folder / "r.jsonl", fingerprint).records().size(), 1u);
}

TEST(ReadJson, NamesFileAndLine) {
  TemporaryFolder folder;
  EXPECT_THAT(error_of([&] { read_jsonl(folder.write("a.jsonl", "{}\n\n[1]\n")); }),
              HasSubstr("a.jsonl:3:"));
  EXPECT_THAT(error_of([&] { read_json(folder.write("b.json", "{")); }), HasSubstr("b.json"));
  EXPECT_THAT(error_of([&] { read_json(folder / "none.json"); }), HasSubstr("none.json"));
}

TEST(Interrupt, FirstSignalOnlySetsTheFlag) {
  {
    InterruptGuard guard;
    EXPECT_FALSE(interrupted());
    std::raise(SIGINT);
    EXPECT_TRUE(interrupted());
  }
  EXPECT_FALSE(interrupted());
}

}  // namespace
}  // namespace rillkv::eval
