// From an instruction's address operand to host pointers: address spaces, bounds, alignment, and
// the checks and counters that every access goes through.
#pragma once

#include <cstdint>

#include "tests/support/ptx/program.h"
#include "tests/support/ptx/shadow.h"
#include "tests/support/ptx/warp.h"

namespace rillkv::ptx {

/// Fills Warp::pointers with the host address of every active lane's access of `bytes` at
/// operand[slot] + immediate, after checking it. Stops the launch if an address is unusable.
void locate(Warp& warp, const Op& op, int slot, uint32_t bytes, AccessKind kind);

/// The same for shared memory, as offsets: for instructions that treat it specially. Checks bounds
/// and alignment only.
void locate_shared(Warp& warp, const Op& op, int slot, uint32_t bytes, uint32_t* offsets);

}  // namespace rillkv::ptx
