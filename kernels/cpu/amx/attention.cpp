#include "kernels/cpu/amx/entries.h"

namespace rillkv::kernels::cpu::amx {

constinit const AttentionKernels kAttention = {workspace_bytes, attend_task<HardwareTiles>,
                                               kUnitTaskRows};
constinit const AttentionKernels kPlainAttention = {workspace_bytes, attend_task<PlainTiles>,
                                                    kUnitTaskRows};

}  // namespace rillkv::kernels::cpu::amx
