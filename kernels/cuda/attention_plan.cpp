// Which attention kernel takes a batch, and over how many splits of the keys.
#include <algorithm>
#include <sstream>
#include <stdexcept>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/shared_layout.h"

namespace rillkv::kernels::cuda {
namespace {

constexpr int kDecodeRowsAtMost = 32;  // beyond, filling tiles per 16 rows costs more than it saves
constexpr int kMaxPrefillSplits = 8;   // bounds the workspace: rows * splits * head_dim floats
constexpr int kMaxDecodeSplits = 64;
constexpr int kDecodeCtasPerSm = 2;  // __launch_bounds__ of the decode kernels

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

/// What the fast paths assume beyond the parameters' own contract.
bool fast(const AttentionParams& p) {
  const PackedPrefix& x = p.prefix;
  const int D = p.head_dim;
  if ((D != 64 && D != 128) || p.dtype == Dtype::kFloat32) return false;
  if (x.block_count > 0) {
    if (p.block_size != kAttentionTile) return false;
    if (!aligned(p.in_block_half)) return false;
    if (!x.values_channel_major &&
        (x.value_groups > AttentionShared::value_groups_at_most(D) || D % x.value_groups != 0)) {
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

/// The number of splits that finishes first: waves of CTAs times the tiles each walks over, plus a
/// tile's worth of starting and ending, plus what merging the parts costs.
int choose_splits(int ctas, int slots, int tiles, int most) {
  int best = 1;
  double least = 0;
  for (int splits = 1; splits <= std::min(most, std::max(tiles, 1)); ++splits) {
    const int waves = (ctas * splits + slots - 1) / slots;
    const double cost =
        waves * ((tiles + splits - 1) / splits + 1.0) + (splits > 1 ? 1.0 + 0.05 * splits : 0.0);
    if (splits == 1 || cost < least) {
      best = splits;
      least = cost;
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
        p.dtype != first.dtype) {
      throw std::invalid_argument("attend: sequence " + std::to_string(i) +
                                  " differs from sequence 0 in heads, head_dim or dtype");
    }
  }
}

Plan plan_attention(const AttentionParams* sequences, int count, int multiprocessors,
                    int shared_memory_limit) {
  check(sequences, count);
  const AttentionParams& first = sequences[0];
  Plan plan;
  bool all_fast = true, known = true;
  int tiles = 0, most_key_bytes = 0;
  for (int i = 0; i < count; ++i) {
    const AttentionParams& p = sequences[i];
    plan.rows = std::max(plan.rows, p.query_count * (p.heads / p.kv_heads));
    tiles = std::max(tiles, tiles_of(p));
    all_fast = all_fast && fast(p);
    known = known && (p.prefix.block_count == 0 || p.key_block_bytes > 0);
    most_key_bytes = std::max(most_key_bytes, p.key_block_bytes);
  }
  const int D = first.head_dim;
  const bool bf16 = first.dtype == Dtype::kBFloat16;
  const bool decode = plan.rows <= kDecodeRowsAtMost;
  if (all_fast) {
    plan.shared_bytes =
        static_cast<size_t>(AttentionShared(D, !decode).bytes(D, known ? most_key_bytes : 0));
    all_fast = plan.shared_bytes <= static_cast<size_t>(shared_memory_limit);
  }
  const int concurrent = std::min(count, kMaxSequencesPerLaunch);
  if (!all_fast) {
    plan.entry = "rillkv_attention_generic";
    plan.row_tiles = (plan.rows + kGenericRows - 1) / kGenericRows;
    plan.shared_bytes = GenericShared(nullptr, D).bytes;
  } else if (decode) {
    plan.path = Path::kDecode;
    plan.entry = D == 64 ? (bf16 ? "rillkv_decode_d64_bf16" : "rillkv_decode_d64_fp16")
                         : (bf16 ? "rillkv_decode_d128_bf16" : "rillkv_decode_d128_fp16");
    plan.row_tiles = (plan.rows + kDecodeRows - 1) / kDecodeRows;
    // An SM has 1 KB more than a block may take, and each block takes 1 KB for the system.
    const int fit = (shared_memory_limit + 1024) / (static_cast<int>(plan.shared_bytes) + 1024);
    plan.splits =
        choose_splits(plan.row_tiles * first.kv_heads * concurrent,
                      std::min(fit, kDecodeCtasPerSm) * multiprocessors, tiles, kMaxDecodeSplits);
  } else {
    plan.path = Path::kPrefill;
    plan.entry = D == 64 ? (bf16 ? "rillkv_prefill_d64_bf16" : "rillkv_prefill_d64_fp16")
                         : (bf16 ? "rillkv_prefill_d128_bf16" : "rillkv_prefill_d128_fp16");
    plan.row_tiles = (plan.rows + kPrefillRows - 1) / kPrefillRows;
    plan.splits = choose_splits(plan.row_tiles * first.kv_heads * concurrent, multiprocessors,
                                tiles, kMaxPrefillSplits);
  }
  return plan;
}

Plan plan_attention(const Queue& queue, const AttentionParams* sequences, int count) {
  return plan_attention(sequences, count, queue.multiprocessors(), queue.shared_memory_limit());
}

/// Decode always writes parts; prefill does when it splits.
bool writes_parts(const Plan& plan) {
  return plan.path == Path::kDecode || (plan.path == Path::kPrefill && plan.splits > 1);
}

size_t part_rows(const Plan& plan, const AttentionParams& p, int count) {
  return static_cast<size_t>(std::min(count, kMaxSequencesPerLaunch)) *
         static_cast<size_t>(p.kv_heads) * static_cast<size_t>(plan.splits) *
         static_cast<size_t>(plan.rows);
}

}  // namespace

const char* attention_entry(const Queue& queue, const AttentionParams* sequences, int count) {
  return plan_attention(queue, sequences, count).entry;
}

size_t attention_workspace_bytes(const Queue& queue, const AttentionParams* sequences, int count) {
  if (count <= 0) return 0;
  const Plan plan = plan_attention(queue, sequences, count);
  if (!writes_parts(plan)) return 0;
  return part_rows(plan, sequences[0], count) * sizeof(float) *
         static_cast<size_t>(sequences[0].head_dim + 2);
}

void attend(Queue& queue, const AttentionParams* sequences, int count, void* workspace,
            size_t workspace_bytes) {
  if (count <= 0) return;
  const Plan plan = plan_attention(queue, sequences, count);
  if (plan.rows == 0) return;
  const AttentionParams& first = sequences[0];
  const size_t needed = attention_workspace_bytes(queue, sequences, count);
  if (needed > workspace_bytes || (needed > 0 && !aligned(workspace))) {
    throw std::invalid_argument("attend: expected a 16-byte aligned workspace of " +
                                std::to_string(needed) + " bytes, got " +
                                std::to_string(workspace_bytes));
  }
  for (int begin = 0; begin < count; begin += kMaxSequencesPerLaunch) {
    const int here = std::min(kMaxSequencesPerLaunch, count - begin);
    AttentionLaunchParams params;
    std::copy(sequences + begin, sequences + begin + here, params.sequences);
    params.row_tiles = plan.row_tiles;
    params.splits = plan.splits;
    params.row_stride = plan.rows;
    if (writes_parts(plan)) {
      params.part_out = static_cast<float*>(workspace);
      params.part_max_sum =
          params.part_out + part_rows(plan, first, count) * static_cast<size_t>(first.head_dim);
    }
    Launch launch;
    launch.entry = plan.entry;
    launch.grid[0] = static_cast<uint32_t>(plan.row_tiles * plan.splits);
    launch.grid[1] = static_cast<uint32_t>(first.kv_heads);
    launch.grid[2] = static_cast<uint32_t>(here);
    launch.threads = plan.path == Path::kGeneric ? kGenericThreads : kFastThreads;
    launch.shared_bytes = plan.shared_bytes;
    launch.params = &params;
    launch.params_bytes = sizeof(params);
    launch.what = describe(first, count, plan);
    queue.launch(launch);
    if (writes_parts(plan)) {
      const int rows_per_cta = kMergeThreads / 32;
      launch.entry = first.head_dim == 64 ? "rillkv_merge_d64" : "rillkv_merge_d128";
      launch.grid[0] = static_cast<uint32_t>((plan.rows + rows_per_cta - 1) / rows_per_cta);
      launch.threads = kMergeThreads;
      launch.shared_bytes = 0;
      queue.launch(launch);
    }
  }
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
  params.row_tiles = plan.row_tiles;
  params.splits = plan.splits;
  params.row_stride = plan.rows;
  params.part_out = static_cast<float*>(workspace);
  params.part_max_sum =
      params.part_out + part_rows(plan, sequence, 1) * static_cast<size_t>(sequence.head_dim);
  Launch launch;
  launch.entry = plan.entry;
  launch.grid[0] = static_cast<uint32_t>(plan.row_tiles * plan.splits);
  launch.grid[1] = static_cast<uint32_t>(sequence.kv_heads);
  launch.threads = kFastThreads;
  launch.shared_bytes = plan.shared_bytes;
  launch.params = &params;
  launch.params_bytes = sizeof(params);
  launch.what = describe(sequence, 1, plan);
  queue.launch(launch);
  fold({params.part_out, params.part_max_sum, int64_t{plan.splits} * plan.rows});
  const int rows_per_cta = kMergeThreads / 32;
  launch.entry = sequence.head_dim == 64 ? "rillkv_merge_d64" : "rillkv_merge_d128";
  launch.grid[0] = static_cast<uint32_t>((plan.rows + rows_per_cta - 1) / rows_per_cta);
  launch.threads = kMergeThreads;
  launch.shared_bytes = 0;
  queue.launch(launch);
}

}  // namespace rillkv::kernels::cuda
