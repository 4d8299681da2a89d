#include "core/slice_attention.h"

#include <ATen/ATen.h>

#include <cstdlib>
#include <map>
#include <mutex>
#include <string>
#include <tuple>

#include "rillkv/error.h"

namespace rillkv {
namespace {

namespace cuda = kernels::cuda;

/// From these on slice_model.h has slices by cuDNN well ahead of the fused kernel on an H100; at
/// 4096 tokens the two are equal, since a slice's three launches cost what they save.
constexpr int kAutoRows = 512;   // G * queries
constexpr int kAutoBlocks = 64;  // 8192 tokens

int compute_capability(at::Device device) {
  if (!device.is_cuda()) return 0;
  static std::mutex mutex;
  static std::map<c10::DeviceIndex, int> known;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto [entry, fresh] = known.try_emplace(device.index(), 0);
  if (fresh) entry->second = device_figures(device).compute_capability;
  return entry->second;
}

bool takes_slices(CudaBackend& backend, const cuda::SlicePlan& plan, PrefillPath path) {
  if (plan.blocks == 0 || path == PrefillPath::kFused) return false;
  return path != PrefillPath::kAuto || slices_pay(compute_capability(backend.device()), plan);
}

/// Attention in LibTorch's form, [1, heads, rows, D].
SliceResult without_batch(const at::Tensor& out, const at::Tensor& log_sum_exp) {
  const int64_t heads = out.size(1), rows = out.size(2);
  // cuDNN's has a last dimension of 1.
  at::Tensor sums = log_sum_exp[0];
  if (sums.dim() == 3) sums = sums.squeeze(-1);
  RILLKV_CHECK(sums.dim() == 2 && sums.size(0) == heads && sums.size(1) == rows &&
                   sums.scalar_type() == at::kFloat,
               "attention by slices: expected log-sum-exps [1, ", heads, ", ", rows,
               "] float32 of LibTorch, got ", log_sum_exp.sizes(), " ", log_sum_exp.scalar_type());
  return {out[0], sums};
}

}  // namespace

PrefillPath prefill_path() {
  const char* wanted = std::getenv("RILLKV_PREFILL");
  const std::string name = wanted != nullptr ? wanted : "";
  if (name.empty() || name == "fused") return PrefillPath::kFused;
  if (name == "slices") return PrefillPath::kSlices;
  if (name == "slices-flash") return PrefillPath::kSlicesFlash;
  if (name == "auto") return PrefillPath::kAuto;
  throw UsageError(str_cat(
      "RILLKV_PREFILL: expected one of fused, slices, slices-flash, auto, got \"", name, "\""));
}

bool slices_pay(int compute_capability, const cuda::SlicePlan& plan) {
  return compute_capability == 90 && plan.rows >= kAutoRows && plan.blocks >= kAutoBlocks;
}

SliceLibrary slice_library(at::Device device, PrefillPath path) {
  if (!device.is_cuda()) {
    return [](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, double scale) {
      const auto result = at::_scaled_dot_product_flash_attention_for_cpu(
          q.unsqueeze(0), k.unsqueeze(0), v.unsqueeze(0), /*dropout_p=*/0.0, /*is_causal=*/false,
          /*attn_mask=*/{}, scale);
      return without_batch(std::get<0>(result), std::get<1>(result));
    };
  }
  if (path == PrefillPath::kSlicesFlash) {
    return [](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, double scale) {
      const auto result = at::_scaled_dot_product_flash_attention(
          q.unsqueeze(0), k.unsqueeze(0), v.unsqueeze(0), /*dropout_p=*/0.0, /*is_causal=*/false,
          /*return_debug_mask=*/false, scale);
      return without_batch(std::get<0>(result), std::get<1>(result));
    };
  }
  return [](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, double scale) {
    const auto result = at::_scaled_dot_product_cudnn_attention(
        q.unsqueeze(0), k.unsqueeze(0), v.unsqueeze(0), /*attn_bias=*/{},
        /*compute_log_sumexp=*/true, /*dropout_p=*/0.0, /*is_causal=*/false,
        /*return_debug_mask=*/false, scale);
    return without_batch(std::get<0>(result), std::get<1>(result));
  };
}

bool attend_by_slices(CudaBackend& backend, const cuda::AttentionParams& sequence,
                      const SliceOptions& options) {
  if (options.path == PrefillPath::kFused) return false;
  cuda::Queue& queue = backend.queue();
  const cuda::SlicePlan plan =
      cuda::plan_slices(queue, sequence, options.most_bytes, options.least_blocks);
  if (!takes_slices(backend, plan, options.path)) return false;
  const SliceLibrary library =
      options.library ? options.library : slice_library(backend.device(), options.path);

  const auto on_device = at::TensorOptions().device(backend.device());
  const auto half = on_device.dtype(at::kHalf);
  const auto bits = [](const at::Tensor& x) {
    return static_cast<uint16_t*>(x.mutable_data_ptr());
  };
  const int64_t D = plan.head_dim, heads = int64_t{plan.kv_heads} * plan.parts;
  const at::Tensor queries = at::empty({heads, plan.rows, D}, half);
  const auto tile_elements = static_cast<int64_t>(plan.tile_bytes() / sizeof(uint16_t));
  const at::Tensor keys = at::empty({tile_elements}, half), values = at::empty_like(keys);
  const cuda::AttentionParams rest = cuda::without_blocks(sequence, plan.blocks);
  const size_t bytes = cuda::attend_folding_workspace_bytes(queue, rest);
  const at::Tensor workspace = at::empty({static_cast<int64_t>(bytes)}, on_device.dtype(at::kByte));

  const auto fold = [&](const cuda::AttentionParts& parts) {
    for (int first = 0, blocks = 0; first < plan.blocks; first += blocks) {
      blocks = plan.slice_at(first);
      cuda::expand_slice(queue, sequence, first, blocks, bits(keys), bits(values));
      // [kv_heads, tokens, D], whose parts are heads.
      const int64_t tokens = int64_t{blocks} * sequence.block_size / plan.parts;
      const auto tile = [&](const at::Tensor& x) {
        return x.slice(0, 0, heads * tokens * D).view({heads, tokens, D});
      };
      const SliceResult result = library(queries, tile(keys), tile(values),
                                         static_cast<double>(sequence.scale) * cuda::kSliceScale);
      RILLKV_CHECK(result.out.scalar_type() == at::kHalf && result.out.stride(2) == 1,
                   "attention by slices: expected float16 rows of LibTorch, got ",
                   result.out.scalar_type(), " with strides ", result.out.strides());
      cuda::FoldSliceParams p;
      p.out = static_cast<const uint16_t*>(result.out.const_data_ptr());
      p.out_head_stride = result.out.stride(0);
      p.out_row_stride = result.out.stride(1);
      p.log_sum_exp = result.log_sum_exp.const_data_ptr<float>();
      p.log_sum_exp_head_stride = result.log_sum_exp.stride(0);
      p.log_sum_exp_row_stride = result.log_sum_exp.stride(1);
      p.parts = plan.parts;
      p.rows = plan.rows;
      p.head_dim = plan.head_dim;
      p.part_out = parts.out;
      p.part_max_sum = parts.max_sum;
      p.part_stride = parts.stride;
      cuda::fold_slice(queue, p, plan.kv_heads);
    }
  };
  cuda::slice_queries(queue, sequence, plan, bits(queries));
  cuda::attend_folding(queue, rest, workspace.mutable_data_ptr(), bytes, fold);
  return true;
}

}  // namespace rillkv
