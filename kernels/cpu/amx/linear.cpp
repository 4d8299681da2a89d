#include "kernels/cpu/amx/linear.h"

#include "kernels/cpu/isa.h"

namespace rillkv::kernels::cpu::amx {
namespace {

template <TileUnit Tiles>
void linear_or_few(const LinearParams& params, int64_t panel_begin, int64_t panel_end,
                   int64_t row_begin, int64_t row_end, void* workspace) {
  if (params.rows < kFewestRows) {
    return profiled_linear().linear(params, panel_begin, panel_end, row_begin, row_end, workspace);
  }
  linear<Tiles>(params, panel_begin, panel_end, row_begin, row_end, workspace);
}

void pack_linear(const void* weight, int64_t out_features, int64_t in_features, int64_t begin,
                 int64_t end, void* packed) {
  avx512::kLinear.pack_linear(weight, out_features, in_features, begin, end, packed);
}

}  // namespace

constinit const LinearKernels kLinear = {pack_linear, linear_or_few<HardwareTiles>,
                                         linear_workspace_bytes, first_tiled_row, tile_rows};
constinit const LinearKernels kPlainLinear = {pack_linear, linear_or_few<PlainTiles>,
                                              linear_workspace_bytes, first_tiled_row, tile_rows};

}  // namespace rillkv::kernels::cpu::amx
