// A checkpoint cloned without Git LFS holds small texts in place of its large files.
#pragma once

#include <string>
#include <string_view>

#include "rillkv/error.h"

namespace rillkv::io {

/// Throws Error where `content`, of the file `name`, is Git LFS's pointer to the file.
inline void refuse_lfs_pointer(std::string_view content, const std::string& name) {
  constexpr std::string_view kStart = "version https://git-lfs";
  constexpr size_t kLongest = 1024;  // the pointer format's own limit
  RILLKV_CHECK(
      content.size() >= kLongest || content.substr(0, kStart.size()) != kStart, name,
      ": expected the file itself, found a Git LFS pointer to it (git lfs pull fetches it)");
}

}  // namespace rillkv::io
