#include "rillkv/files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "rillkv/error.h"
#include "src/io/atomic_file.h"
#include "src/io/lfs_pointer.h"

namespace rillkv {

std::string read_file(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  RILLKV_CHECK(fd >= 0, "cannot open ", path, ": ", std::strerror(errno));
  struct stat info {};
  std::string text;
  int failure = ::fstat(fd, &info) == 0 ? 0 : errno;
  if (failure == 0 && S_ISDIR(info.st_mode)) failure = EISDIR;
  // Not only st_size bytes: a pipe or a file under /proc has none.
  if (failure == 0) text.reserve(static_cast<size_t>(info.st_size) + 1);
  char buffer[1 << 16];
  while (failure == 0) {
    const ssize_t count = ::read(fd, buffer, sizeof(buffer));
    if (count == 0) break;
    if (count > 0) {
      text.append(buffer, static_cast<size_t>(count));
    } else if (errno != EINTR) {
      failure = errno;
    }
  }
  ::close(fd);
  RILLKV_CHECK(failure == 0, "cannot read ", path, ": ", std::strerror(failure));
  io::refuse_lfs_pointer(text, path);
  return text;
}

bool is_file(const std::string& path) {
  struct stat info {};
  return ::stat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode);
}

bool is_folder(const std::string& path) {
  struct stat info {};
  return ::stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
}

void write_file_atomically(const std::string& path, std::string_view contents) {
  io::AtomicFile file(path);
  file.write(contents.data(), contents.size());
  file.commit();
}

namespace io {

AtomicFile::AtomicFile(std::string path) : path_(std::move(path)) {
  struct stat info {};
  const bool exists = ::stat(path_.c_str(), &info) == 0;
  // A device or a pipe (/dev/stdout) must be written to, not replaced; a folder fails here.
  if ((exists && !S_ISREG(info.st_mode)) || path_.rfind("/dev/", 0) == 0) {
    fd_ = ::open(path_.c_str(), O_WRONLY | O_CLOEXEC);
    if (fd_ < 0) fail("write");
    return;
  }
  temporary_ = path_ + ".XXXXXX";
  fd_ = ::mkostemp(temporary_.data(), O_CLOEXEC);
  if (fd_ < 0) {
    temporary_.clear();
    fail("create");
  }
  // mkstemp makes the file private; give it the permissions that open() would have given.
  const mode_t mask = ::umask(0);
  ::umask(mask);
  ::fchmod(fd_, 0666 & ~mask);
}

AtomicFile::~AtomicFile() {
  if (fd_ >= 0) ::close(fd_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFile::write(const void* data, size_t bytes) {
  const char* next = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t count = ::write(fd_, next, bytes);
    if (count < 0) {
      if (errno == EINTR) continue;
      fail("write");
    }
    next += count;
    bytes -= static_cast<size_t>(count);
  }
}

void AtomicFile::commit() {
  const int fd = std::exchange(fd_, -1);
  if (::close(fd) != 0) fail("write");
  if (!temporary_.empty() && ::rename(temporary_.c_str(), path_.c_str()) != 0) fail("write");
  temporary_.clear();
}

// A constructor that throws runs no destructor, so the temporary is removed here too.
void AtomicFile::fail(const char* action) {
  const int reason = errno;
  if (fd_ >= 0) ::close(std::exchange(fd_, -1));
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
  temporary_.clear();
  throw Error(str_cat("cannot ", action, " ", path_, ": ", std::strerror(reason)));
}

}  // namespace io
}  // namespace rillkv
