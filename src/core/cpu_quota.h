// What a container may spend of its machine's cores.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace rillkv {

/// floor(quota / period), at least 1, of the tightest control group that this process is in;
/// nothing where none has a quota, or the system does not tell. Reads <root>/proc/self/cgroup and
/// <root>/proc/self/mountinfo, then under <root> the mounted files of every level, from the
/// process's group up: cpu.max (v2), cpu.cfs_quota_us and cpu.cfs_period_us (v1). What cannot be
/// read or makes no sense counts as no quota.
std::optional<int64_t> cpu_quota_cores(const std::string& root = "");

}  // namespace rillkv
