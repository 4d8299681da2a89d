// Where things lie in dynamic shared memory: one formula for the launch plan and the kernels.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/entry_params.h"
#include "kernels/cuda/trellis_scratch.h"
#include "kernels/moment_layout.h"
#include "kernels/packed_format.h"

namespace rillkv::kernels::cuda {

/// Tokens of a CTA of keys or values, and threads of any CTA of rillkv_ingest_*.
inline constexpr int kIngestRows = 16;
inline constexpr int kIngestThreads = 128;

/// Channels that a query CTA of rillkv_ingest_* has of each of a kv head's `group` heads: as many
/// as it has threads for, but no less than a sector of 16-bit elements and no more than a warp.
RILLKV_HOST_DEVICE constexpr int ingest_slice(int group) { return group <= 4 ? 32 : 16; }

/// Query CTAs of rillkv_ingest_feedback_*: each has up to kTiles tiles of 16 x 16
/// (moment_layout.h), a warp each, of a row of tiles of one kv head.
struct MomentGrid {
  static constexpr int kTiles = kIngestThreads / 32;
  static constexpr size_t kSharedBytes = 19200;  // 60 steps of 16 + 16 kTiles channels, fp32

  struct Part {
    int kv_head, row, first_column;  // in tiles

    RILLKV_HOST_DEVICE Part(int cta, int head_dim)
        : kv_head(cta / ctas_a_head(head_dim)), row(0), first_column(0) {
      for (int rest = cta % ctas_a_head(head_dim);;) {
        const int parts = (row + kTiles) / kTiles;
        if (rest < parts) {
          first_column = rest * kTiles;
          break;
        }
        rest -= parts;
        ++row;
      }
    }
  };
  RILLKV_HOST_DEVICE static constexpr int ctas_a_head(int head_dim) {
    const int rows = (head_dim + kMomentTile - 1) / kMomentTile;
    int ctas = 0;
    for (int row = 0; row < rows; ++row) ctas += (row + kTiles) / kTiles;
    return ctas;
  }
};

/// Grid of rillkv_ingest_*: query CTAs come first, since theirs is the longest chain, then those of
/// keys, then as many of values.
struct IngestGrid {
  int query_ctas;
  int row_ctas;
  /// feedback: of rillkv_ingest_feedback_*.
  RILLKV_HOST_DEVICE explicit IngestGrid(const IngestParams& p, bool feedback = false)
      : query_ctas(0), row_ctas(p.kv_heads) {
    const int group = p.heads / p.kv_heads, slice = ingest_slice(group);
    if (feedback) {
      query_ctas = p.kv_heads * MomentGrid::ctas_a_head(p.head_dim);
    } else if (p.steps != nullptr || p.energy_sums != nullptr) {
      query_ctas = p.kv_heads * ((p.head_dim + slice - 1) / slice);
    }
    if (p.steps == nullptr) row_ctas *= (p.tokens + kIngestRows - 1) / kIngestRows;
  }
  RILLKV_HOST_DEVICE int ctas() const { return query_ctas + 2 * row_ctas; }
  /// Dynamic shared memory of a CTA: sums of a group's slice, or maxima of a head's channels.
  RILLKV_HOST_DEVICE static size_t shared_bytes(const IngestParams& p, bool feedback = false) {
    const int group = p.heads / p.kv_heads, sums = group * ingest_slice(group);
    if (feedback) return MomentGrid::kSharedBytes;
    return 4 * static_cast<size_t>(sums > p.head_dim ? sums : p.head_dim);
  }
};

/// Threads of a CTA of rillkv_pack_*, and the value rows it takes: a half warp each.
inline constexpr int kPackBlockThreads = 512;
inline constexpr int kPackBlockRows = kPackBlockThreads / 16;
/// Largest dynamic shared memory of a key CTA whose tile lies there: what the smallest device may
/// give a CTA by opting in (99 KB), less a margin. Larger tiles are read from global memory.
inline constexpr size_t kMostTileShared = 96 * 1024;

/// Shared memory of the channel packers.
struct ChannelPackShared {
  float* partial;     // [max(threads, head_dim)][2], min and max of a share of the tokens
  float* lo;          // [head_dim]
  float* hi;          // [head_dim]
  float* gains;       // [7 * head_dim / 2]
  int* levels;        // [head_dim / 2]
  uint32_t* offsets;  // [head_dim + 1], see scan_plane_counts
  uint8_t* widths;    // [head_dim / 2]
  uint8_t* codes;     // [head_dim][block_size + 4]
  size_t bytes;

  RILLKV_HOST_DEVICE ChannelPackShared(uint8_t* base, int head_dim, int block_size,
                                       int threads = kPackThreads) {
    const size_t dim = static_cast<size_t>(head_dim);
    size_t at = 0;
    const size_t partial_at = at;
    at += 8 * (head_dim > threads ? dim : static_cast<size_t>(threads));
    const size_t lo_at = at;
    at += 4 * dim;
    const size_t hi_at = at;
    at += 4 * dim;
    const size_t gains_at = at;
    at += 14 * dim;
    const size_t levels_at = at;
    at += 2 * dim;
    const size_t offsets_at = at;
    at += 4 * (dim + 1);
    const size_t widths_at = at;
    at = format::align_up(at + dim / 2, 16);
    const size_t codes_at = at;
    at += dim * (static_cast<size_t>(block_size) + 4);
    partial = reinterpret_cast<float*>(base + partial_at);
    lo = reinterpret_cast<float*>(base + lo_at);
    hi = reinterpret_cast<float*>(base + hi_at);
    gains = reinterpret_cast<float*>(base + gains_at);
    levels = reinterpret_cast<int*>(base + levels_at);
    offsets = reinterpret_cast<uint32_t*>(base + offsets_at);
    widths = base + widths_at;
    codes = base + codes_at;
    bytes = at;
  }
};

/// Shared memory of a key CTA of rillkv_pack_*: ChannelPackShared's and, where it fits, the block's
/// tile [block_size, head_dim] of 2- or 4-byte elements.
struct KeyPackShared {
  ChannelPackShared codes;
  uint8_t* tile;  // null: it does not fit
  size_t bytes;

  RILLKV_HOST_DEVICE KeyPackShared(uint8_t* base, int head_dim, int block_size, int element_bytes)
      : codes(base, head_dim, block_size, kPackBlockThreads) {
    const size_t at = format::align_up(codes.bytes, 16);
    const size_t end = at + static_cast<size_t>(head_dim) * static_cast<size_t>(block_size) *
                                static_cast<size_t>(element_bytes);
    const bool fits = end <= kMostTileShared;
    tile = fits ? base + at : nullptr;
    bytes = fits ? end : codes.bytes;
  }
};

/// The same for what pack_key_tile.cuh takes, blocks of 128 tokens of 2-byte elements: less.
struct KeyTileShared {
  float* squares;   // [head_dim]
  uint32_t* keys;   // [head_dim / 2]
  uint8_t* widths;  // [head_dim / 2], a pair's width
  uint8_t* tile;    // [128][head_dim]

  RILLKV_HOST_DEVICE KeyTileShared(uint8_t* base, int head_dim)
      : squares(reinterpret_cast<float*>(base)),
        keys(reinterpret_cast<uint32_t*>(base + 4 * head_dim)),
        widths(base + 6 * head_dim),
        tile(base + 7 * head_dim) {}
};

/// Shared memory of a key CTA of rillkv_pack_feedback_* that takes a tile (feedback_tile.cuh): 128
/// tokens of D 2-byte elements. Offsets in bytes, known when compiling.
template <int D>
struct FeedbackTileShared {
  static constexpr int kHalf = D / 2, kTokens = 128;
  static constexpr int kPanel = 8;   // positions of a warp, and of a step of the factorisation
  static constexpr int kErrors = 4;  // positions between two barriers

  static constexpr int kEnergies = 0;                                 // float[half], by pair
  static constexpr int kDamping = kEnergies + 4 * kHalf;              // float[half], by pair
  static constexpr int kLeast = kDamping + 4 * kHalf;                 // float[D], by position
  static constexpr int kSensitivities = kLeast + 4 * D;               // float[D], by position
  static constexpr int kVariances = kSensitivities + 4 * D;           // float[D], by channel
  static constexpr int kKeys = kVariances + 4 * D;                    // uint32[half] of PairGains
  static constexpr int kTops = kKeys + 4 * kHalf;                     // float2[half], by pair
  static constexpr int kPlanes = kTops + 8 * kHalf;                   // uint32[half + 1]
  static constexpr int kUsable = kPlanes + 4 * kHalf + 4;             // int
  static constexpr int kPairs = kUsable + 4;                          // uint16[half], by rank
  static constexpr int kRanks = kPairs + 2 * kHalf;                   // uint16[half], by pair
  static constexpr int kWidths = kRanks + 2 * kHalf;                  // uint8[half], by pair
  static constexpr int kErrorsAt = (kWidths + kHalf + 15) / 16 * 16;  // float[2][kErrors][128]
  static constexpr int kWeights = kErrorsAt + 4 * 2 * kErrors * kTokens;

  /// Weights: row j holds B_ij of the positions i from its panel on. An odd number of 16-byte
  /// chunks a row: eight rows meet all banks.
  RILLKV_HOST_DEVICE static constexpr int weight_at(int j, int i) {
    const int panel = j / kPanel;
    return panel * kPanel * (D + 4) - kPanel * kPanel / 2 * panel * (panel - 1) +
           j % kPanel * (D + 4 - kPanel * panel) + i - kPanel * panel;
  }
  /// The matrix: the rows of moment_layout.h, 16 bytes apart.
  RILLKV_HOST_DEVICE static constexpr int matrix_row(int i) {
    return static_cast<int>(moment_row(i)) + 4 * i;
  }
  static constexpr int kMatrix =
      kWeights + 4 * weight_at(D, D);     // float[..], once the tile is read
  static constexpr int kTile = kMatrix;   // T[D][kTokenStride], before
  static constexpr int kCodes = kMatrix;  // uint32[D][32], once it is factorised
  static constexpr int kTokenStride = kTokens + 8;
  static constexpr int kMatrixBytes = 4 * matrix_row(D), kTileBytes = 2 * D * kTokenStride;
  static constexpr int kBytes = kMatrix + (kMatrixBytes > kTileBytes ? kMatrixBytes : kTileBytes);
  static_assert(kMatrixBytes >= 128 * D);
  static constexpr int kTrellis = kCodes + 128 * D;  // TrellisScratch, of policy "trellis"
  static constexpr int kTrellisEnd = kTrellis + static_cast<int>(sizeof(TrellisScratch<kTokens>));
  static constexpr int kTrellisBytes = kTrellisEnd > kBytes ? kTrellisEnd : kBytes;
  static_assert(kWeights % 16 == 0 && kMatrix % 16 == 0 && kTops % 8 == 0 && kLeast % 16 == 0);
  static_assert(D == kPanel * (D / kPanel) && D % kMomentTile == 0);
};
/// Whether a block's keys are such a tile; any other shape takes feedback_any.cuh.
RILLKV_HOST_DEVICE constexpr bool feedback_takes_tile(const PackParams& p) {
  return p.dtype != Dtype::kFloat32 && (p.head_dim == 64 || p.head_dim == 128) &&
         p.block_size == 128;
}

/// The same for any shape: ChannelPackShared's, and of the plan what is as long as a row.
struct FeedbackShared {
  ChannelPackShared codes;
  float* energies;       // [head_dim / 2]
  float* damping;        // [head_dim / 2]
  float* sensitivities;  // [head_dim], by position
  float* spread;         // [head_dim], by channel
  float* row;            // [head_dim], M_kj
  float* weights;        // [head_dim], B_kj
  float* extremes;       // [2][2][32]: minima and maxima of the warps
  int* usable;
  uint16_t* pairs;  // [head_dim / 2]
  uint16_t* ranks;  // [head_dim / 2]
  size_t bytes;
  size_t trellis;        // where policy "trellis" has its TrellisScratch
  size_t trellis_bytes;  // of all, with it

  RILLKV_HOST_DEVICE FeedbackShared(uint8_t* base, int head_dim, int block_size)
      : codes(base, head_dim, block_size, kPackBlockThreads) {
    const size_t dim = static_cast<size_t>(head_dim), at = format::align_up(codes.bytes, 16);
    energies = reinterpret_cast<float*>(base + at);
    damping = energies + dim / 2;
    sensitivities = damping + dim / 2;
    spread = sensitivities + dim;
    row = spread + dim;
    weights = row + dim;
    extremes = weights + dim;
    usable = reinterpret_cast<int*>(extremes + 128);
    pairs = reinterpret_cast<uint16_t*>(usable + 1);
    ranks = pairs + dim / 2;
    bytes = at + 4 * (5 * dim + 129) + 2 * dim;
    trellis = format::align_up(bytes, 16);
    trellis_bytes = trellis + sizeof(TrellisScratch<256>);
  }
};
/// Global memory of a key CTA of any shape: M, in whose place come the weights, [D, D]; errors, [D,
/// block_size]. None for tiles.
RILLKV_HOST_DEVICE constexpr size_t feedback_scratch_floats(const PackParams& p) {
  const auto dim = static_cast<size_t>(p.head_dim);
  return feedback_takes_tile(p) ? 0 : dim * (dim + static_cast<size_t>(p.block_size));
}

/// Shared memory of the token packers: a row of values and a row of codes for each half warp. Rows
/// are 16 banks past a multiple of 32: two half warps meet no bank twice.
struct TokenPackShared {
  int value_stride;  // floats
  int code_stride;   // bytes

  RILLKV_HOST_DEVICE explicit TokenPackShared(int head_dim)
      : value_stride((head_dim + 31) / 32 * 32 + 16),
        code_stride((head_dim + 127) / 128 * 128 + 64) {}
  RILLKV_HOST_DEVICE size_t bytes(int rows) const {
    return static_cast<size_t>(rows) *
           (4 * static_cast<size_t>(value_stride) + static_cast<size_t>(code_stride));
  }
};

/// Bytes of a ChannelTable (fill_channels.cuh).
RILLKV_HOST_DEVICE constexpr int channel_table_bytes(int head_dim) {
  return static_cast<int>(format::align_up(static_cast<size_t>(head_dim) / 2 * 42));
}

/// The sequence that a decode CTA attends (attention_sequence.cuh): an AttentionParams, the
/// SequenceStep and the LayerState that it may come from; offsets in bytes.
struct DecodeSequence {
  static constexpr int kStep = static_cast<int>(format::align_up(sizeof(AttentionParams), 16));
  static constexpr int kLayer =
      kStep + static_cast<int>(format::align_up(sizeof(SequenceStep), 16));
  static constexpr int kBytes = kLayer + static_cast<int>(format::align_up(sizeof(LayerState), 16));
};

/// Warps that merge a row of `splits` parts, each a sum of at most 8 of them, whose loads are all
/// under way at once.
RILLKV_HOST_DEVICE constexpr int merge_warps(int splits) {
  return splits <= 8 ? 1 : splits <= 16 ? 2 : splits <= 32 ? 4 : 8;
}
inline constexpr int kMergeWarps = kMergeThreads / 32;
inline constexpr int kMaxSplits = 8 * kMergeWarps;
/// Shared memory of the merge: a row of sums a warp.
RILLKV_HOST_DEVICE constexpr size_t merge_shared_bytes(int head_dim) {
  return sizeof(float) * kMergeWarps * static_cast<size_t>(head_dim);
}

/// The fast paths take value groups of 64 channels and more; smaller ones go the generic way.
RILLKV_HOST_DEVICE constexpr int value_groups_at_most(int head_dim) { return head_dim / 64; }
/// Room for a packed block of values or of keys of 128 tokens at 8 bits an element.
RILLKV_HOST_DEVICE constexpr int value_block_bytes_at_most(int head_dim) {
  return static_cast<int>(
      format::token_block_bytes(128, head_dim, value_groups_at_most(head_dim), false, 8));
}
RILLKV_HOST_DEVICE constexpr int key_block_bytes_at_most(int head_dim) {
  return static_cast<int>(format::channel_block_bytes(head_dim, 128, false, 8 * head_dim));
}

/// Shared memory of the prefill kernels, offsets in bytes, known when compiling. The tiles are 128
/// tokens of 16-bit keys and values. Packed keys come last and have room for 8 bits an element
/// unless the largest is known.
struct PrefillShared {
  int values;         // value tile (the key tile is at 0)
  int last_index;     // int[128 rows], the last index a row sees
  int next;           // pointers to two tiles' blocks
  int key_table;      // the key block's ChannelTable
  int value_table;    // the value block's
  int rotation;       // float[D]: cos and sin of R(t0)
  int packed_values;  // the block
  int packed_keys;    // the block

  RILLKV_HOST_DEVICE constexpr explicit PrefillShared(int head_dim)
      : values(128 * 2 * head_dim),
        last_index(values + 128 * 2 * head_dim),
        next(last_index + 4 * 128),
        key_table(next + 64),
        value_table(key_table + channel_table_bytes(head_dim)),
        rotation(value_table + channel_table_bytes(head_dim)),
        packed_values(rotation + 4 * head_dim),
        packed_keys(packed_values + value_block_bytes_at_most(head_dim)) {}
  /// All of it; key_block_bytes 0: not known.
  RILLKV_HOST_DEVICE constexpr int bytes(int head_dim, int key_block_bytes) const {
    return packed_keys +
           (key_block_bytes > 0 ? key_block_bytes : key_block_bytes_at_most(head_dim));
  }
};

/// Bytes of a TrellisTable, of the values' tables and of subsets (fill_trellis.cuh). The latter are
/// crumb planes whose second halves come after all first ones, in other banks.
RILLKV_HOST_DEVICE constexpr int trellis_table_bytes(int head_dim) {
  return static_cast<int>(format::align_up(static_cast<size_t>(head_dim) / 2 * 50));
}
inline constexpr int kTrellisScaleBytes = 512;
inline constexpr int kTrellisWalkBytes = 16 * 2 * kFastWarps;
RILLKV_HOST_DEVICE constexpr int subset_tails(int head_dim) { return 16 * head_dim + 64; }
RILLKV_HOST_DEVICE constexpr int subset_bytes(int head_dim) {
  return subset_tails(head_dim) + 16 * head_dim;
}
/// A trellis block of 128 tokens up to its planes of b, and a value block's bytes of those.
RILLKV_HOST_DEVICE constexpr int trellis_key_meta_bytes(int head_dim) {
  return static_cast<int>(
      format::trellis_codes_offset(format::trellis_key_path_offset(head_dim), head_dim, 128));
}
RILLKV_HOST_DEVICE constexpr int trellis_value_meta_bytes(int head_dim) {
  return static_cast<int>(
      format::trellis_codes_offset(format::trellis_value_path_offset(128), head_dim, 128));
}
RILLKV_HOST_DEVICE constexpr int trellis_value_code_bytes(int head_dim, int width, int wide_pairs) {
  return static_cast<int>(format::trellis_value_bytes(head_dim, 128, width, wide_pairs)) -
         trellis_value_meta_bytes(head_dim);
}
RILLKV_HOST_DEVICE constexpr int trellis_key_bytes_at_most(int head_dim) {
  return static_cast<int>(
      format::trellis_key_bytes(head_dim, 128, format::kMaxTrellisWidth * head_dim));
}

/// PrefillShared of rillkv_prefill_trellis_*. Packed keys come after the packed values, whose size
/// every block has.
struct PrefillTrellisShared {
  int values;         // value tile (the key tile is at 0)
  int last_index;     // int[128 rows], the last index a row sees
  int next;           // pointers to two tiles' blocks
  int key_table;      // the key block's TrellisTable
  int rotation;       // float[D]: cos and sin of R(t0)
  int key_subsets;    // of the key block
  int value_subsets;  // of the value block
  int value_scales;   // the value block's scales
  int value_walks;    // where warps begin in any value block
  int value_meta;     // the value block up to its planes of b
  int packed_values;  // its planes of b

  RILLKV_HOST_DEVICE constexpr explicit PrefillTrellisShared(int head_dim)
      : values(128 * 2 * head_dim),
        last_index(values + 128 * 2 * head_dim),
        next(last_index + 4 * 128),
        key_table(next + 64),
        rotation(key_table + trellis_table_bytes(head_dim)),
        key_subsets(rotation + 4 * head_dim),
        value_subsets(key_subsets + subset_bytes(head_dim)),
        value_scales(value_subsets + subset_bytes(head_dim)),
        value_walks(value_scales + kTrellisScaleBytes),
        value_meta(value_walks + kTrellisWalkBytes),
        packed_values(value_meta + trellis_value_meta_bytes(head_dim)) {}
  /// The key block, behind so many bytes of packed values.
  RILLKV_HOST_DEVICE constexpr int packed_keys(int value_code_bytes) const {
    return packed_values + value_code_bytes;
  }
  /// All of it; key_block_bytes 0: not known.
  RILLKV_HOST_DEVICE constexpr int bytes(int head_dim, int value_code_bytes,
                                         int key_block_bytes) const {
    return packed_keys(value_code_bytes) +
           (key_block_bytes > 0 ? key_block_bytes : trellis_key_bytes_at_most(head_dim));
  }
};

/// Shared memory of the decode kernels, offsets in bytes. What is known when compiling comes first,
/// then the packed blocks, values and keys; in their place, when there are none left, a tile of 64
/// uncompressed tokens, and at the end the warps' sums.
struct DecodeShared {
  int pairs;        // KeyOperands (decode_keys.cuh)
  int operands;     // the same
  int queries;      // float2[8 rows][D/2], rotated, a row query_stride apart
  int scales;       // float[8 rows]: from scores of these queries to units of log2
  int last_index;   // int[8 rows]: the last index each sees
  int maxima;       // float[4 warps][8 rows]
  int sums;         // float[4 warps][8 rows]
  int exchange;     // uint4[4 warps][2][32 lanes]: scores on their way to another warp
  int value_table;  // uint4[D], policy "ema" (decode_values.cuh)
  int key_subsets;  // policy "trellis": subset_bytes (decode_trellis.cuh)
  int value_subsets;
  int rotation;  // float[D]: cos and sin of R(t0)
  int next;      // pointers to four tiles' blocks
  int sequence;  // DecodeSequence
  int values;    // packed values; tile; sums

  /// trellis: of the entries for trellis blocks.
  RILLKV_HOST_DEVICE constexpr explicit DecodeShared(int head_dim, bool trellis = false)
      : pairs(0),
        operands(pairs + 8 * head_dim),
        queries(operands + 64 * head_dim),
        scales(queries + kDecodeRows * query_stride(head_dim)),
        last_index(scales + 4 * kDecodeRows),
        maxima(last_index + 4 * kDecodeRows),
        sums(maxima + 4 * kDecodeWarps * kDecodeRows),
        exchange(sums + 4 * kDecodeWarps * kDecodeRows),
        value_table(exchange + kDecodeWarps * 2 * 512),
        key_subsets(value_table + (trellis ? 0 : 16 * head_dim)),
        value_subsets(key_subsets + (trellis ? subset_bytes(head_dim) : 0)),
        rotation(value_subsets + (trellis ? subset_bytes(head_dim) : 0)),
        next(rotation + 4 * head_dim),
        sequence(next + 128),
        values((sequence + DecodeSequence::kBytes + 511) & ~511) {}  // a tile's swizzle wants it
  /// Crumb planes of the subsets of a block's channels: their words 0 .. 3, then 4 .. 7, 16 bytes a
  /// channel each. With 16 bytes between, those of four pairs that are neighbours meet all banks.
  RILLKV_HOST_DEVICE static constexpr int subset_bytes(int head_dim) { return 32 * head_dim + 16; }
  /// Bytes of a row of queries: two rows of 4 lanes' 16 bytes meet all banks.
  RILLKV_HOST_DEVICE static constexpr int query_stride(int head_dim) { return 4 * head_dim + 64; }
  /// Of packed values: what precedes the packed keys. Token and trellis blocks have one size.
  RILLKV_HOST_DEVICE static constexpr int value_bytes(int head_dim, const PackedPrefix& x) {
    return value_bytes(head_dim, x, x.trellis);
  }
  /// The same for a kernel, which knows whether blocks are of policy "trellis".
  RILLKV_HOST_DEVICE static constexpr int value_bytes(int head_dim, const PackedPrefix& x,
                                                      bool trellis) {
    if (trellis) {
      return static_cast<int>(
          format::trellis_value_bytes(head_dim, 128, x.value_width, x.value_wide_pairs));
    }
    return x.values_channel_major ? value_block_bytes_at_most(head_dim)
                                  : static_cast<int>(format::token_block_bytes(
                                        128, head_dim, x.value_groups, false, x.value_bits));
  }
  /// Floats of a row of the warps' sums: 8 rows of 4 lanes meet all banks.
  RILLKV_HOST_DEVICE static constexpr int sum_stride(int head_dim) { return head_dim + 4; }
  /// All of it; `packed`: of a key and a value block.
  RILLKV_HOST_DEVICE constexpr int bytes(int head_dim, int packed) const {
    const int tile = 64 * 2 * head_dim,
              all_sums = 4 * kDecodeWarps * kDecodeRows * sum_stride(head_dim);
    const int rest = tile > all_sums ? tile : all_sums;
    return values + (packed > rest ? packed : rest);
  }
};

/// Shared memory of the generic attention kernel.
struct GenericShared {
  int stride;               // floats a row
  int tile_tokens;          // 32, or 16 where 32 would not fit
  float* queries;           // [kGenericRows][stride], rotated
  float* sums;              // [kGenericRows][stride], sum of p v
  float* keys;              // [tile_tokens][stride], rotated
  float* values;            // [tile_tokens][stride]
  float* weights;           // [kGenericRows][tile_tokens + 1]
  uint32_t* key_offsets;    // [head_dim + 1], see scan_plane_counts
  uint32_t* value_offsets;  // [head_dim + 1]
  size_t bytes;

  RILLKV_HOST_DEVICE GenericShared(uint8_t* base, int head_dim)
      : stride(head_dim + 1), tile_tokens(head_dim <= 128 ? 32 : 16) {
    size_t floats = 0;
    const size_t row = static_cast<size_t>(stride), tile = static_cast<size_t>(tile_tokens);
    float* at = reinterpret_cast<float*>(base);
    queries = at + floats;
    floats += kGenericRows * row;
    sums = at + floats;
    floats += kGenericRows * row;
    keys = at + floats;
    floats += tile * row;
    values = at + floats;
    floats += tile * row;
    weights = at + floats;
    floats += kGenericRows * (tile + 1);
    key_offsets = reinterpret_cast<uint32_t*>(at + floats);
    floats += row;
    value_offsets = reinterpret_cast<uint32_t*>(at + floats);
    floats += row;
    bytes = 4 * floats;
  }
};

}  // namespace rillkv::kernels::cuda
