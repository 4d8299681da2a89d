// How many threads pay.
#pragma once

namespace rillkv {

/// Cores that this process may keep busy, at least 1: those of the calling thread's affinity mask,
/// but no more than floor(quota / period) of any control group that it is in. Read anew at each
/// call: cgroup v2 (cpu.max) and v1 (cpu.cfs_quota_us), every level up to the mount's root.
int available_cores();

/// What to hand to at::set_num_threads at a program's start, as our own programs do: Torch's
/// choice, but at most available_cores(), unless OMP_NUM_THREADS has decided. With more threads
/// than a container's quota pays for, all of them are stopped for the rest of each period.
///
/// The library takes at::get_num_threads() at every call: set it at any time.
int default_threads();

}  // namespace rillkv
