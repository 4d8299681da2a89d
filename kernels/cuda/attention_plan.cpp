// Which attention kernel takes a batch, and over how many splits of the keys.
#include <algorithm>
#include <sstream>
#include <stdexcept>

#include "kernels/cuda/attention_costs.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/shared_layout.h"

namespace rillkv::kernels::cuda {
namespace {

constexpr int kDecodeRowsAtMost = 32;  // beyond, unpacking per 8 rows costs more than it saves
constexpr int kMaxPrefillSplits = 8;   // bounds the workspace: rows * splits * head_dim floats
constexpr int kMaxDecodeSplits = kMaxSplits;
constexpr int kDecodeCtasPerSm = 4;  // __launch_bounds__ of the decode kernels

enum class Path { kPrefill, kDecode, kGeneric };

struct Plan {
  Path path = Path::kGeneric;
  const char* entry = nullptr;
  int rows = 0;  // of the longest sequence
  int row_tiles = 0;
  int splits = 1;
  size_t shared_bytes = 0;
};

bool aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

bool fast_activation(const void* data, int64_t token_stride, int64_t head_stride) {
  return aligned(data) && token_stride % 8 == 0 && head_stride % 8 == 0;
}

bool fast_segment(const DenseSegment& s) {
  return s.count == 0 ||
         (fast_activation(s.keys.data, s.keys.token_stride, s.keys.head_stride) &&
          fast_activation(s.values.data, s.values.token_stride, s.values.head_stride) &&
          aligned(s.cos) && aligned(s.sin));
}

/// The entry of a fast path, by what its blocks are.
const char* fast_entry(bool decode, bool trellis, int head_dim, bool bf16) {
  // [trellis][head_dim 128][bf16]
  static constexpr const char* kPrefill[2][2][2] = {
      {{"rillkv_prefill_d64_fp16", "rillkv_prefill_d64_bf16"},
       {"rillkv_prefill_d128_fp16", "rillkv_prefill_d128_bf16"}},
      {{"rillkv_prefill_trellis_d64_fp16", "rillkv_prefill_trellis_d64_bf16"},
       {"rillkv_prefill_trellis_d128_fp16", "rillkv_prefill_trellis_d128_bf16"}}};
  static constexpr const char* kDecode[2][2][2] = {
      {{"rillkv_decode_d64_fp16", "rillkv_decode_d64_bf16"},
       {"rillkv_decode_d128_fp16", "rillkv_decode_d128_bf16"}},
      {{"rillkv_decode_trellis_d64_fp16", "rillkv_decode_trellis_d64_bf16"},
       {"rillkv_decode_trellis_d128_fp16", "rillkv_decode_trellis_d128_bf16"}}};
  return (decode ? kDecode : kPrefill)[trellis ? 1 : 0][head_dim == 128 ? 1 : 0][bf16 ? 1 : 0];
}

/// What the fast paths assume beyond the parameters' own contract. `blocks`: there are any.
bool fast(const AttentionParams& p, bool blocks) {
  const PackedPrefix& x = p.prefix;
  const int D = p.head_dim;
  if ((D != 64 && D != 128) || p.dtype == Dtype::kFloat32) return false;
  if (blocks) {
    if (p.block_size != kAttentionTile) return false;
    if (!aligned(p.in_block_half)) return false;
    if (!x.values_channel_major && !x.trellis &&
        (x.value_groups > value_groups_at_most(D) || D % x.value_groups != 0)) {
      return false;
    }
  }
  return fast_activation(p.queries.data, p.queries.token_stride, p.queries.head_stride) &&
         fast_activation(p.out.data, p.out.token_stride, p.out.head_stride) &&
         aligned(p.query_cos) && aligned(p.query_sin) && aligned(x.sink_cos) &&
         aligned(x.sink_sin) && fast_segment(p.tail) && fast_segment(p.chunk);
}

int tiles_of(const AttentionParams& p) {
  const auto tiles = [](int tokens) { return (tokens + kAttentionTile - 1) / kAttentionTile; };
  return tiles(p.prefix.sink_count) + p.prefix.block_count + tiles(p.tail.count) +
         tiles(p.chunk.count);
}

/// What choose_splits weighs.
struct Work {
  bool prefill, trellis;
  int head_dim;
  int ctas;   // without splits
  int rows;   // of all heads and sequences
  int tiles;  // of the longest sequence
  int multiprocessors;
  int ctas_an_sm;
};

/// The number of splits, up to `most`, that finishes first: waves of CTAs, each as long as its
/// start and its tiles, and the parts' merge (attention_costs.h). Decode always writes parts.
int choose_splits(const Work& work, int most) {
  int best = 1;
  double least = 0;
  for (int splits = 1; splits <= std::min(most, std::max(work.tiles, 1)); ++splits) {
    const int ctas = work.ctas * splits, slots = work.ctas_an_sm * work.multiprocessors;
    const int waves = (ctas + slots - 1) / slots;
    const int resident =
        std::min(work.ctas_an_sm, (ctas + work.multiprocessors - 1) / work.multiprocessors);
    const int tiles = (work.tiles + splits - 1) / splits;
    double cycles = waves * (kStartCycles + tiles * tile_cycles(work.head_dim, work.prefill,
                                                                resident, work.trellis));
    if (splits > 1 || !work.prefill) {
      cycles += merge_cycles(work.head_dim, work.rows, splits, work.multiprocessors);
    }
    if (splits == 1 || cycles < least) {
      best = splits;
      least = cycles;
    }
  }
  return best;
}

std::string describe(const AttentionParams& p, int count, const Plan& plan) {
  std::ostringstream out;
  out << count << " sequences, " << p.heads << "/" << p.kv_heads << " heads of " << p.head_dim
      << ", up to " << plan.rows / (p.heads / p.kv_heads) << " queries over " << tiles_of(p)
      << " tiles, " << plan.splits << " splits";
  return out.str();
}

void check(const AttentionParams* sequences, int count) {
  const AttentionParams& first = sequences[0];
  if (first.kv_heads <= 0 || first.heads % first.kv_heads != 0 || first.head_dim <= 0 ||
      first.head_dim % 2 != 0 || first.head_dim > kMaxGenericHeadDim) {
    throw std::invalid_argument(
        "attend: expected an even head_dim up to " + std::to_string(kMaxGenericHeadDim) +
        " and heads a multiple of kv_heads, got head_dim " + std::to_string(first.head_dim) +
        ", heads " + std::to_string(first.heads) + ", kv_heads " + std::to_string(first.kv_heads));
  }
  for (int i = 1; i < count; ++i) {
    const AttentionParams& p = sequences[i];
    if (p.heads != first.heads || p.kv_heads != first.kv_heads || p.head_dim != first.head_dim ||
        p.dtype != first.dtype || p.prefix.trellis != first.prefix.trellis) {
      throw std::invalid_argument("attend: sequence " + std::to_string(i) +
                                  " differs from sequence 0 in heads, head_dim, dtype or policy");
    }
  }
}

/// `concurrent` sequences at a time.
Plan plan_attention(const Queue& queue, const AttentionParams* sequences, int count, int concurrent,
                    bool steps) {
  check(sequences, count);
  const int multiprocessors = queue.multiprocessors();
  const int shared_memory_limit = queue.shared_memory_limit();
  const AttentionParams& first = sequences[0];
  Plan plan;
  bool all_fast = true, known = true;
  const int D = sequences[0].head_dim;
  int tiles = 0, most_key_bytes = 0, most_value_bytes = 0;
  for (int i = 0; i < count; ++i) {
    const AttentionParams& p = sequences[i];
    plan.rows = std::max(plan.rows, p.query_count * (p.heads / p.kv_heads));
  }
  const bool decode = plan.rows <= kDecodeRowsAtMost;
  for (int i = 0; i < count; ++i) {
    const AttentionParams& p = sequences[i];
    tiles = std::max(tiles, tiles_of(p));
    all_fast = all_fast && fast(p, steps || p.prefix.block_count > 0);
    // Blocks to come may be larger than the largest now, unless all have one size.
    known = known && (steps ? p.key_block_bytes > 0 && !p.prefix.keys_symmetric
                            : p.prefix.block_count == 0 || p.key_block_bytes > 0);
    most_key_bytes = std::max(most_key_bytes, p.key_block_bytes);
    if (steps || p.prefix.block_count > 0) {
      most_value_bytes = std::max(most_value_bytes, DecodeShared::value_bytes(D, p.prefix));
    }
  }
  const bool bf16 = first.dtype == Dtype::kBFloat16;
  if (all_fast) {
    const int key_bytes = known ? most_key_bytes : key_block_bytes_at_most(D);
    const int value_codes = std::max(most_value_bytes - trellis_value_meta_bytes(D), 0);
    plan.shared_bytes = static_cast<size_t>(
        decode ? DecodeShared(D, first.prefix.trellis).bytes(D, key_bytes + most_value_bytes)
        : first.prefix.trellis
            ? PrefillTrellisShared(D).bytes(D, value_codes, known ? most_key_bytes : 0)
            : PrefillShared(D).bytes(D, known ? most_key_bytes : 0));
    all_fast = plan.shared_bytes <= static_cast<size_t>(shared_memory_limit);
  }
  const auto work = [&](int ctas_an_sm) {
    const int heads = first.kv_heads * concurrent;
    return Work{!decode, first.prefix.trellis, D,         plan.row_tiles * heads, plan.rows * heads,
                tiles,   multiprocessors,      ctas_an_sm};
  };
  if (!all_fast) {
    plan.entry = "rillkv_attention_generic";
    plan.row_tiles = (plan.rows + kGenericRows - 1) / kGenericRows;
    plan.shared_bytes = GenericShared(nullptr, D).bytes;
  } else if (decode) {
    plan.path = Path::kDecode;
    plan.entry = fast_entry(true, first.prefix.trellis, D, bf16);
    plan.row_tiles = (plan.rows + kDecodeRows - 1) / kDecodeRows;
    // An SM has 1 KB more than a block may take, and each block takes 1 KB for the system.
    const int fit = (shared_memory_limit + 1024) / (static_cast<int>(plan.shared_bytes) + 1024);
    plan.splits = choose_splits(work(std::min(fit, kDecodeCtasPerSm)), kMaxDecodeSplits);
  } else {
    plan.path = Path::kPrefill;
    plan.entry = fast_entry(false, first.prefix.trellis, D, bf16);
    plan.row_tiles = (plan.rows + kPrefillRows - 1) / kPrefillRows;
    plan.splits = choose_splits(work(1), kMaxPrefillSplits);
  }
  return plan;
}

Plan plan_attention(const Queue& queue, const AttentionParams* sequences, int count) {
  return plan_attention(queue, sequences, count, std::min(count, kMaxSequencesPerLaunch), false);
}

/// `shape` as every sequence in steps mode sees it: what the steps bring is null or zero.
AttentionParams stepped(const AttentionParams& shape) {
  AttentionParams p = shape;
  p.query_count = 1;
  p.query_cos = p.query_sin = nullptr;
  p.prefix.sink_count = p.prefix.sink_capacity;
  p.prefix.sink_keys = p.prefix.sink_values = nullptr;
  p.prefix.keys = p.prefix.values = nullptr;
  p.prefix.rotations = nullptr;
  p.tail = {};
  p.tail.keys.token_stride = p.tail.values.token_stride = int64_t{p.kv_heads} * p.head_dim;
  p.tail.keys.head_stride = p.tail.values.head_stride = p.head_dim;
  p.tail.count = 1;  // the new token, at least
  p.chunk = {};
  return p;
}

Plan plan_steps(const Queue& queue, const AttentionParams& stepped_shape, int count) {
  return plan_attention(queue, &stepped_shape, 1, count, true);
}

/// Decode always writes parts; prefill does when it splits.
bool writes_parts(const Plan& plan) {
  return plan.path == Path::kDecode || (plan.path == Path::kPrefill && plan.splits > 1);
}

/// Rows of all parts; `concurrent` as for plan_attention.
size_t part_rows(const Plan& plan, const AttentionParams& p, int concurrent) {
  return static_cast<size_t>(concurrent) * static_cast<size_t>(p.kv_heads) *
         static_cast<size_t>(plan.splits) * static_cast<size_t>(plan.rows);
}
size_t workspace_of(const Plan& plan, const AttentionParams& p, int concurrent) {
  if (!writes_parts(plan)) return 0;
  return part_rows(plan, p, concurrent) * sizeof(float) * static_cast<size_t>(p.head_dim + 2);
}
void check_workspace(const char* function, size_t needed, const void* workspace, size_t bytes) {
  if (needed > bytes || (needed > 0 && !aligned(workspace))) {
    throw std::invalid_argument(std::string(function) +
                                ": expected a 16-byte aligned workspace of " +
                                std::to_string(needed) + " bytes, got " + std::to_string(bytes));
  }
}

/// The attention kernel over `here` sequences, whose parameters are in `params`, and the merge;
/// `fold` (null: nothing) adds to the parts between them.
void launch_attention(Queue& queue, const Plan& plan, AttentionLaunchParams& params, int here,
                      int concurrent, void* workspace, const Description& what,
                      const std::function<void(const AttentionParts&)>* fold = nullptr) {
  const AttentionParams& first = params.sequences[0];
  params.row_tiles = plan.row_tiles;
  params.splits = plan.splits;
  params.row_stride = plan.rows;
  if (writes_parts(plan)) {
    params.part_out = static_cast<float*>(workspace);
    params.part_max_sum =
        params.part_out + part_rows(plan, first, concurrent) * static_cast<size_t>(first.head_dim);
  }
  Launch launch;
  launch.entry = plan.entry;
  launch.grid[0] = static_cast<uint32_t>(plan.row_tiles * plan.splits);
  launch.grid[1] = static_cast<uint32_t>(first.kv_heads);
  launch.grid[2] = static_cast<uint32_t>(here);
  launch.threads = plan.path == Path::kGeneric  ? kGenericThreads
                   : plan.path == Path::kDecode ? kDecodeThreads
                                                : kFastThreads;
  launch.shared_bytes = plan.shared_bytes;
  launch.params = &params;
  launch.params_bytes = sizeof(params);
  launch.what = what;
  queue.launch(launch);
  if (!writes_parts(plan)) return;
  if (fold != nullptr) {
    (*fold)({params.part_out, params.part_max_sum, int64_t{plan.splits} * plan.rows});
  }
  const int rows_a_cta = kMergeWarps / merge_warps(plan.splits);
  launch.entry = first.head_dim == 64 ? "rillkv_merge_d64" : "rillkv_merge_d128";
  launch.grid[0] = static_cast<uint32_t>((plan.rows + rows_a_cta - 1) / rows_a_cta);
  launch.threads = kMergeThreads;
  launch.shared_bytes = merge_shared_bytes(first.head_dim);
  queue.launch(launch);
}

}  // namespace

const char* attention_entry(const Queue& queue, const AttentionParams* sequences, int count) {
  return plan_attention(queue, sequences, count).entry;
}

size_t attention_workspace_bytes(const Queue& queue, const AttentionParams* sequences, int count) {
  if (count <= 0) return 0;
  return workspace_of(plan_attention(queue, sequences, count), sequences[0],
                      std::min(count, kMaxSequencesPerLaunch));
}

void attend(Queue& queue, const AttentionParams* sequences, int count, void* workspace,
            size_t workspace_bytes) {
  if (count <= 0) return;
  const Plan plan = plan_attention(queue, sequences, count);
  if (plan.rows == 0) return;
  const int concurrent = std::min(count, kMaxSequencesPerLaunch);
  check_workspace("attend", workspace_of(plan, sequences[0], concurrent), workspace,
                  workspace_bytes);
  const auto what = [&] { return describe(sequences[0], count, plan); };
  for (int begin = 0; begin < count; begin += concurrent) {
    const int here = std::min(concurrent, count - begin);
    AttentionLaunchParams params;
    std::copy(sequences + begin, sequences + begin + here, params.sequences);
    launch_attention(queue, plan, params, here, concurrent, workspace, what);
  }
}

bool attend_steps_takes(const Queue& queue, const AttentionParams& shape) {
  return plan_steps(queue, stepped(shape), 1).path == Path::kDecode;
}

size_t attend_steps_workspace_bytes(const Queue& queue, const AttentionParams& shape, int count) {
  if (count <= 0) return 0;
  const AttentionParams p = stepped(shape);
  return workspace_of(plan_steps(queue, p, count), p, count);
}

void attend_steps(Queue& queue, const AttentionParams& shape, const SequenceStep* steps, int count,
                  int layer, void* workspace, size_t workspace_bytes) {
  if (count <= 0) return;
  AttentionLaunchParams params;
  params.sequences[0] = stepped(shape);
  const AttentionParams& p = params.sequences[0];
  const Plan plan = plan_steps(queue, p, count);
  if (plan.path != Path::kDecode) {
    throw std::invalid_argument("attend_steps: no fast decode path takes " +
                                describe(p, count, plan));
  }
  check_workspace("attend_steps", workspace_of(plan, p, count), workspace, workspace_bytes);
  params.steps = steps;
  params.layer = layer;
  const auto what = [&] { return describe(p, count, plan); };
  launch_attention(queue, plan, params, count, count, workspace, what);
}

// ---- attend_folding ----
namespace {

/// Parts are written even where one split would do.
Plan plan_folding(const Queue& queue, const AttentionParams& p) {
  Plan plan = plan_attention(queue, &p, 1);
  plan.splits = std::max(plan.splits, 2);
  return plan;
}

}  // namespace

bool attend_folding_takes(const Queue& queue, const AttentionParams& sequence) {
  return plan_attention(queue, &sequence, 1).path == Path::kPrefill;
}

size_t attend_folding_workspace_bytes(const Queue& queue, const AttentionParams& sequence) {
  return part_rows(plan_folding(queue, sequence), sequence, 1) * sizeof(float) *
         static_cast<size_t>(sequence.head_dim + 2);
}

void attend_folding(Queue& queue, const AttentionParams& sequence, void* workspace,
                    size_t workspace_bytes,
                    const std::function<void(const AttentionParts&)>& fold) {
  const Plan plan = plan_folding(queue, sequence);
  const size_t needed = attend_folding_workspace_bytes(queue, sequence);
  if (plan.path != Path::kPrefill || needed > workspace_bytes || !aligned(workspace)) {
    throw std::invalid_argument(
        "attend_folding: expected a sequence of the fast prefill path and a 16-byte aligned "
        "workspace of " +
        std::to_string(needed) + " bytes, got " + std::to_string(workspace_bytes) + " bytes and " +
        describe(sequence, 1, plan));
  }
  AttentionLaunchParams params;
  params.sequences[0] = sequence;
  const auto what = [&] { return describe(sequence, 1, plan); };
  launch_attention(queue, plan, params, 1, 1, workspace, what, &fold);
}

}  // namespace rillkv::kernels::cuda
