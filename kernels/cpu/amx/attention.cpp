// Attention on the hardware's tile unit.
#include "kernels/cpu/amx/entries.h"

namespace rillkv::kernels::cpu::amx {

constinit const AttentionKernels kAttention = {
    .attention_workspace_bytes = workspace_bytes,
    .attend = attend_task<HardwareTiles>,
    .task_rows = kUnitTaskRows,
};

}  // namespace rillkv::kernels::cpu::amx
