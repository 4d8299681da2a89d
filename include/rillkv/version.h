// The library's version.
#pragma once

namespace rillkv {

/// "major.minor.patch" of the library that is linked, not of the headers.
const char* version();

}  // namespace rillkv
