// Distributes one attention call over threads.
#pragma once

#include "kernels/cpu/params.h"

namespace rillkv {

/// Plans tasks, runs the CPU kernels on Torch's threads and merges partial results. Workspace is
/// O(chunk + block) a thread. Everything in `params` has been checked.
void run_attention(const kernels::cpu::AttentionParams& params);

}  // namespace rillkv
