// Small helpers for whole files. None of them needs Torch.
#pragma once

#include <string>
#include <string_view>

namespace rillkv {

/// The whole content of a regular file. Throws Error naming the path if it cannot be read.
std::string read_file(const std::string& path);

/// Writes `contents` to a temporary file beside `path`, then renames it over `path`: a reader sees
/// the old file or the new one, never half of it. Throws Error and leaves nothing behind on
/// failure.
void write_file_atomically(const std::string& path, std::string_view contents);

/// `text` in quotation marks for an error line: control bytes are escaped, anything beyond 120
/// bytes is cut.
std::string in_quotes(std::string_view text);

}  // namespace rillkv
