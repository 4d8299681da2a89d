// Small helpers for whole files. None of them needs Torch.
#pragma once

#include <string>
#include <string_view>

namespace rillkv {

/// The whole content of a regular file. Throws Error naming the path if it cannot be read or is a
/// Git LFS pointer in place of the file.
std::string read_file(const std::string& path);

/// Whether a regular file, or a folder, is there. False where the system does not tell.
bool is_file(const std::string& path);
bool is_folder(const std::string& path);

/// Writes `contents` to a temporary file beside `path`, then renames it over `path`: a reader sees
/// the old file or the new one, never half of it. Throws Error and leaves nothing behind on
/// failure.
void write_file_atomically(const std::string& path, std::string_view contents);

}  // namespace rillkv
