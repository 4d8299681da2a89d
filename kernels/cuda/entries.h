// All CUDA entries by name. The fast paths are the prefill_* and decode_* ones.
#pragma once

#define RILLKV_CUDA_ENTRIES(X)        \
  X(rillkv_ingest_bf16)               \
  X(rillkv_ingest_fp16)               \
  X(rillkv_ingest_fp32)               \
  X(rillkv_ingest_feedback_bf16)      \
  X(rillkv_ingest_feedback_fp16)      \
  X(rillkv_ingest_feedback_fp32)      \
  X(rillkv_pack_bf16)                 \
  X(rillkv_pack_fp16)                 \
  X(rillkv_pack_fp32)                 \
  X(rillkv_pack_feedback_bf16)        \
  X(rillkv_pack_feedback_fp16)        \
  X(rillkv_pack_feedback_fp32)        \
  X(rillkv_pack_trellis_bf16)         \
  X(rillkv_pack_trellis_fp16)         \
  X(rillkv_pack_trellis_fp32)         \
  X(rillkv_pack_channels_symmetric)   \
  X(rillkv_pack_sinks)                \
  X(rillkv_rope)                      \
  X(rillkv_hadamard)                  \
  X(rillkv_dequantise)                \
  X(rillkv_prefill_d64_bf16)          \
  X(rillkv_prefill_d64_fp16)          \
  X(rillkv_prefill_d128_bf16)         \
  X(rillkv_prefill_d128_fp16)         \
  X(rillkv_prefill_trellis_d64_bf16)  \
  X(rillkv_prefill_trellis_d64_fp16)  \
  X(rillkv_prefill_trellis_d128_bf16) \
  X(rillkv_prefill_trellis_d128_fp16) \
  X(rillkv_decode_d64_bf16)           \
  X(rillkv_decode_d64_fp16)           \
  X(rillkv_decode_d128_bf16)          \
  X(rillkv_decode_d128_fp16)          \
  X(rillkv_decode_trellis_d64_bf16)   \
  X(rillkv_decode_trellis_d64_fp16)   \
  X(rillkv_decode_trellis_d128_bf16)  \
  X(rillkv_decode_trellis_d128_fp16)  \
  X(rillkv_merge_d64)                 \
  X(rillkv_merge_d128)                \
  X(rillkv_expand_slice_d64)          \
  X(rillkv_expand_slice_d128)         \
  X(rillkv_expand_slice_trellis_d64)  \
  X(rillkv_expand_slice_trellis_d128) \
  X(rillkv_slice_queries)             \
  X(rillkv_fold_slice)                \
  X(rillkv_attention_generic)         \
  X(rillkv_rms_norm_bf16)             \
  X(rillkv_rms_norm_fp16)             \
  X(rillkv_rms_norm_fp32)             \
  X(rillkv_gate_bf16)                 \
  X(rillkv_gate_fp16)                 \
  X(rillkv_gate_fp32)                 \
  X(rillkv_embed)                     \
  X(rillkv_set_ids)                   \
  X(rillkv_begin_pass)                \
  X(rillkv_rope_rows)

// The host stubs; only their addresses are used, so the argument type does not matter here.
#define RILLKV_DECLARE_ENTRY(name) extern "C" void name();
RILLKV_CUDA_ENTRIES(RILLKV_DECLARE_ENTRY)
#undef RILLKV_DECLARE_ENTRY

namespace rillkv::kernels::cuda {

struct Entry {
  const char* name;
  const void* function;
};

#define RILLKV_LIST_ENTRY(name) {#name, reinterpret_cast<const void*>(&(name))},
inline const Entry kEntries[] = {RILLKV_CUDA_ENTRIES(RILLKV_LIST_ENTRY)};
#undef RILLKV_LIST_ENTRY

}  // namespace rillkv::kernels::cuda
