// Where tests find the files they read: where the build had them, or where the environment says,
// for programs that run on another machine than the one that built them (scripts/gpu_check.sh).
#pragma once

#include <cstdlib>
#include <string>

namespace rillkv::test {

/// What the environment variable `name` holds, or `built` where it is not set or empty.
inline std::string path_or(const char* name, const char* built) {
  const char* set = std::getenv(name);
  return set != nullptr && *set != '\0' ? set : built;
}

#ifdef RILLKV_TEST_DATA_DIR
/// tests/data.
inline std::string test_data_dir() { return path_or("RILLKV_TEST_DATA_DIR", RILLKV_TEST_DATA_DIR); }
#endif

#ifdef RILLKV_PTX_DIR
/// The PTX files that the executor runs; nothing on a GPU reads them.
inline std::string ptx_dir() { return path_or("RILLKV_PTX_DIR", RILLKV_PTX_DIR); }
#endif

}  // namespace rillkv::test
