// The machine, as every report names it.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace rillkv::cli {

/// The CPU's name.
std::string processor();

/// "tiles", "decode", "linear", "one_row", "reason" of cpu_info(), and "measured_gflops" (of one
/// core: "fp32", "bf16"), null where there was nothing to choose.
nlohmann::ordered_json arithmetic_json();

/// "cpu", "threads", "isa", "arithmetic".
nlohmann::ordered_json machine_json();

}  // namespace rillkv::cli
