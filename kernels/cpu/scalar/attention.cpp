// Attention over the compressed prefix in portable C++: the definition that the SIMD versions are
// tested beside, and the shipped fallback.
//
//   s[r, j] = scale * <R(t) q[r], R(j) k[j]>              r = (query token, head of the group)
//   p[r, j] = exp(s[r, j] - m[r])                         m the running maximum
//   out[r]  = sum_j p[r, j] v[j] / sum_j p[r, j]          over the j with index(j) <= index(t)
//
// One sub-tile of at most block_size tokens is dequantised and rotated at a time, once for all rows
// of the task: keys as [D, block_size] fp32, values as [block_size, D] fp32. So the inner loops run
// over the tokens (scores) and the channels (sum of values), contiguously.
#include <cstring>

#include "kernels/cpu/generic/exponential.h"
#include "kernels/cpu/generic/half.h"
#include "kernels/cpu/generic/online_softmax.h"
#include "kernels/cpu/generic/output.h"
#include "kernels/cpu/generic/rows.h"
#include "kernels/cpu/isa.h"
#include "kernels/planes.h"
#include "kernels/steps8.h"

namespace rillkv::kernels::cpu::scalar {
namespace {

constexpr int kLanes = 8;  // independent partial maxima and sums, so that they vectorise

struct Workspace {
  float* queries;       // [rows, D], rotated, times scale
  float* sums;          // [rows, D], sum of p v
  OnlineSoftmax* rows;  // [rows], natural-log units
  float* keys;          // [D, block_size]
  float* values;        // [block_size, D]
  float* weights;       // [block_size]
  float* cosines;       // [block_size], of one channel pair
  float* sines;         // [block_size]
  float* row;           // [D]
  uint8_t* codes;       // [max(block_size, D)]
  size_t bytes;
};

using Planes = format::Planes<const uint8_t>;

Workspace lay_out(const AttentionParams& p, int64_t rows, void* memory) {
  Workspace w = {};
  uint8_t* base = static_cast<uint8_t*>(memory);
  size_t offset = 0;
  const auto take = [&](size_t bytes) {
    uint8_t* at = base == nullptr ? nullptr : base + offset;
    offset += format::align_up(bytes);
    return at;
  };
  const auto floats = [&](size_t count) {
    return reinterpret_cast<float*>(take(count * sizeof(float)));
  };
  const size_t n = static_cast<size_t>(rows), D = static_cast<size_t>(p.head_dim);
  const size_t B = static_cast<size_t>(p.block_size);
  w.queries = floats(n * D);
  w.sums = floats(n * D);
  w.rows = reinterpret_cast<OnlineSoftmax*>(take(n * sizeof(OnlineSoftmax)));
  w.keys = floats(D * B);
  w.values = floats(B * D);
  w.weights = floats(B);
  w.cosines = floats(B);
  w.sines = floats(B);
  w.row = floats(D);
  w.codes = take(B > D ? B : D);
  w.bytes = offset;
  return w;
}

/// The pair (a[i], b[i]) becomes R (a[i], b[i]).
inline void rotate(float* a, float* b, const float* cosines, const float* sines, int count) {
  for (int i = 0; i < count; ++i) {
    const float x = a[i], y = b[i];
    a[i] = x * cosines[i] - y * sines[i];
    b[i] = y * cosines[i] + x * sines[i];
  }
}

// ---- tiles: each fills w.keys and w.values for `count` tokens ----

void dequantize_channel(Planes& planes, int block_size, int width, float offset, float step,
                        bool symmetric, uint8_t* codes, float* out) {
  format::unpack_codes(planes, block_size, width, codes);
  const int zero = symmetric ? 1 << (width - 1) : 0;
  for (int t = 0; t < block_size; ++t) {
    out[t] = offset + step * static_cast<float>(static_cast<int>(codes[t]) - zero);
  }
}

/// Channels of a channel block as [D, block_size].
void load_channel_block(const uint8_t* block, int block_size, int head_dim, bool symmetric,
                        uint8_t* codes, float* out) {
  const uint16_t* lo = reinterpret_cast<const uint16_t*>(block);
  const uint16_t* step =
      reinterpret_cast<const uint16_t*>(block + format::channel_step_offset(head_dim, symmetric));
  const uint8_t* widths = block + format::channel_widths_offset(head_dim, symmetric);
  Planes planes = format::channel_planes(block, block_size, head_dim, symmetric).begin;
  for (int i = 0; i < head_dim; ++i) {
    const int c = format::channel_at(i, head_dim);
    dequantize_channel(planes, block_size, format::channel_width(widths, c, head_dim),
                       symmetric ? 0.0f : half_to_float(lo[c]), half_to_float(step[c]), symmetric,
                       codes, out + static_cast<size_t>(c) * static_cast<size_t>(block_size));
  }
}

/// Row `token` of a token block.
void load_token_row(const uint8_t* block, int rows, int token, int head_dim, int groups,
                    bool symmetric, int width, uint8_t* codes, float* out) {
  const uint16_t* lo = reinterpret_cast<const uint16_t*>(block);
  const uint16_t* step =
      reinterpret_cast<const uint16_t*>(block + format::token_step_offset(rows, groups, symmetric));
  Planes planes = format::token_planes(block, rows, token, head_dim, groups, symmetric, width);
  format::unpack_codes(planes, head_dim, width, codes);
  const int zero = symmetric ? 1 << (width - 1) : 0;
  for (int g = 0; g < groups; ++g) {
    const int begin = format::group_begin(g, groups, head_dim);
    const int end = format::group_begin(g + 1, groups, head_dim);
    const float offset = symmetric ? 0.0f : half_to_float(lo[g * rows + token]);
    const float scale = half_to_float(step[g * rows + token]);
    for (int c = begin; c < end; ++c) {
      out[c] = offset + scale * static_cast<float>(static_cast<int>(codes[c]) - zero);
    }
  }
}

/// Row `token` of sinks.
void load_sink_row(const uint8_t* block, int capacity, int token, int head_dim, int bits,
                   uint8_t* codes, float* out) {
  if (bits == format::kRowBits) {
    load_row(block + format::sink_row_offset(token, head_dim), Dtype::kFloat16, head_dim, out);
  } else {
    load_token_row(block, capacity, token, head_dim, 1, true, bits, codes, out);
  }
}

/// A rotated key row becomes column `t` of w.keys.
void store_key_column(const float* row, int head_dim, int block_size, int t, float* keys) {
  for (int c = 0; c < head_dim; ++c) {
    keys[static_cast<size_t>(c) * static_cast<size_t>(block_size) + static_cast<size_t>(t)] =
        row[c];
  }
}

void load_sinks(const AttentionParams& p, int kv_head, int begin, int count, const Workspace& w) {
  const PackedPrefix& prefix = p.prefix;
  const int D = p.head_dim;
  const uint8_t* keys = prefix.sink_keys + kv_head * prefix.sink_key_stride;
  const uint8_t* values = prefix.sink_values + kv_head * prefix.sink_value_stride;
  for (int t = 0; t < count; ++t) {
    const int64_t table = static_cast<int64_t>(begin + t) * (D / 2);
    load_sink_row(keys, prefix.sink_capacity, begin + t, D, prefix.sink_key_bits, w.codes, w.row);
    rotate(w.row, w.row + D / 2, prefix.sink_cos + table, prefix.sink_sin + table, D / 2);
    store_key_column(w.row, D, p.block_size, t, w.keys);
    load_sink_row(values, prefix.sink_capacity, begin + t, D, prefix.sink_value_bits, w.codes,
                  w.values + static_cast<size_t>(t) * static_cast<size_t>(D));
  }
}

/// Keys of a trellis block as [D, block_size].
void load_trellis_keys(const uint8_t* block, int block_size, int head_dim, uint8_t* levels,
                       float* out) {
  const int16_t* zero = reinterpret_cast<const int16_t*>(block);
  const uint8_t* steps = block + format::trellis_step_offset(head_dim);
  const uint8_t* widths = block + format::trellis_widths_offset(head_dim);
  auto planes = format::trellis_key_planes(block, block_size, head_dim);
  for (int i = 0; i < head_dim; ++i) {
    const int c = format::channel_at(i, head_dim);
    format::unpack_levels(planes, block_size, format::channel_width(widths, c, head_dim), levels);
    const float step = format::step8(steps[c]);
    float* to = out + static_cast<size_t>(c) * static_cast<size_t>(block_size);
    for (int t = 0; t < block_size; ++t) to[t] = step * static_cast<float>(zero[c] + levels[t]);
  }
}

/// Values of a trellis block as [block_size, D].
void load_trellis_values(const uint8_t* block, int block_size, int head_dim, int width,
                         int wide_pairs, uint8_t* levels, float* out) {
  auto planes = format::trellis_value_planes(block, block_size, head_dim, width, wide_pairs);
  for (int i = 0; i < head_dim; ++i) {
    const int own = format::trellis_value_width(i / 2, width, wide_pairs);
    const float unit = own > width ? format::kWideGain : 1.0f;
    format::unpack_levels(planes, block_size, own, levels);
    float* to = out + format::channel_at(i, head_dim);
    for (int t = 0; t < block_size; ++t, to += head_dim) {
      *to = format::step8(block[t]) * (unit * static_cast<float>(2 * levels[t] + 1 - (2 << own)));
    }
  }
}

void load_sealed(const AttentionParams& p, int kv_head, int block, const Workspace& w) {
  const PackedPrefix& prefix = p.prefix;
  const int D = p.head_dim, B = p.block_size;
  const int64_t entry = static_cast<int64_t>(block) * p.kv_heads + kv_head;
  if (prefix.trellis) {
    load_trellis_keys(prefix.keys[entry], B, D, w.codes, w.keys);
  } else {
    load_channel_block(prefix.keys[entry], B, D, prefix.keys_symmetric, w.codes, w.keys);
  }
  // R(t0 + j) = R(t0) R(j)
  const float* block_cos = prefix.rotations[block];
  const float* block_sin = block_cos + D / 2;
  for (int pair = 0; pair < D / 2; ++pair) {
    const size_t row = static_cast<size_t>(pair) * static_cast<size_t>(B);
    const float* in_cos = p.rotations.in_block_cos + row;
    const float* in_sin = p.rotations.in_block_sin + row;
    const float c0 = block_cos[pair], s0 = block_sin[pair];
    for (int j = 0; j < B; ++j) {
      w.cosines[j] = c0 * in_cos[j] - s0 * in_sin[j];
      w.sines[j] = s0 * in_cos[j] + c0 * in_sin[j];
    }
    rotate(w.keys + row, w.keys + row + static_cast<size_t>(D / 2) * static_cast<size_t>(B),
           w.cosines, w.sines, B);
  }
  if (prefix.trellis) {
    load_trellis_values(prefix.values[entry], B, D, prefix.value_width, prefix.value_wide_pairs,
                        w.codes, w.values);
  } else if (prefix.values_channel_major) {
    const uint8_t* values = prefix.values[entry];
    const uint16_t* step = reinterpret_cast<const uint16_t*>(values);
    const uint8_t* widths = values + format::channel_widths_offset(D, true);
    Planes planes = format::channel_planes(values, B, D, true).begin;
    for (int i = 0; i < D; ++i) {
      const int c = format::channel_at(i, D);
      dequantize_channel(planes, B, format::channel_width(widths, c, D), 0.0f,
                         half_to_float(step[c]), true, w.codes, w.cosines);
      for (int t = 0; t < B; ++t) w.values[static_cast<size_t>(t) * D + c] = w.cosines[t];
    }
  } else {
    for (int t = 0; t < B; ++t) {
      load_token_row(prefix.values[entry], B, t, D, prefix.value_groups, false, prefix.value_bits,
                     w.codes, w.values + static_cast<size_t>(t) * static_cast<size_t>(D));
    }
  }
}

void load_dense(const AttentionParams& p, const DenseSegment& segment, int kv_head, int begin,
                int count, const Workspace& w) {
  const int D = p.head_dim;
  for (int t = 0; t < count; ++t) {
    const int64_t table = static_cast<int64_t>(begin + t) * (D / 2);
    load_row(row_of(segment.keys, p.dtype, begin + t, kv_head), p.dtype, D, w.row);
    rotate(w.row, w.row + D / 2, segment.cos + table, segment.sin + table, D / 2);
    store_key_column(w.row, D, p.block_size, t, w.keys);
    load_row(row_of(segment.values, p.dtype, begin + t, kv_head), p.dtype, D,
             w.values + static_cast<size_t>(t) * static_cast<size_t>(D));
  }
}

// ---- arithmetic ----

/// scores[t] = sum_c q[c] keys[c, t] for t < count.
void score(const float* q, const float* keys, int head_dim, int block_size, int count,
           float* scores) {
  for (int t = 0; t < count; ++t) scores[t] = 0.0f;
  int c = 0;
  for (; c + 4 <= head_dim; c += 4) {
    const float* k0 = keys + static_cast<size_t>(c) * static_cast<size_t>(block_size);
    const float* k1 = k0 + block_size;
    const float* k2 = k1 + block_size;
    const float* k3 = k2 + block_size;
    const float q0 = q[c], q1 = q[c + 1], q2 = q[c + 2], q3 = q[c + 3];
    for (int t = 0; t < count; ++t) {
      scores[t] += (q0 * k0[t] + q1 * k1[t]) + (q2 * k2[t] + q3 * k3[t]);
    }
  }
  for (; c < head_dim; ++c) {
    const float* k = keys + static_cast<size_t>(c) * static_cast<size_t>(block_size);
    for (int t = 0; t < count; ++t) scores[t] += q[c] * k[t];
  }
}

float max_of(const float* x, int count) {
  float lanes[kLanes];
  for (int l = 0; l < kLanes; ++l) lanes[l] = kLowest;
  int t = 0;
  for (; t + kLanes <= count; t += kLanes) {
    for (int l = 0; l < kLanes; ++l) lanes[l] = x[t + l] > lanes[l] ? x[t + l] : lanes[l];
  }
  for (; t < count; ++t) lanes[0] = x[t] > lanes[0] ? x[t] : lanes[0];
  float most = lanes[0];
  for (int l = 1; l < kLanes; ++l) most = lanes[l] > most ? lanes[l] : most;
  return most;
}

/// x becomes exp(x - most); returns the sum.
float exponentials(float* x, int count, float most) {
  for (int t = 0; t < count; ++t) x[t] = exponential(x[t] - most);
  float lanes[kLanes] = {};
  int t = 0;
  for (; t + kLanes <= count; t += kLanes) {
    for (int l = 0; l < kLanes; ++l) lanes[l] += x[t + l];
  }
  for (; t < count; ++t) lanes[0] += x[t];
  for (int span = kLanes / 2; span > 0; span /= 2) {
    for (int l = 0; l < span; ++l) lanes[l] += lanes[l + span];
  }
  return lanes[0];
}

/// sums[c] += sum_t weights[t] values[t, c]
void add_values(const float* weights, const float* values, int head_dim, int count, float* sums) {
  const size_t D = static_cast<size_t>(head_dim);
  int t = 0;
  for (; t + 4 <= count; t += 4) {
    const float* v0 = values + static_cast<size_t>(t) * D;
    const float* v1 = v0 + D;
    const float* v2 = v1 + D;
    const float* v3 = v2 + D;
    const float w0 = weights[t], w1 = weights[t + 1], w2 = weights[t + 2], w3 = weights[t + 3];
    for (int c = 0; c < head_dim; ++c) {
      sums[c] += (w0 * v0[c] + w1 * v1[c]) + (w2 * v2[c] + w3 * v3[c]);
    }
  }
  for (; t < count; ++t) {
    const float* v = values + static_cast<size_t>(t) * D;
    for (int c = 0; c < head_dim; ++c) sums[c] += weights[t] * v[c];
  }
}

struct Task {
  const AttentionParams& p;
  const AttentionTask& task;
  const Workspace& w;
  int group;  // query heads a kv head

  int64_t last_index() const { return p.first_query_index + task.query_end - 1; }

  /// Online softmax of all rows over the loaded sub-tile, whose tokens have the indices first_index
  /// ... first_index + count - 1: query t sees a prefix of it.
  void consume(int64_t first_index, int count) const {
    const int D = p.head_dim;
    for (int t = task.query_begin; t < task.query_end; ++t) {
      const int64_t ahead = p.first_query_index + t - first_index + 1;
      const int visible = ahead < count ? static_cast<int>(ahead) : count;
      if (visible <= 0) continue;
      for (int g = 0; g < group; ++g) {
        const size_t r = static_cast<size_t>(t - task.query_begin) * static_cast<size_t>(group) +
                         static_cast<size_t>(g);
        OnlineSoftmax& row = w.rows[r];
        score(w.queries + r * static_cast<size_t>(D), w.keys, D, p.block_size, visible, w.weights);
        const float shrink = exponential(row.raise(max_of(w.weights, visible)));
        if (shrink != 1.0f) {
          for (int c = 0; c < D; ++c) row.accumulators[c] *= shrink;
        }
        row.add(shrink, exponentials(w.weights, visible, row.max));
        add_values(w.weights, w.values, D, visible, row.accumulators);
      }
    }
  }

  void run_dense(const DenseSegment& segment) const {
    for (int begin = 0; begin < segment.count; begin += p.block_size) {
      if (segment.first_index + begin > last_index()) return;
      const int rest = segment.count - begin;
      const int count = rest < p.block_size ? rest : p.block_size;
      load_dense(p, segment, task.kv_head, begin, count, w);
      consume(segment.first_index + begin, count);
    }
  }

  void run_tile(int tile) const {
    const PackedPrefix& prefix = p.prefix;
    if (tile == 0) {
      for (int begin = 0; begin < prefix.sink_count; begin += p.block_size) {
        if (begin > last_index()) return;
        const int rest = prefix.sink_count - begin;
        const int count = rest < p.block_size ? rest : p.block_size;
        load_sinks(p, task.kv_head, begin, count, w);
        consume(begin, count);
      }
    } else if (tile <= prefix.block_count) {
      const int64_t first = prefix.sink_capacity + static_cast<int64_t>(tile - 1) * p.block_size;
      if (first > last_index()) return;
      load_sealed(p, task.kv_head, tile - 1, w);
      consume(first, p.block_size);
    } else {
      run_dense(tile == prefix.block_count + 1 ? p.tail : p.chunk);
    }
  }
};

size_t attention_workspace_bytes(const AttentionParams& p, int32_t query_tokens) {
  const int64_t rows = static_cast<int64_t>(query_tokens) * (p.heads / p.kv_heads);
  return lay_out(p, rows, nullptr).bytes;
}

void attend(const AttentionParams& p, const AttentionTask& task, void* workspace) {
  const int D = p.head_dim, group = p.heads / p.kv_heads;
  const int64_t rows = static_cast<int64_t>(task.query_end - task.query_begin) * group;
  const Workspace w = lay_out(p, rows, workspace);
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t t = task.query_begin + r / group;
    float* q = w.queries + r * D;
    load_row(row_of(p.queries, p.dtype, t, task.kv_head * group + r % group), p.dtype, D, q);
    rotate(q, q + D / 2, p.query_cos + t * (D / 2), p.query_sin + t * (D / 2), D / 2);
    for (int c = 0; c < D; ++c) q[c] *= p.scale;
    w.rows[r] = OnlineSoftmax::empty(w.sums + r * D);
  }
  std::memset(w.sums, 0, sizeof(float) * static_cast<size_t>(rows * D));

  const Task run = {p, task, w, group};
  for (int tile = task.tile_begin; tile < task.tile_end; ++tile) run.run_tile(tile);

  for (int64_t r = 0; r < rows; ++r) {
    if (task.partial != nullptr) {
      w.rows[r].store(task.partial + r * (D + 2), D, 1.0f);
    } else {
      finish_row(p, w.rows[r], task.query_begin + r / group, task.kv_head * group + r % group);
    }
  }
}

}  // namespace

constinit const AttentionKernels kAttention = {
    .attention_workspace_bytes = attention_workspace_bytes,
    .attend = attend,
};

}  // namespace rillkv::kernels::cpu::scalar
