// A file that appears under its name only when it is complete.
#pragma once

#include <cstddef>
#include <string>

namespace rillkv::io {

/// Writes to a temporary file in the target's folder; commit() renames it to the target. Without a
/// commit the destructor removes it. Not thread-safe.
class AtomicFile {
 public:
  explicit AtomicFile(std::string path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(const void* data, size_t bytes);
  void commit();

 private:
  [[noreturn]] void fail(const char* action);

  std::string path_;
  std::string temporary_;
  int fd_ = -1;
};

}  // namespace rillkv::io
