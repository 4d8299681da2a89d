// The same on tiles in plain C++.
#include "kernels/cpu/amx/entries.h"

namespace rillkv::kernels::cpu::amx {

constinit const AttentionKernels kPlainAttention = {
    .attention_workspace_bytes = workspace_bytes,
    .attend = attend_task<PlainTiles>,
    .task_rows = kUnitTaskRows,
};

}  // namespace rillkv::kernels::cpu::amx
