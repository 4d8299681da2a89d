// The argument of every CUDA entry: one trivially copyable struct, passed by value. Launchers,
// kernels and tests (which run the same PTX without a GPU) share these definitions. Pointers are
// device pointers; shapes stand beside them.
#pragma once

#include <cstdint>

#include "kernels/cuda/attention_params.h"
#include "kernels/cuda/ingest_params.h"
#include "kernels/cuda/model_params.h"
#include "kernels/cuda/slice_params.h"
#include "kernels/params.h"

namespace rillkv::kernels::cuda {

/// Blocks of one sequence to pack: block b holds tokens [b * block_size, ...) of the input, the
/// last one may be short. Grid (kv_heads, blocks).
struct BlockPackParams {
  Activation input;  // [tokens, kv_heads, head_dim]
  Dtype dtype = Dtype::kFloat32;
  int32_t tokens = 0;
  int32_t block_size = 128;
  int32_t head_dim = 0;
  uint8_t* const* blocks = nullptr;       // [blocks, kv_heads], 64-byte aligned
  unsigned long long* clipped = nullptr;  // [1] or null: += codes clipped
};

/// rillkv_pack_channels_symmetric (policy "ema").
struct PackChannelsSymmetricParams {
  BlockPackParams block;
  const float* absmax = nullptr;    // [blocks, kv_heads, head_dim]
  const uint8_t* widths = nullptr;  // [blocks, kv_heads, head_dim / 2]
};

/// rillkv_pack_sinks: one block, 2..8 or kRowBits bits. Grid (kv_heads, 1, tokens / kPackRows
/// rounded up).
struct PackSinksParams {
  BlockPackParams block;
  int32_t bits = 4;
  int32_t first_row = 0;  // tokens go to rows first_row ...; other rows are left alone
};

/// rillkv_rope and rillkv_hadamard: one warp a (token, head).
struct RotateParams {
  Activation input;       // [tokens, heads, head_dim]
  MutableActivation out;  // same shape; may be the input
  Dtype dtype = Dtype::kFloat32;
  int32_t tokens = 0;
  int32_t heads = 0;
  int32_t head_dim = 0;
  float hadamard_factor = 0;   // fp32(1 / sqrt(head_dim))
  const float* cos = nullptr;  // rope: [tokens, head_dim / 2]
  const float* sin = nullptr;
};

/// rillkv_dequantise: one packed block of each kv head to fp32. Grid (kv_heads).
struct DequantiseParams {
  const uint8_t* const* blocks = nullptr;  // [kv_heads]
  int32_t tokens = 0;                      // rows to write
  int32_t block_size = 128;                // rows the block has room for
  int32_t head_dim = 0;
  bool channel_major = true;
  bool symmetric = false;
  int32_t groups = 1;          // token blocks
  int32_t bits = 4;            // token blocks; symmetric ones are sinks, of 2..8 or kRowBits
  bool trellis = false;        // a trellis block: of keys if channel_major, else of values, whose
  int32_t wide_pairs = 0;      //   width is `bits`
  const float* cos = nullptr;  // [tokens, head_dim / 2]: rotate keys; null: do not
  const float* sin = nullptr;
  float* out = nullptr;  // [kv_heads, tokens, head_dim]
};

/// Dynamic shared memory of the kernels, bytes from its start; the launch plan and the kernels use
/// the same formulas.
inline constexpr int kAttentionTile = 128;  // tokens a step of the fast attention kernels
inline constexpr int kFastThreads = 256;
inline constexpr int kFastWarps = kFastThreads / 32;
inline constexpr int kPrefillRows = 128;  // query rows of a prefill CTA
inline constexpr int kDecodeThreads = 128;
inline constexpr int kDecodeWarps = kDecodeThreads / 32;
inline constexpr int kDecodeRows = 8;  // query rows of a decode CTA
inline constexpr int kMergeThreads = 256;
inline constexpr int kMaxGenericHeadDim = 256;  // shared memory of the generic kernel: 99 KB
inline constexpr int kGenericRows = 16;         // query rows of a generic CTA
inline constexpr int kGenericThreads = 128;     // 8 threads a row
inline constexpr int kPackThreads = 256;
inline constexpr int kRotateThreads = 128;
inline constexpr int kPackRows = 16;  // tokens a CTA of sinks: 16 lanes each

}  // namespace rillkv::kernels::cuda
