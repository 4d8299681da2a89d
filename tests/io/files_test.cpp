#include "rillkv/files.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <string>

#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"

namespace rillkv {
namespace {

using testing::expect_error;
using testing::TemporaryFolder;

TEST(Files, WritesAndReadsAnyBytes) {
  const TemporaryFolder folder;
  std::string bytes;
  for (int i = 0; i < 200000; ++i) bytes += static_cast<char>(i * 7);
  write_file_atomically(folder.file("a"), bytes);
  EXPECT_EQ(read_file(folder.file("a")), bytes);
  write_file_atomically(folder.file("a"), "");
  EXPECT_EQ(read_file(folder.file("a")), "");
  // Readable as any new file is, not private as temporary files are.
  struct stat info {};
  ASSERT_EQ(::stat(folder.file("a").c_str(), &info), 0);
  const mode_t mask = ::umask(0);
  ::umask(mask);
  EXPECT_EQ(info.st_mode & 0777, 0666 & ~mask);
  size_t count = 0;
  for (const auto& item : std::filesystem::directory_iterator(folder.path())) {
    (void)item;
    ++count;
  }
  EXPECT_EQ(count, 1u);
}

TEST(Files, NamesThePathThatFails) {
  const TemporaryFolder folder;
  expect_error([&] { read_file(folder.file("none")); }, {folder.file("none"), "No such file"});
  expect_error([&] { read_file(folder.path()); }, {folder.path(), "directory"});
  expect_error([&] { write_file_atomically(folder.path(), "x"); }, {folder.path(), "directory"});
  expect_error([&] { write_file_atomically(folder.file("no/file"), "x"); },
               {folder.file("no/file"), "No such file"});
  expect_error([] { write_file_atomically("/dev/full", "x"); }, {"/dev/full", "No space"});
}

TEST(Files, NamesAGitLfsPointer) {
  const TemporaryFolder folder;
  const std::string pointer = "version https://git-lfs.example/spec/v1\nsize 1\n";
  expect_error([&] { read_file(folder.write("tokenizer.model", pointer)); },
               {folder.file("tokenizer.model"), "Git LFS pointer", "git lfs pull"});
  for (const std::string& text :
       {"\n" + pointer, std::string("version https://git"), pointer + std::string(1024, ' ')}) {
    EXPECT_EQ(read_file(folder.write("text", text)), text);
  }
}

TEST(Files, DevicesAreWrittenToNotReplaced) {
  write_file_atomically("/dev/null", "x");
  struct stat info {};
  ASSERT_EQ(::stat("/dev/null", &info), 0);
  EXPECT_TRUE(S_ISCHR(info.st_mode));
}

}  // namespace
}  // namespace rillkv
