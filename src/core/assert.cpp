#include "core/assert.h"

#include <cstdio>
#include <cstdlib>
#include <string_view>

namespace rillkv {

void broken_invariant(const char* file, int line, const char* condition) {
  std::string_view name = file;
  const size_t root = name.rfind("/src/");  // the rest of the path is of the machine that built it
  if (root != name.npos) name.remove_prefix(root + 1);
  std::fprintf(stderr, "rillkv: broken invariant at %.*s:%d: %s\n", static_cast<int>(name.size()),
               name.data(), line, condition);
  std::abort();
}

}  // namespace rillkv
