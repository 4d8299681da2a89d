// Every allocation of the process, by size: malloc and its relatives are replaced in this program,
// so LibTorch's and the C++ library's are seen, too.
#pragma once

#include <cstddef>
#include <map>

namespace rillkv::testing {

/// False under AddressSanitizer, which has replaced malloc itself.
bool sees_allocations();

/// Sizes asked for, with how often, between construction and `stop`; of all threads. One at a time.
class AllocationLog {
 public:
  AllocationLog();
  ~AllocationLog();
  std::map<size_t, size_t> stop();
};

}  // namespace rillkv::testing
