// The functions behind the tables of kernels.h, one namespace an instruction set. A namespace
// declares every entry; an ISA's files define those that are worth having, and dispatch.cpp names
// for each table which definition it takes. Signatures and semantics: KernelTable.
#pragma once

#include "kernels/cpu/kernels.h"

#define RILLKV_DECLARE_KERNELS                                                            \
  size_t attention_workspace_bytes(const AttentionParams& params, int32_t query_tokens);  \
  void attend(const AttentionParams& params, const AttentionTask& task, void* workspace); \
  void absmax(const PackParams& params, float* out);                                      \
  void min_max(const PackParams& params, float* lo, float* hi);                           \
  void add_squares(const PackParams& params, float* sums);                                \
  void pack_channels_affine(const PackParams& params, const float* lo, const float* hi,   \
                            const uint8_t* widths, uint8_t* out);                         \
  int64_t pack_channels_symmetric(const PackParams& params, const float* absmax,          \
                                  const uint8_t* widths, uint8_t* out);                   \
  int64_t pack_tokens_affine(const PackParams& params, int32_t groups, int32_t bits,      \
                             uint8_t* out);                                               \
  void pack_tokens_symmetric(const PackParams& params, int32_t first_row, int32_t bits,   \
                             uint8_t* out);                                               \
  void hadamard(const PackParams& params, MutableActivation out);                         \
  void rms_norm(const NormParams& params, int64_t begin, int64_t end);                    \
  void gate(const GateParams& params, int64_t begin, int64_t end);                        \
  void rope(const RopeParams& params, int64_t begin, int64_t end);

namespace rillkv::kernels::cpu {

namespace scalar {
RILLKV_DECLARE_KERNELS
}
namespace avx2 {
RILLKV_DECLARE_KERNELS
}
namespace avx512 {
RILLKV_DECLARE_KERNELS
void pack_linear(const void* weight, int64_t out_features, int64_t in_features, int64_t begin,
                 int64_t end, void* packed);
void linear(const LinearParams& params, int64_t panel_begin, int64_t panel_end, int64_t row_begin,
            int64_t row_end);
}  // namespace avx512

}  // namespace rillkv::kernels::cpu

#undef RILLKV_DECLARE_KERNELS
