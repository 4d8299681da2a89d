// Launch plans of rillkv_ingest_* and rillkv_pack_*.
#include "kernels/cuda/ingest.h"

#include <algorithm>
#include <cmath>
#include <sstream>
#include <stdexcept>

#include "kernels/cuda/shared_layout.h"
#include "kernels/trellis.h"

namespace rillkv::kernels::cuda {
namespace {

/// Of the entries for bf16, fp16 and fp32.
const char* entry_of(Dtype dtype, const char* bf16, const char* fp16, const char* fp32) {
  return dtype == Dtype::kBFloat16 ? bf16 : dtype == Dtype::kFloat16 ? fp16 : fp32;
}

/// Shared memory of a key CTA of rillkv_pack_*.
size_t key_bytes(const PackParams& p) {
  const int element_bytes = p.dtype == Dtype::kFloat32 ? 4 : 2;
  return KeyPackShared(nullptr, p.head_dim, p.block_size, element_bytes).bytes;
}
/// The same of rillkv_pack_trellis_*, and of a CTA of its values.
size_t trellis_bytes(const PackParams& p) {
  const size_t keys = !feedback_takes_tile(p)
                          ? FeedbackShared(nullptr, p.head_dim, p.block_size).trellis_bytes
                      : p.head_dim == 64 ? FeedbackTileShared<64>::kTrellisBytes
                                         : FeedbackTileShared<128>::kTrellisBytes;
  return std::max(keys, TrellisValuesShared(p.head_dim, p.block_size).bytes);
}
/// The same of rillkv_pack_feedback_*.
size_t feedback_bytes(const PackParams& p) {
  if (!feedback_takes_tile(p)) return FeedbackShared(nullptr, p.head_dim, p.block_size).bytes;
  return p.head_dim == 64 ? FeedbackTileShared<64>::kBytes : FeedbackTileShared<128>::kBytes;
}

void check_trellis(const PackParams& p) {
  const int classes = p.class_count;
  if (p.error_feedback != 0 && classes > 0 && classes <= format::kMaxTrellisWidth &&
      p.classes[classes - 1] <= format::kMaxTrellisWidth && p.value_bits >= 1 &&
      p.value_bits + (p.wide_pairs > 0 ? 1 : 0) <= format::kMaxTrellisWidth &&
      p.block_size <= 256 && p.head_dim <= kMaxGenericHeadDim) {
    return;
  }
  throw std::invalid_argument(
      "pack: trellis codes need error feedback, widths of 1 to 7 bits, blocks of up to 256 tokens "
      "and head_dim up to 256, got values of " +
      std::to_string(p.value_bits) + " bits, blocks of " + std::to_string(p.block_size) +
      " and head_dim " + std::to_string(p.head_dim));
}

}  // namespace

size_t pack_scratch_floats(const PackParams& p) {
  if (p.error_feedback == 0 || p.blocks <= 0) return 0;
  return static_cast<size_t>(p.blocks) * static_cast<size_t>(p.kv_heads) *
         feedback_scratch_floats(p);
}

void ingest(Queue& queue, IngestParams params, int sequences) {
  if (params.rotate_values != 0) {
    if (params.head_dim <= 0 || (params.head_dim & (params.head_dim - 1)) != 0 ||
        params.head_dim > kMaxGenericHeadDim) {
      throw std::invalid_argument("ingest: head_dim must be a power of two up to " +
                                  std::to_string(kMaxGenericHeadDim) + " to rotate values, got " +
                                  std::to_string(params.head_dim));
    }
    params.hadamard_factor =
        static_cast<float>(1.0 / std::sqrt(static_cast<double>(params.head_dim)));
  }
  if (params.steps == nullptr) sequences = 1;
  if (params.tokens <= 0 || sequences <= 0) return;
  const bool feedback = params.error_feedback != 0;
  const IngestGrid grid(params, feedback);
  const auto what = [&] {
    std::ostringstream out;
    out << "queries [" << params.tokens << ", " << params.heads << ", " << params.head_dim << "], "
        << params.kv_heads << " kv heads";
    return out.str();
  };
  Launch launch;
  launch.entry = feedback ? entry_of(params.dtype, "rillkv_ingest_feedback_bf16",
                                     "rillkv_ingest_feedback_fp16", "rillkv_ingest_feedback_fp32")
                          : entry_of(params.dtype, "rillkv_ingest_bf16", "rillkv_ingest_fp16",
                                     "rillkv_ingest_fp32");
  launch.grid[0] = static_cast<uint32_t>(grid.ctas());
  launch.grid[2] = static_cast<uint32_t>(sequences);
  launch.threads = kIngestThreads;
  launch.shared_bytes = IngestGrid::shared_bytes(params, feedback);
  launch.params = &params;
  launch.params_bytes = sizeof params;
  launch.what = what;
  queue.launch(launch);
}

void pack(Queue& queue, PackParams params) {
  if (params.blocks > kMaxBlocksPerPack) {
    throw std::invalid_argument("pack: at most " + std::to_string(kMaxBlocksPerPack) +
                                " blocks a launch, got " + std::to_string(params.blocks));
  }
  if (params.blocks <= 0 || params.kv_heads <= 0) return;
  const bool trellis = params.trellis != 0, feedback = params.error_feedback != 0;
  if (trellis) check_trellis(params);
  for (int s = 0; s + 1 < params.class_count; ++s) {
    const auto unit = [trellis](int width) {
      if (trellis) return trellis_error(width);
      const double top = static_cast<double>((1 << width) - 1);
      return 1.0 / (top * top);
    };
    params.drops[s] = static_cast<float>(unit(params.classes[s]) - unit(params.classes[s + 1]));
  }
  const auto what = [&] {
    std::ostringstream out;
    out << params.blocks << " blocks of [" << params.block_size << ", " << params.kv_heads << ", "
        << params.head_dim << "]";
    return out.str();
  };
  if (trellis) {
    for (int wide = 0; wide < (params.wide_pairs > 0 ? 2 : 1); ++wide) {
      params.reaches[wide] = value_reach(params.value_bits + wide, params.value_bits);
      params.units[wide] = value_unit(params.value_bits + wide, params.value_bits);
    }
    params.granular = value_granular(params.head_dim, params.value_bits, params.wide_pairs);
  }
  Launch launch;
  launch.entry = trellis    ? entry_of(params.dtype, "rillkv_pack_trellis_bf16",
                                       "rillkv_pack_trellis_fp16", "rillkv_pack_trellis_fp32")
                 : feedback ? entry_of(params.dtype, "rillkv_pack_feedback_bf16",
                                       "rillkv_pack_feedback_fp16", "rillkv_pack_feedback_fp32")
                            : entry_of(params.dtype, "rillkv_pack_bf16", "rillkv_pack_fp16",
                                       "rillkv_pack_fp32");
  launch.grid[0] = static_cast<uint32_t>(params.kv_heads);
  launch.grid[1] = static_cast<uint32_t>(params.blocks);
  // Values of policy "trellis" are coded along the tokens: a block's in one CTA.
  const int slabs = trellis ? 1 : (params.block_size + kPackBlockRows - 1) / kPackBlockRows;
  launch.grid[2] = static_cast<uint32_t>(1 + slabs);
  launch.threads = kPackBlockThreads;
  launch.shared_bytes = trellis ? trellis_bytes(params)
                                : std::max(feedback ? feedback_bytes(params) : key_bytes(params),
                                           TokenPackShared(params.head_dim).bytes(kPackBlockRows));
  launch.params = &params;
  launch.params_bytes = sizeof params;
  launch.what = what;
  queue.launch(launch);
}

}  // namespace rillkv::kernels::cuda
