#include "rillkv/version.h"

namespace rillkv {

const char* version() { return RILLKV_VERSION_STRING; }

}  // namespace rillkv
