// The tile unit (AMX) where there is none: its instructions fault there (SIGILL), and the handler
// carries them out and steps over them. So the machine code of the AMX kernels, its registers,
// strides and tile configurations are tested on any machine that can run the rest of them.
#pragma once

#include <cstdint>

namespace rillkv::test {

/// From now on, in all threads of this process. Every other illegal instruction ends the process as
/// before, and so does what the unit itself refuses: a tile instruction without a configuration, or
/// a product of tiles whose shapes do not fit.
void emulate_tiles();

/// Tile instructions that this thread has had emulated.
int64_t emulated_tile_instructions();

}  // namespace rillkv::test
