// The operating system's leave to use the tile unit.
#pragma once

namespace rillkv::kernels::cpu {

/// Whether this CPU has a tile unit with bf16 and signed bytes, and Linux lets this process use it.
/// Asks once a process: for a unit whose state is 8 KB, Linux enlarges the signal frame and the
/// register area of a thread only for who asks, and faults the first tile instruction of others.
/// `refused`, unless null, is set to whether the CPU has the unit but the system refused it.
bool may_use_tiles(bool* refused = nullptr);

}  // namespace rillkv::kernels::cpu
