// Packing as a whole model does it: many layers into one arena, views dropped with what they view.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "core/huge_page_arena.h"
#include "rillkv/chunked_attention.h"
#include "rillkv/linear.h"

namespace rillkv {

class CudaBackend;
struct Pass;

struct PackAccess {
  /// See LinearImpl::pack; the panels go to `arena`, to the allocator's memory if null.
  static bool pack(LinearImpl& linear, HugePageArena* arena);
  static void pack(ChunkedLlamaAttentionImpl& attention, HugePageArena* arena);
  /// Takes v_proj's bias out of the values: sets what forward adds in the biases' place.
  static void fold_value_bias(ChunkedLlamaAttentionImpl& attention);
  /// Follows parameters that have been loaded anew since `pack`; nothing before it.
  static void refold(ChunkedLlamaAttentionImpl& attention);
  /// linear.forward with `bias` in the place of its own (undefined: none), on the CPU or, of a
  /// weight that is not packed, through a CUDA back end.
  static at::Tensor forward(const LinearImpl& linear, const at::Tensor& x, const at::Tensor& bias,
                            CudaBackend* backend);
  /// attention.forward of rows that have been checked.
  static at::Tensor forward(const ChunkedLlamaAttentionImpl& attention, const at::Tensor& hidden,
                            const Pass& pass);
  /// Forgets the plain weight of a view whose fused weight has been packed.
  static void drop_weight(LinearImpl& linear);
  /// The panels, [panels, in_features / 2, outputs of a panel, 2]; undefined where not packed.
  static const at::Tensor& packed(const LinearImpl& linear) { return linear.packed_; }
  static const at::Tensor& packed_qkv(const ChunkedLlamaAttentionImpl& attention) {
    return attention.qkv_->packed_;
  }
  /// Whose rows are whose in the fused weight.
  static std::vector<std::pair<const char*, int64_t>> qkv_rows(
      const ChunkedLlamaAttentionImpl& attention) {
    const int64_t kv_rows = attention.kv_heads_ * attention.head_dim_;
    return {{"q_proj.weight", attention.heads_ * attention.head_dim_},
            {"k_proj.weight", kv_rows},
            {"v_proj.weight", kv_rows}};
  }
};

}  // namespace rillkv
