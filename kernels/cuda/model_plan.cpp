// Launch plans of a model's own kernels. Portable C++: the same plans run on a GPU and on the PTX
// executor.
#include <algorithm>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>

#include "kernels/cuda/model_ops.h"

namespace rillkv::kernels::cuda {
namespace {

constexpr int kMaxGridRows = 65535;

const char* dtype_name(Dtype dtype) {
  switch (dtype) {
    case Dtype::kBFloat16:
      return "bfloat16";
    case Dtype::kFloat16:
      return "float16";
    default:
      return "float32";
  }
}

/// The entry of a dtype.
const char* variant(Dtype dtype, const char* bf16, const char* fp16, const char* fp32) {
  return dtype == Dtype::kBFloat16 ? bf16 : dtype == Dtype::kFloat16 ? fp16 : fp32;
}

int ceiling(int64_t count, int unit) { return static_cast<int>((count + unit - 1) / unit); }

std::string describe(int rows, int columns, Dtype dtype) {
  return "[" + std::to_string(rows) + ", " + std::to_string(columns) + "] " + dtype_name(dtype);
}

/// `what` makes the message's text.
template <typename Params, typename What>
void submit(Queue& queue, const char* entry, int x, int y, int threads, const Params& params,
            const What& what) {
  if (x <= 0 || y <= 0) return;  // nothing to do
  Launch launch;
  launch.entry = entry;
  launch.grid[0] = static_cast<uint32_t>(x);
  launch.grid[1] = static_cast<uint32_t>(y);
  launch.threads = static_cast<uint32_t>(threads);
  launch.params = &params;
  launch.params_bytes = sizeof(Params);
  launch.what = what();
  queue.launch(launch);
}

}  // namespace

void rms_norm(Queue& queue, const NormParams& params) {
  if (params.columns <= 0) return;
  const char* entry =
      variant(params.dtype, "rillkv_rms_norm_bf16", "rillkv_rms_norm_fp16", "rillkv_rms_norm_fp32");
  submit(queue, entry, params.rows, 1, kNormThreads, params,
         [&] { return describe(params.rows, params.columns, params.dtype); });
}

void gate(Queue& queue, const GateParams& params) {
  const char* entry =
      variant(params.dtype, "rillkv_gate_bf16", "rillkv_gate_fp16", "rillkv_gate_fp32");
  // A thread takes 16 bytes. Rows that are not whole vectors take more steps, which is right too.
  const int elements = params.dtype == Dtype::kFloat32 ? 4 : 8;
  submit(queue, entry, ceiling(params.columns, elements * kGateThreads),
         std::min(params.rows, kMaxGridRows), kGateThreads, params,
         [&] { return describe(params.rows, 2 * params.columns, params.dtype); });
}

void embed(Queue& queue, const EmbedParams& params) {
  if (params.element_bytes != 2 && params.element_bytes != 4) {
    throw std::invalid_argument("embed: expected elements of 2 or 4 bytes, got " +
                                std::to_string(params.element_bytes));
  }
  submit(queue, "rillkv_embed", params.rows, 1, kEmbedThreads, params, [&] {
    return std::to_string(params.rows) + " rows of " + std::to_string(params.columns) + " x " +
           std::to_string(params.element_bytes) + " bytes";
  });
}

void set_ids(Queue& queue, const int32_t* ids, int count, int32_t* out) {
  for (int first = 0; first < count; first += kMaxIdsPerLaunch) {
    SetIdsParams params;
    params.out = out + first;
    params.count = std::min(count - first, kMaxIdsPerLaunch);
    std::copy_n(ids + first, params.count, params.ids);
    submit(queue, "rillkv_set_ids", ceiling(params.count, kIdThreads), 1, kIdThreads, params,
           [&] { return std::to_string(params.count) + " ids"; });
  }
}

void begin_pass(Queue& queue, const BeginPassParams& params, const SequenceStep* values,
                const int32_t* ids, int count) {
  BeginPassParams part = params;
  for (part.first = 0; part.first < count; part.first += kMaxStepsPerLaunch) {
    part.count = std::min(count - part.first, kMaxStepsPerLaunch);
    std::copy_n(values + part.first, part.count, part.values);
    std::copy_n(ids + part.first, part.count, part.ids);
    submit(queue, "rillkv_begin_pass", part.count, 1, kBeginThreads, part, [&] {
      return "sequences " + std::to_string(part.first) + " + " + std::to_string(part.count) +
             ", head_dim " + std::to_string(part.head_dim);
    });
  }
}

void rope_rows(Queue& queue, const RopeRowsParams& params) {
  if (params.first < 0 || params.first + params.count > std::numeric_limits<int32_t>::max()) {
    throw std::invalid_argument("rope_rows: expected tokens of 0..2147483647, got " +
                                std::to_string(params.first) + " + " +
                                std::to_string(params.count));
  }
  submit(queue, "rillkv_rope_rows",
         ceiling(int64_t{params.count} * (params.head_dim / 2), kRopeRowThreads), 1,
         kRopeRowThreads, params, [&] {
           return "tokens " + std::to_string(params.first) + " + " + std::to_string(params.count) +
                  ", head_dim " + std::to_string(params.head_dim);
         });
}

}  // namespace rillkv::kernels::cuda
