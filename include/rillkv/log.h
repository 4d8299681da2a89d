// Messages for people, on stderr.
#pragma once

#include <string_view>

namespace rillkv {

enum class LogLevel { kQuiet, kWarning, kInfo, kDebug };

/// The level in force: set_log_level, otherwise RILLKV_LOG (quiet, warning, info, debug; anything
/// else is warned of), otherwise warning.
LogLevel log_level();
void set_log_level(LogLevel level);

/// One line on stderr if `level` is in force. Safe from several threads.
void log(LogLevel level, std::string_view message);

}  // namespace rillkv
