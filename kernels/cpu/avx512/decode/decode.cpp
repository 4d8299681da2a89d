// Decode attention of a few query rows that share a kv head (the heads of its group) over sealed
// blocks of 128 tokens, D = 64 or 128, in integers, straight from the packed codes.
//
// Keys: one_row.h, several_rows.h. Values: values.h, trellis_values.h. Both halves are held to the
// error of bf16 code (decode_test.cpp).
//
// Memory. Blocks are visited in the order of the tables and the next is fetched beside the work on
// one (Ahead); without it cold decode takes twice as long.
#include "kernels/cpu/avx512/decode/decode.h"

#include "kernels/cpu/avx512/decode/one_row.h"
#include "kernels/cpu/avx512/decode/pairs.h"
#include "kernels/cpu/avx512/decode/several_rows.h"
#include "kernels/cpu/avx512/decode/trellis_values.h"
#include "kernels/cpu/avx512/decode/values.h"

namespace rillkv::kernels::cpu::avx512 {
namespace {

template <int kD>
struct alignas(64) Scratch {
  union {
    SharedTiles<kD> shared;
    OneRowTables<kD> one;
  };
  float p[kMaxRows][kTokens];
  union {
    ValueWeights weights[kMaxRows];
    TrellisWeights trellis_weights[kMaxRows];
  };
  typename TrellisKeys<kD>::Scratch trellis;
};

/// Scores of one row become weights; returns what its accumulators shrink by.
float weigh(float* p, OnlineSoftmax& row) {
  F most = _mm512_load_ps(p);
  for (int i = 16; i < kTokens; i += 16) most = _mm512_max_ps(most, _mm512_load_ps(p + i));
  const float change = row.raise(_mm512_reduce_max_ps(most));
  F total = _mm512_setzero_ps();
  for (int i = 0; i < kTokens; i += 16) {
    const F x = Fp32::exp2(_mm512_sub_ps(_mm512_load_ps(p + i), _mm512_set1_ps(row.max)));
    total = _mm512_add_ps(total, x);
    _mm512_store_ps(p + i, x);
  }
  const float shrink = _mm512_cvtss_f32(Fp32::exp2(_mm512_set1_ps(change)));
  row.add(shrink, _mm512_reduce_add_ps(total));
  return shrink;
}

/// Scores of all rows to s.p; value_bytes: of a block. Returns false, with nothing done, for keys
/// that these kernels do not take.
template <int kD, class Keys>
bool score(const AttentionParams& params, int n, int64_t entry, int64_t ahead, size_t value_bytes,
           const StreamedRows& rows, typename Keys::Scratch& scratch, Scratch<kD>& s, Ahead& next) {
  const PackedPrefix& prefix = params.prefix;
  Keys keys;
  if (!keys.open(prefix.keys[entry], scratch)) return false;
  if (ahead >= 0) {
    next = {prefix.keys[ahead], keys.bytes(), prefix.values[ahead],
            value_bytes,        kD / 2,       keys.kTimeShare};
  }
  const float* rotation = prefix.rotations[n];
  if (rows.count == 1) {
    score_one_row<kD>(keys, rotation, params.in_block_fixed, next, rows.queries, s.one, s.p[0]);
  } else {
    score_block<kD>(keys, rotation, next, rows, s.shared, s.p);
  }
  return true;
}

template <int kD>
bool add_block_of(const AttentionParams& params, int n, int64_t entry, int64_t ahead,
                  const StreamedRows& rows) {
  const PackedPrefix& prefix = params.prefix;
  const uint8_t* values = prefix.values[entry];
  Scratch<kD>& s = *static_cast<Scratch<kD>*>(rows.scratch);
  typename ChannelKeys<kD>::Scratch none;
  Ahead next;
  const size_t value_bytes =
      format::token_block_bytes(kTokens, kD, prefix.value_groups, false, prefix.value_bits);
  if (!score<kD, ChannelKeys<kD>>(params, n, entry, ahead, value_bytes, rows, none, s, next)) {
    return false;
  }
  float shrink[kMaxRows];
  for (int r = 0; r < rows.count; ++r) {
    shrink[r] = weigh(s.p[r], rows.rows[r]);
    prepare_values(params, values, s.p[r], s.weights[r]);
  }
  const int groups = prefix.value_groups;
  with_width<2>(prefix.value_bits, [&](auto width) {
    constexpr int kWidth = width;
    if (rows.count == 1) {
      add_values_once<kD, kWidth>(values, groups, next, s.weights[0], shrink[0],
                                  rows.rows[0].accumulators);
      return;
    }
    unpack_values<kD, kWidth>(values, groups, next, s.shared.values);
    for (int side = 0; side < kD / 64; ++side) {
      const float scale = ValueCodes<kD, kWidth>::kSideScale[side];
      for (int r = 0; r < rows.count; r += kRowsAtOnce) {
        const auto add =
            rows.count - r >= kRowsAtOnce ? add_values<kD, kRowsAtOnce> : add_values<kD, 1>;
        add(s.weights, s.shared.values, scale, r, side, shrink, rows.rows);
      }
    }
  });
  return true;
}

template <int kD>
bool add_trellis_block_of(const AttentionParams& params, int n, int64_t entry, int64_t ahead,
                          const StreamedRows& rows) {
  const PackedPrefix& prefix = params.prefix;
  const uint8_t* values = prefix.values[entry];
  Scratch<kD>& s = *static_cast<Scratch<kD>*>(rows.scratch);
  Ahead next;
  const size_t value_bytes =
      format::trellis_value_bytes(kD, kTokens, prefix.value_width, prefix.value_wide_pairs);
  if (!score<kD, TrellisKeys<kD>>(params, n, entry, ahead, value_bytes, rows, s.trellis, s, next)) {
    return false;
  }
  float shrink[kMaxRows];
  for (int r = 0; r < rows.count; ++r) {
    shrink[r] = weigh(s.p[r], rows.rows[r]);
    prepare_trellis_values(values, s.p[r], s.trellis_weights[r]);
  }
  const TrellisValueBlock<kD> block(params, values, s.trellis.subsets);
  add_trellis_values<kD>(block, s.trellis_weights, shrink, rows.count, rows.rows, next);
  return true;
}

/// Whether add_block has a version for these blocks.
bool streams_blocks(const AttentionParams& params) {
  const PackedPrefix& prefix = params.prefix;
  const int D = params.head_dim, groups = prefix.value_groups;
  const bool layout = prefix.trellis || (!prefix.keys_symmetric && !prefix.values_channel_major &&
                                         (groups == 1 || (groups == 2 && D == 128)));
  return layout && (D == 64 || D == 128) && params.block_size == kTokens &&
         params.heads / params.kv_heads <= kMaxRows;
}

/// head_dim as a constant.
template <class Visit>
decltype(auto) with_head_dim(const AttentionParams& params, const Visit& visit) {
  return params.head_dim == 64 ? visit(std::integral_constant<int, 64>())
                               : visit(std::integral_constant<int, 128>());
}

}  // namespace

size_t StreamedDecode::scratch_bytes(const AttentionParams& params) {
  if (!streams_blocks(params)) return 0;
  return with_head_dim(params, [](auto dim) { return sizeof(Scratch<dim>); });
}

void StreamedDecode::start(const AttentionParams& params, int rows, void* scratch) {
  if (rows == 1) return;
  with_head_dim(params, [&](auto dim) {
    prepare_turns<dim>(params, static_cast<Scratch<dim>*>(scratch)->shared);
  });
}

bool StreamedDecode::add_block(const AttentionParams& params, int n, int64_t entry, int64_t ahead,
                               const StreamedRows& rows) {
  return with_head_dim(params, [&](auto dim) {
    return params.prefix.trellis ? add_trellis_block_of<dim>(params, n, entry, ahead, rows)
                                 : add_block_of<dim>(params, n, entry, ahead, rows);
  });
}

}  // namespace rillkv::kernels::cpu::avx512
