// Attention of a task by tiles: the SIMD versions of KernelTable::attend for many query rows.
//
//   s = q~ k~^T       q~ = scale log2(e) R q, so that p = 2^(s - m)
//   m' = max(m, max_j s_j),  p = 2^(s - m'),  sum = sum 2^(m - m') + sum_j p_j
//   o = o 2^(m - m') + p v,  out = o / sum (rotated back)
//
// All rows of the task (query tokens x heads of the group; row r = (t - query_begin) G + g) go over
// one group of key and value tiles (kTileTokens tokens, which stay in the L2 cache) in blocks of
// kBlockRows rows, whose scores and weights stay in the L1 cache. The three steps of a row block
// are a matrix product (microkernel kMicroRows x kPanel), the softmax of its rows, and a second
// product that rescales o when it loads it. Visibility is one rule, index <= query index: registers
// of columns that every row of the block sees skip it, columns that none sees are not computed.
//
// Numerics: Fp32 is fp32 throughout. Bf16 rounds rotated queries, keys, values and weights to bf16
// and accumulates in fp32, as bf16 attention does elsewhere.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/attention_direct.h"
#include "kernels/cpu/attention_steps.h"
#include "kernels/cpu/attention_tiles.h"
#include "kernels/cpu/attention_token_rows.h"
#include "kernels/packed_format.h"
#include "kernels/params.h"

namespace rillkv::kernels::cpu::tiled {
namespace {

constexpr int kBlockRows = 24;
constexpr int kBlocksAhead = 4;  // distance of the prefetch: 70 KB at 4.5 bits and D = 128
constexpr int kStreamedBlocksAhead = 1;
constexpr int kMaxTileVectors = 64;     // bits of a mask
constexpr float kLowest = -1.0e30f;     // no key seen yet: finite, so that differences are
constexpr int32_t kNever = 0x7fffffff;  // index of a column that holds no token
constexpr float kLog2E = 1.44269504f, kLn2 = 0.693147181f;

// ---- the task ----

struct Workspace {
  uint32_t* queries;   // [rows, D / kPack]
  float* raw_queries;  // [rows, padded D], the same in fp32, if rows <= kBlockRows
  float* sums;         // [rows, padded D]
  float* row_max;      // [rows], log2 units
  float* row_sum;      // [rows]
  uint32_t* keys;      // key tile of tile_tokens tokens
  uint32_t* values;    // value tile of tile_tokens tokens
  float* scores;       // [kBlockRows, tile_tokens + 16]
  uint32_t* weights;   // [kBlockRows, tile_tokens / kPack + 16]
  int32_t* index;      // [tile_tokens], index - first_query_index, or kNever
  Scales scales;       // [max(D, groups * block_size)] each
  float* rows;         // [kLanes, padded D], rows on their way into a tile
  uint32_t* staging;   // [kLanes, max(padded D, block_size)], the same as dwords
  void* streaming;     // see S::streaming_bytes; null if nothing streams
  size_t bytes;
};

constexpr size_t kRowPadding = 16;  // keeps rows of scores from sharing L1 sets

template <class S>
size_t tile_tokens(const AttentionParams& params) {
  const size_t block = static_cast<size_t>(params.block_size);
  return block > S::kTileTokens ? block : S::kTileTokens;
}

inline size_t padded(int head_dim) { return (static_cast<size_t>(head_dim) + 15) / 16 * 16; }

template <class S>
Workspace lay_out(const AttentionParams& params, size_t query_tokens, void* memory) {
  uint8_t* base = static_cast<uint8_t*>(memory);
  size_t offset = 0;
  const auto take = [&](size_t dwords) -> void* {
    void* at = base == nullptr ? nullptr : base + offset;
    offset += format::align_up(dwords * 4);
    return at;
  };
  const auto floats = [&](size_t count) { return static_cast<float*>(take(count)); };
  const auto words = [&](size_t count) { return static_cast<uint32_t*>(take(count)); };
  const size_t D = static_cast<size_t>(params.head_dim), P = padded(params.head_dim);
  const size_t rows = query_tokens * static_cast<size_t>(params.heads / params.kv_heads);
  const size_t tokens = tile_tokens<S>(params), B = static_cast<size_t>(params.block_size);
  const size_t panels = (P + S::kPanel - 1) / S::kPanel;
  const size_t scale_count =
      static_cast<size_t>(params.prefix.value_groups > 0 ? params.prefix.value_groups : 1) * B;
  Workspace w;
  w.queries = words(rows * (D / S::kPack));
  w.raw_queries = floats(rows <= kBlockRows ? rows * P : 0);
  w.sums = floats(rows * P);
  w.row_max = floats(rows);
  w.row_sum = floats(rows);
  w.keys = words((tokens + S::kPanel) * (D / S::kPack));
  w.values = words(panels * S::kPanel * (tokens / S::kPack));
  w.scores = floats(kBlockRows * (tokens + kRowPadding));
  w.weights = words(kBlockRows * (tokens / S::kPack + kRowPadding));
  w.index = static_cast<int32_t*>(take(tokens));
  w.scales.lo = floats(scale_count > D ? scale_count : D);
  w.scales.step = floats(scale_count > D ? scale_count : D);
  w.rows = floats(S::kLanes * P);
  w.staging = words(S::kLanes * (P > B ? P : B));
  w.streaming = nullptr;
  if constexpr (S::kStreams) {
    const size_t bytes = rows <= S::kMaxStreamedRows ? S::streaming_bytes(params) : 0;
    if (bytes > 0) w.streaming = take(bytes / 4);
  }
  w.bytes = offset;
  return w;
}

template <class S>
class Attention {
 public:
  Attention(const AttentionParams& params, const AttentionTask& task, void* memory)
      : p_(params),
        task_(task),
        D_(params.head_dim),
        group_(params.heads / params.kv_heads),
        rows_((task.query_end - task.query_begin) * group_),
        steps_(D_ / S::kPack),
        tile_tokens_(static_cast<int>(tile_tokens<S>(params))),
        stride_(padded(D_)),
        w_(lay_out<S>(params, static_cast<size_t>(task.query_end - task.query_begin), memory)) {}

  void run() {
    load_queries();
    // Few rows: blocks change the queries, so the rest comes first. Many rows: blocks come first,
    // which keeps them at whole panels. The fewest read the rest directly, and memory fetches it
    // while they work on the blocks.
    const bool rest_first = few_rows() && !direct();
    if (rest_first) {
      add_uncompressed();
      consume();
    }
    if (direct()) prefetch_tail();
    const int last =
        task_.tile_end - 1 < p_.prefix.block_count ? task_.tile_end - 1 : p_.prefix.block_count;
    start_streaming();
    for (int n = task_.tile_begin > 1 ? task_.tile_begin - 1 : 0; n < last; ++n) {
      ahead_ = entry_ahead(n, last);
      if (stream_block(n)) continue;
      add_block(n);
      if (few_rows()) consume();
    }
    if (!rest_first) add_uncompressed();
    consume();
    finish();
  }

 private:
  using F = typename S::F;
  static constexpr int L = S::kLanes;

  int32_t relative(int64_t index) const {  // beyond 2^31 tokens no one can be told apart
    const int64_t x = index - p_.first_query_index;
    return static_cast<int32_t>(x > kNever ? kNever : x < -kNever ? -kNever : x);
  }
  size_t element_bytes() const { return p_.dtype == Dtype::kFloat32 ? 4 : 2; }
  const void* row_of(const Activation& x, int64_t token, int64_t head) const {
    return static_cast<const uint8_t*>(x.data) +
           static_cast<size_t>(token * x.token_stride + head * x.head_stride) * element_bytes();
  }

  /// With few rows (decode) every block is a group of its own, whose R(t0) goes to the queries.
  bool few_rows() const { return rows_ <= kBlockRows; }
  /// So few that what is no block is read without a tile (attention_direct.h).
  bool direct() const { return rows_ <= kDirectRows; }

  uint32_t* query(int r) const {
    return w_.queries + static_cast<size_t>(r) * static_cast<size_t>(steps_);
  }
  float* raw_query(int r) const { return w_.raw_queries + static_cast<size_t>(r) * stride_; }

  void load_queries() {
    for (int r = 0; r < rows_; ++r) {
      const int64_t t = task_.query_begin + r / group_;
      const float *cosines = p_.query_cos + t * (D_ / 2), *sines = p_.query_sin + t * (D_ / 2);
      read_row<S>(row_of(p_.queries, t, task_.kv_head * group_ + r % group_), p_.dtype, D_,
                  w_.rows);
      const float factor = p_.scale * kLog2E;
      rotate_row<S>(w_.rows, cosines, sines, factor, D_, query(r));
      if (few_rows()) {
        clear_row(raw_query(r));
        rotate_row<S, false, true>(w_.rows, cosines, sines, factor, D_,
                                   reinterpret_cast<uint32_t*>(raw_query(r)));
      }
      clear_row(w_.sums + static_cast<size_t>(r) * stride_);
      w_.row_max[r] = kLowest;
      w_.row_sum[r] = 0.0f;
    }
  }

  /// Queries for the keys of a block that are rotated by R(j) alone: R(-t0) q~.
  void turn_queries(const float* block_rotation) {
    for (int r = 0; r < rows_; ++r) {
      rotate_row<S, true>(raw_query(r), block_rotation, block_rotation + D_ / 2, 1.0f, D_,
                          query(r));
    }
  }

  /// Entry of the prefix's tables that is worth fetching while block n is worked on, or -1.
  int64_t entry_ahead(int n, int last) const {
    int block = n + (streams() ? kStreamedBlocksAhead : kBlocksAhead), head = task_.kv_head;
    if (block >= last) {
      if (task_.next == nullptr) return -1;
      const int first = task_.next->tile_begin > 1 ? task_.next->tile_begin - 1 : 0;
      block = first + block - last;
      head = task_.next->kv_head;
      if (block >= task_.next->tile_end - 1 || block >= p_.prefix.block_count) return -1;
    }
    return static_cast<int64_t>(block) * p_.kv_heads + head;
  }

  // ---- filling the tiles ----

  /// Makes room for `vectors` registers of columns.
  void reserve(int vectors) {
    if ((vectors_ + vectors) * L > tile_tokens_) consume();
  }

  /// The columns of register `v` get the indices first, first + 1, ... (`count` of them).
  void set_index(int v, int64_t first, int count) {
    for (int i = 0; i < L; ++i) w_.index[v * L + i] = i < count ? relative(first + i) : kNever;
    earliest_[v] = count > 0 ? w_.index[v * L] : kNever;
    latest_[v] = w_.index[v * L + L - 1];
  }

  /// w_.staging (kLanes rotated keys) and w_.rows (values) become the next register of columns.
  void add_rows(int64_t first_index, int count) {
    transpose_to_tile<S>(w_.staging, stride_, steps_, tile_vector<S>(w_.keys, steps_, vectors_));
    set_index(vectors_++, first_index, count);
  }

  void clear_row(float* row) {
    for (size_t c = 0; c < stride_; c += L) S::store(row + c, S::zero());
  }

  template <class ReadKey, class ReadValue>
  void add_tokens(int count, int64_t first_index, const float* cosines, const float* sines,
                  const ReadKey& read_key, const ReadValue& read_value) {
    const int64_t visible = p_.first_query_index + task_.query_end - first_index;
    if (visible < count) count = static_cast<int>(visible > 0 ? visible : 0);
    if (direct()) {
      return add_tokens_directly(count, first_index, cosines, sines, read_key, read_value);
    }
    for (int begin = 0; begin < count; begin += L) {
      reserve(1);
      const int here = count - begin < L ? count - begin : L;
      for (int i = 0; i < L; ++i) {
        uint32_t* key = w_.staging + static_cast<size_t>(i) * stride_;
        if (i >= here) {
          clear_row(reinterpret_cast<float*>(key));
          continue;
        }
        const int64_t table = static_cast<int64_t>(begin + i) * (D_ / 2);
        read_key(begin + i, w_.rows);
        rotate_row<S>(w_.rows, cosines + table, sines + table, 1.0f, D_, key);
      }
      for (int i = 0; i < L; ++i) {
        float* value = w_.rows + static_cast<size_t>(i) * stride_;
        if (i < here) {
          read_value(begin + i, value);
        } else {
          clear_row(value);
        }
      }
      value_rows_to_tile<S>(w_.rows, stride_, D_, w_.values, tile_tokens_ / S::kPack, vectors_ * L);
      add_rows(first_index + begin, here);
    }
  }

  template <class ReadKey, class ReadValue>
  void add_tokens_directly(int count, int64_t first_index, const float* cosines, const float* sines,
                           const ReadKey& read_key, const ReadValue& read_value) {
    float* keys = reinterpret_cast<float*>(w_.staging);
    for (int begin = 0; begin < count; begin += L) {
      const int here = count - begin < L ? count - begin : L;
      for (int i = 0; i < here; ++i) {
        float* key = keys + static_cast<size_t>(i) * stride_;
        const int64_t table = static_cast<int64_t>(begin + i) * (D_ / 2);
        read_key(begin + i, w_.rows);
        clear_row(key);
        rotate_row<S, false, true>(w_.rows, cosines + table, sines + table, 1.0f, D_,
                                   reinterpret_cast<uint32_t*>(key));
      }
      for (int i = 0; i < here; ++i) {
        read_value(begin + i, w_.rows + static_cast<size_t>(i) * stride_);
      }
      const int32_t first = relative(first_index + begin);
      for (int r = 0; r < rows_; ++r) {
        const int seen = task_.query_begin + r / group_ - first + 1;
        if (seen <= 0) continue;
        attend_tokens<S>(raw_query(r), keys, w_.rows, stride_, D_, seen < here ? seen : here,
                         w_.row_max[r], w_.row_sum[r], w_.sums + static_cast<size_t>(r) * stride_);
      }
    }
  }

  bool has(int tile) const { return task_.tile_begin <= tile && tile < task_.tile_end; }

  void add_uncompressed() {
    if (has(0)) add_sinks();
    if (has(p_.prefix.block_count + 1)) add_dense(p_.tail);
    if (has(p_.prefix.block_count + 2)) add_dense(p_.chunk);
  }

  /// Rows of a head lie apart, too far for the hardware to guess the next.
  void prefetch_tail() const {
    const auto fetch = [&](const Activation& x, int64_t token) {
      const auto* row = static_cast<const uint8_t*>(row_of(x, token, task_.kv_head));
      const size_t bytes = static_cast<size_t>(D_) * element_bytes();
      for (size_t at = 0; at < bytes; at += 64) S::prefetch(row + at);
    };
    if (!has(p_.prefix.block_count + 1)) return;
    for (int64_t t = 0; t < p_.tail.count; ++t) {
      fetch(p_.tail.keys, t);
      fetch(p_.tail.values, t);
    }
  }

  void add_sinks() {
    const PackedPrefix& prefix = p_.prefix;
    if (prefix.sink_count == 0) return;
    const RowReader<S> keys = {prefix.sink_keys + task_.kv_head * prefix.sink_key_stride,
                               prefix.sink_capacity,
                               D_,
                               1,
                               prefix.sink_key_bits,
                               true};
    const RowReader<S> values = {prefix.sink_values + task_.kv_head * prefix.sink_value_stride,
                                 prefix.sink_capacity,
                                 D_,
                                 1,
                                 prefix.sink_value_bits,
                                 true};
    add_tokens(prefix.sink_count, 0, prefix.sink_cos, prefix.sink_sin, keys, values);
  }

  void add_dense(const DenseSegment& segment) {
    add_tokens(
        segment.count, segment.first_index, segment.cos, segment.sin,
        [&](int t, float* out) {
          read_row<S>(row_of(segment.keys, t, task_.kv_head), p_.dtype, D_, out);
        },
        [&](int t, float* out) {
          read_row<S>(row_of(segment.values, t, task_.kv_head), p_.dtype, D_, out);
        });
  }

  void add_block(int n) {
    const int64_t first_index = p_.prefix.sink_capacity + static_cast<int64_t>(n) * p_.block_size;
    if (first_index >= p_.first_query_index + task_.query_end) return;
    switch (p_.block_size) {
      case 32:
        return add_block_of<32>(n, first_index);
      case 64:
        return add_block_of<64>(n, first_index);
      case 128:
        return add_block_of<128>(n, first_index);
      default:
        return add_block_of<256>(n, first_index);
    }
  }

  /// A few rows read the codes without a tile where the instruction set has a kernel for it.
  bool streams() const {
    if constexpr (S::kStreams) return rows_ <= S::kMaxStreamedRows && w_.streaming != nullptr;
    return false;
  }

  void start_streaming() {
    if constexpr (S::kStreams) {
      if (streams()) S::start_streaming(p_, rows_, w_.streaming);
    }
  }

  bool stream_block(int n) {
    if constexpr (S::kStreams) {
      const int64_t last_index =
          p_.prefix.sink_capacity + static_cast<int64_t>(n + 1) * p_.block_size - 1;
      if (!streams() || last_index > p_.first_query_index + task_.query_begin) return false;
      const typename S::Rows rows = {rows_,   raw_query(0), w_.row_max,  w_.row_sum,
                                     w_.sums, stride_,      w_.streaming};
      return S::add_block_streaming(p_, n, static_cast<int64_t>(n) * p_.kv_heads + task_.kv_head,
                                    ahead_, rows);
    }
    return false;
  }

  template <int kBlock>
  void add_block_of(int n, int64_t first_index) {
    const PackedPrefix& prefix = p_.prefix;
    const int64_t entry = static_cast<int64_t>(n) * p_.kv_heads + task_.kv_head;
    reserve(kBlock / L);
    const uint8_t* keys = prefix.keys[entry];
    const uint8_t* keys_ahead = ahead_ < 0 ? nullptr : prefix.keys[ahead_];
    if (few_rows()) {
      turn_queries(prefix.rotations[n]);
      key_block_to_tile<S, kBlock, false>(p_, keys, nullptr, w_.scales, w_.keys, vectors_,
                                          keys_ahead);
    } else {
      key_block_to_tile<S, kBlock, true>(p_, keys, prefix.rotations[n], w_.scales, w_.keys,
                                         vectors_, keys_ahead);
    }
    const uint8_t* values = prefix.values[entry];
    const Prefetch values_ahead(
        ahead_ < 0 ? nullptr : prefix.values[ahead_],
        format::token_block_bytes(kBlock, D_, prefix.value_groups, false, prefix.value_bits),
        kBlock / S::kPack);
    const int tile_steps = tile_tokens_ / S::kPack, first_token = vectors_ * L;
    if (prefix.values_channel_major) {
      value_channels_to_tile<S, kBlock>(p_, values, w_.scales, w_.staging, w_.values, tile_steps,
                                        first_token);
    } else if (D_ == 128 && prefix.value_groups == 2) {
      value_tokens_to_tile<S, 128, 2>(p_, values, w_.scales, w_.values, tile_steps, first_token,
                                      values_ahead);
    } else if (D_ == 128 && prefix.value_groups == 1) {
      value_tokens_to_tile<S, 128, 1>(p_, values, w_.scales, w_.values, tile_steps, first_token,
                                      values_ahead);
    } else if (D_ == 64 && prefix.value_groups == 1) {
      value_tokens_to_tile<S, 64, 1>(p_, values, w_.scales, w_.values, tile_steps, first_token,
                                     values_ahead);
    } else {
      const RowReader<S> reader = {values, kBlock, D_, prefix.value_groups, prefix.value_bits,
                                   false};
      for (int begin = 0; begin < kBlock; begin += L) {
        for (int i = 0; i < L; ++i) reader(begin + i, w_.rows + static_cast<size_t>(i) * stride_);
        value_rows_to_tile<S>(w_.rows, stride_, D_, w_.values, tile_steps, first_token + begin);
      }
    }
    for (int i = 0; i < kBlock; i += L) set_index(vectors_++, first_index + i, L);
  }

  // ---- consuming them ----

  /// Online softmax of all rows over the tiles, which are empty afterwards.
  void consume() {
    if (vectors_ == 0) return;
    if (vectors_ % S::kPack != 0) {  // weights come in pairs of registers: an empty one
      for (int i = 0; i < L; ++i) {
        clear_row(w_.rows + static_cast<size_t>(i) * stride_);
        clear_row(reinterpret_cast<float*>(w_.staging) + static_cast<size_t>(i) * stride_);
      }
      value_rows_to_tile<S>(w_.rows, stride_, D_, w_.values, tile_tokens_ / S::kPack, vectors_ * L);
      add_rows(0, 0);
    }
    for (int r = 0; r < rows_; r += kBlockRows) {
      consume_rows(r, rows_ - r < kBlockRows ? rows_ - r : kBlockRows);
    }
    vectors_ = 0;
  }

  void consume_rows(int begin, int count) {
    const int t_first = task_.query_begin + begin / group_;
    const int t_last = task_.query_begin + (begin + count - 1) / group_;
    int vectors = 0;
    uint64_t masked = 0;
    for (int v = 0; v < vectors_; ++v) {
      if (earliest_[v] <= t_last) vectors = v + 1;
      if (latest_[v] > t_first) masked |= uint64_t{1} << v;
    }
    vectors = (vectors + S::kPack - 1) / S::kPack * S::kPack;
    if (vectors == 0) return;
    if (vectors < 64) masked &= (uint64_t{1} << vectors) - 1;

    const size_t score_stride = static_cast<size_t>(tile_tokens_) + kRowPadding;
    const size_t weight_stride = static_cast<size_t>(tile_tokens_ / S::kPack) + kRowPadding;
    const size_t query_stride = static_cast<size_t>(steps_);
    multiply<S, false>(query(begin), query_stride, count, w_.keys, query_stride * S::kPanel,
                       vectors, steps_, w_.scores, score_stride, nullptr);
    float shrink[kBlockRows];
    for (int r = 0; r < count; ++r) {
      float* scores = w_.scores + static_cast<size_t>(r) * score_stride;
      const int32_t t = task_.query_begin + (begin + r) / group_;
      for (uint64_t left = masked; left != 0; left &= left - 1) {
        const int v = __builtin_ctzll(left);
        S::store(scores + v * L, S::hide_after(S::load(scores + v * L), w_.index + v * L, t));
      }
      softmax_row<S>(scores, vectors, w_.row_max[begin + r], w_.row_sum[begin + r], shrink[r],
                     w_.weights + static_cast<size_t>(r) * weight_stride);
    }
    multiply<S, true>(w_.weights, weight_stride, count, w_.values,
                      static_cast<size_t>(tile_tokens_ / S::kPack) * S::kPanel, (D_ + L - 1) / L,
                      vectors * L / S::kPack, w_.sums + static_cast<size_t>(begin) * stride_,
                      stride_, shrink);
  }

  void finish() {
    for (int r = 0; r < rows_; ++r) {
      float* sums = w_.sums + static_cast<size_t>(r) * stride_;
      if (task_.partial == nullptr) {
        finish_row<S>(p_, sums, w_.row_sum[r], task_.query_begin + r / group_,
                      task_.kv_head * group_ + r % group_);
        continue;
      }
      float* out = task_.partial + static_cast<size_t>(r) * static_cast<size_t>(D_ + 2);
      out[0] = w_.row_max[r] * kLn2;
      out[1] = w_.row_sum[r];
      for (int c = 0; c < D_; c += L) S::store_first(out + 2 + c, S::load(sums + c), D_ - c);
    }
  }

  const AttentionParams& p_;
  const AttentionTask& task_;
  const int D_, group_, rows_, steps_, tile_tokens_;
  const size_t stride_;
  const Workspace w_;
  int vectors_ = 0;     // registers of columns in the tiles
  int64_t ahead_ = -1;  // see entry_ahead
  int32_t earliest_[kMaxTileVectors], latest_[kMaxTileVectors];
};

}  // namespace
}  // namespace rillkv::kernels::cpu::tiled
