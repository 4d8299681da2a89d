#include "rillkv/memory.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace rillkv {
namespace {

/// A "Name:   123 kB" line of /proc/self/status, in bytes.
int64_t status_line(const char* name) {
  std::FILE* file = std::fopen("/proc/self/status", "r");
  if (file == nullptr) return 0;
  char line[256];
  long long kilobytes = 0;
  const size_t length = std::strlen(name);
  while (std::fgets(line, sizeof line, file) != nullptr) {
    if (std::strncmp(line, name, length) == 0) {
      kilobytes = std::strtoll(line + length, nullptr, 10);
      break;
    }
  }
  std::fclose(file);
  return kilobytes * 1024;
}

}  // namespace

int64_t current_rss_bytes() { return status_line("VmRSS:"); }
int64_t peak_rss_bytes() { return status_line("VmHWM:"); }

void release_freed_memory() {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

}  // namespace rillkv
