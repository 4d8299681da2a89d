// The reader against valid files and against every lie a file can tell.
#include "rillkv/safetensors.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <fstream>
#include <limits>
#include <string>

#include "src/io/safetensors_header.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"

namespace rillkv {
namespace {

using testing::expect_error;
using testing::TemporaryFolder;

std::string little_endian(uint64_t value) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>(value >> (8 * i) & 0xff);
  return bytes;
}

// A file with this header and `data_bytes` bytes of data: 0, 1, 2, ...
std::string file_of(const std::string& header, size_t data_bytes) {
  std::string file = little_endian(header.size()) + header;
  for (size_t i = 0; i < data_bytes; ++i) file += static_cast<char>(i);
  return file;
}

std::string entry(const std::string& name, const std::string& dtype, const std::string& shape,
                  const std::string& offsets) {
  return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape +
         ",\"data_offsets\":" + offsets + "}";
}

// Parsing `file` fails with one line that names the file and contains `parts`.
void expect_bad(const std::string& file, std::vector<std::string> parts) {
  parts.emplace_back("bad.safetensors");
  expect_error([&] { io::parse_safetensors_header(file, "bad.safetensors"); }, parts);
  // The same through the mapping.
  const TemporaryFolder folder;
  const std::string path = folder.write("bad.safetensors", file);
  expect_error([&] { SafetensorsFile::open(path); }, parts);
}

TEST(Safetensors, ReadsEveryFloatDtypeAndShape) {
  const TemporaryFolder folder;
  const std::string header =
      "{\"__metadata__\":{\"format\":\"pt\"}," + entry("f32", "F32", "[2,3]", "[0,24]") + "," +
      entry("f16", "F16", "[3]", "[24,30]") + "," + entry("bf16", "BF16", "[1,1,2]", "[30,34]") +
      "," + entry("scalar", "F32", "[]", "[34,38]") + "," +
      entry("none", "F32", "[0,7]", "[38,38]") + "}  ";
  const std::string path = folder.write("a.safetensors", file_of(header, 38));
  const SafetensorsFile file = SafetensorsFile::open(path);
  EXPECT_EQ(file.names(), (std::vector<std::string>{"bf16", "f16", "f32", "none", "scalar"}));
  EXPECT_TRUE(file.contains("f16"));
  EXPECT_FALSE(file.contains("f64"));
  EXPECT_EQ(file.tensor("f32").sizes(), (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(file.tensor("f32").scalar_type(), at::kFloat);
  EXPECT_EQ(file.tensor("f16").scalar_type(), at::kHalf);
  EXPECT_EQ(file.tensor("bf16").scalar_type(), at::kBFloat16);
  EXPECT_EQ(file.tensor("scalar").dim(), 0);
  EXPECT_EQ(file.tensor("none").sizes(), (std::vector<int64_t>{0, 7}));
  EXPECT_EQ(file.shape("bf16"), (std::vector<int64_t>{1, 1, 2}));
  // Bytes 00 01 02 03 are this float32, 18 19 this float16, whatever their alignment in the file.
  EXPECT_EQ(file.tensor("f32").flatten()[0].item<float>(), 0x1.0402p-121f);
  const at::Tensor f16 = file.tensor("f16");
  EXPECT_EQ(static_cast<const uint16_t*>(f16.const_data_ptr())[0], 0x1918);
}

TEST(Safetensors, TensorsOutliveTheFileAndMayBeWritten) {
  const TemporaryFolder folder;
  const std::string path = folder.write(
      "a.safetensors", file_of("{" + entry("x", "F32", "[2]", "[0,8]") + "}      ", 8));
  at::Tensor tensor;
  {
    const SafetensorsFile file = SafetensorsFile::open(path);
    tensor = file.tensor("x");
  }
  const float before = tensor[0].item<float>();
  tensor.fill_(3.0f);
  EXPECT_EQ(tensor[1].item<float>(), 3.0f);
  EXPECT_EQ(SafetensorsFile::open(path).tensor("x")[0].item<float>(), before);
}

TEST(Safetensors, ReleasedPagesAreReadAgain) {
  const TemporaryFolder folder;
  const std::string path = folder.file("big.safetensors");
  const at::Tensor expected = at::arange(100000, at::kFloat);
  write_safetensors(path, {{"a", at::ones({5})}, {"x", expected}});
  const SafetensorsFile file = SafetensorsFile::open(path);
  const at::Tensor tensor = file.tensor("x");
  EXPECT_TRUE(at::equal(tensor, expected));
  file.release("x");
  file.release("a");
  EXPECT_TRUE(at::equal(tensor, expected));
  expect_error([&] { file.release("y"); }, {"\"y\"", "missing"});
}

TEST(Safetensors, WritesWhatItReads) {
  const TemporaryFolder folder;
  const std::string path = folder.file("out.safetensors");
  const at::Tensor values = at::linspace(-3, 3, 35, at::kFloat).reshape({5, 7});
  write_safetensors(path,
                    {{"f", values},
                     {"transposed", values.t()},
                     {"h", values.to(at::kHalf).slice(0, 0, 1).slice(1, 0, 3)},
                     {"b", values.to(at::kBFloat16)},
                     {"i", at::arange(3)},
                     {"empty", at::empty({0}, at::kFloat)}},
                    {{"who", "test"}});
  const SafetensorsFile file = SafetensorsFile::open(path);
  EXPECT_TRUE(at::equal(file.tensor("f"), values));
  EXPECT_TRUE(at::equal(file.tensor("transposed"), values.t()));
  EXPECT_TRUE(at::equal(file.tensor("h"), values.to(at::kHalf).slice(0, 0, 1).slice(1, 0, 3)));
  EXPECT_TRUE(at::equal(file.tensor("b"), values.to(at::kBFloat16)));
  expect_error([&] { file.tensor("i"); }, {"\"i\"", "I64", "F32, F16 and BF16"});
  std::ifstream stream(path, std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(stream)), {});
  const auto header = io::parse_safetensors_header(bytes, path);
  EXPECT_EQ(header.metadata.at("who"), "test");
  EXPECT_EQ(header.tensors.at("empty").shape, (std::vector<int64_t>{0}));
}

TEST(Safetensors, WritesAllOrNothing) {
  const TemporaryFolder folder;
  expect_error(
      [&] {
        write_safetensors(folder.file("no/where"), {{"x", at::ones({2})}});
      },
      {"no/where", "No such file"});
  expect_error([&] { write_safetensors(folder.path(), {{"x", at::ones({2})}}); }, {"directory"});
  const std::string path = folder.write("keep", "old content");
  expect_error(
      [&] {
        write_safetensors(path, {{"x", at::ones({2}, at::kBool)}});
      },
      {"\"x\"", "Bool"});
  std::ifstream stream(path);
  EXPECT_EQ(std::string((std::istreambuf_iterator<char>(stream)), {}), "old content");
  for (const auto& item : std::filesystem::directory_iterator(folder.path())) {
    EXPECT_EQ(item.path().filename(), "keep");  // no temporary file is left
  }
}

TEST(Safetensors, RejectsFilesThatAreTooShort) {
  expect_bad("", {"0 bytes"});
  expect_bad("1234567", {"7 bytes"});
  expect_bad(little_endian(1) + "", {"1 bytes long", "0 after"});
}

TEST(Safetensors, RejectsAHeaderLongerThanTheFile) {
  expect_bad(little_endian(100) + "{}", {"100 bytes long", "truncated"});
  expect_bad(little_endian(std::numeric_limits<uint64_t>::max()) + "{}", {"18446744073709551615"});
  expect_bad(little_endian(std::numeric_limits<uint64_t>::max() - 7) + "{}", {"bytes long"});
}

TEST(Safetensors, RejectsBadJson) {
  expect_bad(file_of("", 0), {"JSON"});
  expect_bad(file_of("{", 0), {"bad JSON"});
  expect_bad(file_of("{\"a\":}", 0), {"bad JSON"});
  expect_bad(file_of("{} x", 0), {"bad JSON"});
  expect_bad(file_of("{\"\xff\xfe\":1}", 0), {"bad JSON"});
  expect_bad(file_of(std::string("{\"a\0\":1}", 9), 0), {"bad JSON"});
  expect_bad(file_of("[]", 0), {"object", "array"});
  expect_bad(file_of("null", 0), {"object"});
  expect_bad(file_of("{\"a\":" + std::string(100000, '['), 0), {"nested"});
  std::string deep = "{\"a\":";
  for (int i = 0; i < 100000; ++i) deep += "{\"a\":";
  expect_bad(file_of(deep, 0), {"nested"});
}

TEST(Safetensors, RejectsEntriesOfTheWrongKind) {
  expect_bad(file_of("{\"t\":3}", 0), {"\"t\"", "object"});
  expect_bad(file_of("{\"t\":{}}", 0), {"\"t\"", "dtype", "missing"});
  expect_bad(file_of("{\"t\":{\"dtype\":3,\"shape\":[],\"data_offsets\":[0,0]}}", 0),
             {"\"t\"", "dtype", "string"});
  expect_bad(file_of("{\"t\":{\"dtype\":\"F32\"}}", 0), {"\"t\"", "shape", "missing"});
  expect_bad(file_of("{\"t\":{\"dtype\":\"F32\",\"shape\":[]}}", 0),
             {"\"t\"", "data_offsets", "missing"});
  expect_bad(file_of("{" + entry("t", "F32", "1", "[0,4]") + "}", 4), {"\"t\"", "shape", "array"});
  expect_bad(file_of("{" + entry("t", "F32", "[-1]", "[0,4]") + "}", 4), {"\"t\"", "shape", "-1"});
  expect_bad(file_of("{" + entry("t", "F32", "[1.0]", "[0,4]") + "}", 4), {"\"t\"", "1.0"});
  expect_bad(file_of("{" + entry("t", "F32", "[1]", "[0]") + "}", 4), {"\"t\"", "[begin, end]"});
  expect_bad(file_of("{" + entry("t", "F32", "[1]", "[0,-4]") + "}", 4), {"\"t\"", "-4"});
  expect_bad(file_of("{" + entry("t", "F32", "[1]", "[0,1e2]") + "}", 4), {"\"t\"", "100"});
  expect_bad(file_of("{" + entry("t", "F32", "[NaN]", "[0,4]") + "}", 4), {"\"t\"", "NaN"});
  expect_bad(file_of("{\"__metadata__\":3}", 0), {"__metadata__", "object or null", "number"});
  expect_bad(file_of("{\"__metadata__\":[null]}", 0), {"__metadata__", "array"});
  expect_bad(file_of("{\"__metadata__\":{\"a\":null}}", 0), {"\"a\"", "string", "null"});
  EXPECT_TRUE(
      io::parse_safetensors_header(file_of("{\"__metadata__\":null}", 0), "f").metadata.empty());
  expect_bad(file_of("{\"__metadata__\":{\"a\":3}}", 0), {"__metadata__", "\"a\"", "string"});
}

TEST(Safetensors, RejectsOverflowingShapes) {
  expect_bad(file_of("{" + entry("t", "F32", "[4294967296,4294967296]", "[0,0]") + "}", 0),
             {"\"t\"", "overflow"});
  expect_bad(file_of("{" + entry("t", "F32", "[0,4294967296,4294967296]", "[0,0]") + "}", 0),
             {"\"t\"", "overflow"});
  expect_bad(file_of("{" + entry("t", "F32", "[4611686018427387904]", "[0,0]") + "}", 0),
             {"\"t\"", "overflow"});
  expect_bad(file_of("{" + entry("t", "F32", "[18446744073709551615]", "[0,0]") + "}", 0),
             {"\"t\"", "overflow"});
  expect_bad(file_of("{" + entry("t", "F32", "[99999999999999999999]", "[0,0]") + "}", 0),
             {"\"t\"", "integers"});
  std::string many = "[1";
  for (int i = 0; i < 100; ++i) many += ",1";
  expect_bad(file_of("{" + entry("t", "F32", many + "]", "[0,4]") + "}", 4),
             {"\"t\"", "101 dimensions"});
}

TEST(Safetensors, RejectsOffsetsOutsideTheFile) {
  expect_bad(file_of("{" + entry("t", "F32", "[2]", "[0,8]") + "}", 4),
             {"\"t\"", "beyond", "4 data"});
  expect_bad(file_of("{" + entry("t", "F32", "[1]", "[8,4]") + "}", 8), {"\"t\"", "end before"});
  expect_bad(
      file_of("{" + entry("t", "F32", "[1]", "[18446744073709551612,18446744073709551615]") + "}",
              4),
      {"\"t\"", "beyond"});
}

TEST(Safetensors, RejectsAByteCountThatIsNotTheShapes) {
  expect_bad(file_of("{" + entry("t", "F32", "[3]", "[0,8]") + "}", 8), {"\"t\"", "needs 12", "8"});
  expect_bad(file_of("{" + entry("t", "BF16", "[3]", "[0,8]") + "}", 8), {"\"t\"", "needs 6", "8"});
  expect_bad(file_of("{" + entry("t", "I64", "[]", "[0,4]") + "}", 4), {"\"t\"", "needs 8", "4"});
  expect_bad(file_of("{" + entry("t", "F32", "[0]", "[0,4]") + "}", 4), {"\"t\"", "needs 0", "4"});
}

TEST(Safetensors, RejectsOverlapsAndHoles) {
  const auto two = [](const char* first, const char* second) {
    return "{" + entry("a", "U8", "[4]", first) + "," + entry("b", "U8", "[4]", second) + "}";
  };
  EXPECT_EQ(io::parse_safetensors_header(file_of(two("[0,4]", "[4,8]"), 8), "f").tensors.size(),
            2u);
  EXPECT_EQ(io::parse_safetensors_header(file_of(two("[4,8]", "[0,4]"), 8), "f").tensors.size(),
            2u);
  expect_bad(file_of(two("[0,4]", "[2,6]"), 6), {"\"a\"", "\"b\"", "overlap"});
  expect_bad(file_of(two("[0,4]", "[0,4]"), 4), {"\"a\"", "\"b\"", "overlap"});
  expect_bad(file_of(two("[0,4]", "[5,9]"), 9), {"\"b\"", "1 bytes before"});
  expect_bad(file_of(two("[1,5]", "[5,9]"), 9), {"\"a\"", "1 bytes before"});
  expect_bad(file_of(two("[0,4]", "[4,8]"), 11), {"3 bytes at the end"});
  expect_bad(file_of("{}", 1), {"1 bytes at the end"});
}

TEST(Safetensors, RejectsDuplicateNames) {
  expect_bad(
      file_of("{" + entry("a", "U8", "[1]", "[0,1]") + "," + entry("a", "U8", "[1]", "[1,2]") + "}",
              2),
      {"duplicate", "\"a\""});
  expect_bad(file_of("{\"t\":{\"dtype\":\"U8\",\"dtype\":\"I8\",\"shape\":[1],"
                     "\"data_offsets\":[0,1]}}",
                     1),
             {"duplicate", "\"dtype\""});
}

TEST(Safetensors, UnknownAndUnsupportedDtypesFailOnlyWhenAskedFor) {
  const TemporaryFolder folder;
  const std::string path =
      folder.write("a.safetensors", file_of("{" + entry("odd", "F4", "[3]", "[0,2]") + "," +
                                                entry("int", "I32", "[1]", "[2,6]") + "," +
                                                entry("good", "F16", "[1]", "[6,8]") + "}",
                                            8));
  const SafetensorsFile file = SafetensorsFile::open(path);
  EXPECT_EQ(file.tensor("good").numel(), 1);
  expect_error([&] { file.tensor("odd"); }, {"a.safetensors", "\"odd\"", "F4"});
  expect_error([&] { file.tensor("int"); }, {"a.safetensors", "\"int\"", "I32"});
  expect_error([&] { file.tensor("gone"); }, {"a.safetensors", "\"gone\"", "missing"});
}

TEST(Safetensors, RejectsWhatIsNoFile) {
  const TemporaryFolder folder;
  expect_error([&] { SafetensorsFile::open(folder.file("none")); }, {"none", "No such file"});
  expect_error([&] { SafetensorsFile::open(folder.path()); }, {folder.path(), "directory"});
  expect_error([&] { SafetensorsFile::open("/dev/null"); }, {"/dev/null"});
}

TEST(Safetensors, ErrorLinesStayOneLine) {
  expect_bad(
      file_of("{" + entry("a\\nb\\u001b[0m" + std::string(1000, 'x'), "F32", "[3]", "[0,8]") + "}",
              8),
      {"a\\x0ab\\x1b[0m", "..."});
}

TEST(Safetensors, NamesAGitLfsPointer) {
  const std::string pointer =
      "version https://git-lfs.example/spec/v1\noid sha256:0123\nsize 269060552\n";
  expect_bad(pointer, {"Git LFS pointer"});
  expect_bad(pointer.substr(0, 23), {"Git LFS pointer"});
  expect_bad("Version" + pointer.substr(7), {"truncated, or not safetensors"});
  expect_bad(pointer + std::string(1024, 'x'), {"truncated, or not safetensors"});
}

class CheckpointTest : public ::testing::Test {
 protected:
  void write_shard(const std::string& name, const std::string& tensor) const {
    write_safetensors(folder_.file(name), {{tensor, at::full({2}, 1.0f)}});
  }
  void write_index(const std::string& weight_map) const {
    folder_.write("model.safetensors.index.json", "{\"weight_map\":" + weight_map + "}");
  }
  void expect_bad_checkpoint(const std::vector<std::string>& parts) const {
    expect_error([&] { Checkpoint::open(folder_.path()); }, parts);
  }
  TemporaryFolder folder_;
};

TEST_F(CheckpointTest, OpensAFolderAFileAndShards) {
  write_shard("one.safetensors", "a");
  EXPECT_TRUE(Checkpoint::open(folder_.file("one.safetensors")).contains("a"));
  write_shard("two.safetensors", "b");
  write_index("{\"a\":\"one.safetensors\",\"b\":\"two.safetensors\"}");
  const Checkpoint sharded = Checkpoint::open(folder_.path());
  EXPECT_EQ(sharded.names(), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(sharded.tensor("b")[1].item<float>(), 1.0f);
  EXPECT_EQ(sharded.shape("a"), (std::vector<int64_t>{2}));
  sharded.release("a");
  expect_error([&] { sharded.tensor("c"); }, {folder_.path(), "\"c\"", "missing"});
  write_shard("model.safetensors", "c");  // a single file comes before an index, as in transformers
  EXPECT_EQ(Checkpoint::open(folder_.path()).names(), (std::vector<std::string>{"c"}));
}

TEST_F(CheckpointTest, RejectsWhatIsIncomplete) {
  expect_error([] { Checkpoint::open("/nonexistent/model"); }, {"/nonexistent/model"});
  expect_bad_checkpoint({folder_.path(), "model.safetensors", "index"});
  write_shard("one.safetensors", "a");
  write_index("{\"a\":\"one.safetensors\",\"b\":\"two.safetensors\"}");
  // What is missing is an error of whoever needs it.
  const auto expect_lacking = [&](const std::vector<std::string>& parts) {
    const Checkpoint checkpoint = Checkpoint::open(folder_.path());
    EXPECT_EQ(checkpoint.names(), (std::vector<std::string>{"a", "b"}));
    EXPECT_TRUE(checkpoint.contains("b"));  // or a tied head would hide it
    EXPECT_EQ(checkpoint.tensor("a").numel(), 2);
    expect_error([&] { checkpoint.tensor("b"); }, parts);
    expect_error([&] { checkpoint.shape("b"); }, parts);
    expect_error([&] { checkpoint.release("b"); }, parts);
  };
  expect_lacking({folder_.path(), "shard", "\"two.safetensors\"", "missing", "\"b\""});
  write_shard("two.safetensors", "a");
  expect_lacking({"two.safetensors", "\"b\"", "missing", "index.json"});
  folder_.write("two.safetensors", "truncated");
  expect_bad_checkpoint({"two.safetensors", "truncated"});
  folder_.write("two.safetensors", "version https://git-lfs.example/spec/v1\n");
  expect_bad_checkpoint({"two.safetensors", "Git LFS pointer"});
  folder_.write("model.safetensors.index.json", "version https://git-lfs.example/spec/v1\n");
  expect_bad_checkpoint({"model.safetensors.index.json", "Git LFS pointer"});
}

// As in transformers: the shards are read in the order of their names, whatever the index says.
TEST_F(CheckpointTest, WhatTheShardsHoldCounts) {
  const auto write = [&](const std::string& name, float value,
                         const std::vector<std::string>& tensors) {
    std::map<std::string, at::Tensor> content;
    for (const std::string& tensor : tensors) content[tensor] = at::full({2}, value);
    write_safetensors(folder_.file(name), content);
  };
  const auto value = [](const Checkpoint& checkpoint, const std::string& name) {
    return checkpoint.tensor(name)[0].item<float>();
  };
  write("1.safetensors", 1, {"a", "omitted"});
  write("2.safetensors", 2, {"b", "elsewhere"});
  write_index(R"({"a":"1.safetensors","b":"2.safetensors","elsewhere":"1.safetensors"})");
  ::testing::internal::CaptureStderr();
  Checkpoint checkpoint = Checkpoint::open(folder_.path());
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
  EXPECT_EQ(checkpoint.names(), (std::vector<std::string>{"a", "b", "elsewhere", "omitted"}));
  EXPECT_EQ(value(checkpoint, "omitted"), 1);
  EXPECT_EQ(value(checkpoint, "elsewhere"), 2);
  // Twice: the later shard by name, although the index names the other.
  write("2.safetensors", 2, {"a", "b", "elsewhere", "omitted"});
  ::testing::internal::CaptureStderr();
  checkpoint = Checkpoint::open(folder_.path());
  const std::string warning = ::testing::internal::GetCapturedStderr();
  EXPECT_NE(warning.find("\"a\" from \"2.safetensors\" and 1 more"), warning.npos) << warning;
  EXPECT_EQ(value(checkpoint, "a"), 2);
  EXPECT_EQ(value(checkpoint, "omitted"), 2);
  // A shard that the index does not name is not opened.
  write("3.safetensors", 3, {"a"});
  EXPECT_EQ(value(Checkpoint::open(folder_.path()), "a"), 2);
}

TEST_F(CheckpointTest, RejectsABadIndex) {
  folder_.write("model.safetensors.index.json", "{\"weight_map\":");
  expect_bad_checkpoint({"index.json", "bad JSON"});
  folder_.write("model.safetensors.index.json", "{}");
  expect_bad_checkpoint({"index.json", "weight_map", "nothing"});
  write_index("[]");
  expect_bad_checkpoint({"index.json", "weight_map"});
  write_index("{\"a\":3}");
  expect_bad_checkpoint({"index.json", "\"a\"", "file name"});
  for (const char* name : {"../x.safetensors", "/etc/passwd", "..", ".", ""}) {
    write_index("{\"a\":\"" + std::string(name) + "\"}");
    expect_bad_checkpoint({"index.json", "\"a\"", "same folder"});
  }
}

}  // namespace
}  // namespace rillkv
