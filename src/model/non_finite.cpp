#include "model/non_finite.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <utility>
#include <vector>

#include "core/parallel.h"
#include "model/llama_layer.h"
#include "model/pack_access.h"
#include "rillkv/error.h"

namespace rillkv {
namespace {

/// Elements a thread takes at least: some ten microseconds.
constexpr int64_t kGrain = 65536;

/// Whether no element has all bits of its exponent set: NaN and infinity have.
template <typename Bits>
bool finite_bits(const void* data, int64_t count, Bits exponent) {
  const Bits* x = static_cast<const Bits*>(data);
  std::atomic<bool> finite{true};
  parallel_rows(count, kGrain, [&](int64_t begin, int64_t end) {
    Bits bad = 0;  // no early exit: a loop that a compiler can vectorise
    for (int64_t i = begin; i < end; ++i) {
      bad = static_cast<Bits>(bad | static_cast<Bits>((x[i] & exponent) == exponent));
    }
    if (bad != 0) finite.store(false, std::memory_order_relaxed);
  });
  return finite.load();
}

/// What `x` holds that is not finite, "" if nothing.
std::string broken(const at::Tensor& x) {
  if (all_finite(x)) return "";
  const at::Tensor wide = x.reshape(-1).to(at::kCPU).to(at::kFloat);
  return wide.isnan().any().item<bool>() ? "NaN" : "infinity";
}

/// The same of whole rows of a packed weight, [panels, in / 2, outputs of a panel, 2]. Views of it
/// are named by their rows.
std::pair<std::string, std::string> broken_view(
    const at::Tensor& packed, const std::vector<std::pair<const char*, int64_t>>& views) {
  if (!packed.defined() || all_finite(packed)) return {};
  const at::Tensor rows =
      packed.permute({0, 2, 1, 3}).reshape({packed.size(0) * packed.size(2), -1});
  int64_t begin = 0;
  for (const auto& [name, count] : views) {
    const std::string what = broken(rows.slice(0, begin, begin + count).contiguous());
    if (!what.empty()) return {name, what};
    begin += count;
  }
  return {};
}

}  // namespace

bool all_finite(const at::Tensor& x) {
  const at::Tensor own = x.contiguous();
  if (own.is_cpu()) {
    const void* data = own.const_data_ptr();
    switch (own.scalar_type()) {
      case at::kFloat:
        return finite_bits<uint32_t>(data, own.numel(), 0x7f800000u);
      case at::kBFloat16:
        return finite_bits<uint16_t>(data, own.numel(), 0x7f80u);
      case at::kHalf:
        return finite_bits<uint16_t>(data, own.numel(), 0x7c00u);
      default:
        break;
    }
  }
  return own.isfinite().all().item<bool>();
}

bool usable_logits(const float* logits, int64_t count) {
  constexpr uint32_t kExponent = 0x7f800000u, kMasked = 0xff800000u;  // -inf
  constexpr int64_t kLanes = 16;  // which a compiler can vectorise: a decode step waits for this
  uint32_t bad[kLanes] = {}, some[kLanes] = {};
  const auto look = [&](int64_t i, int64_t lane) {
    const uint32_t bits = std::bit_cast<uint32_t>(logits[i]);
    const auto finite = static_cast<uint32_t>((bits & kExponent) != kExponent);
    some[lane] |= finite;
    bad[lane] |= (finite | static_cast<uint32_t>(bits == kMasked)) ^ 1u;
  };
  const int64_t whole = count / kLanes * kLanes;
  for (int64_t i = 0; i < whole; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) look(i + lane, lane);
  }
  for (int64_t i = whole; i < count; ++i) look(i, 0);
  const auto set = [](uint32_t bit) { return bit != 0; };
  return std::none_of(bad, bad + kLanes, set) && std::any_of(some, some + kLanes, set);
}

int64_t first_unusable_row(const at::Tensor& logits) {
  const at::Tensor own = logits.contiguous();
  const float* data = own.const_data_ptr<float>();
  const int64_t vocab = own.size(1);
  std::atomic<int64_t> first{own.size(0)};
  parallel_rows(own.size(0), std::max<int64_t>(1, kGrain / vocab), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end && row < first.load(std::memory_order_relaxed); ++row) {
      if (usable_logits(data + row * vocab, vocab)) continue;
      int64_t known = first.load();
      while (row < known && !first.compare_exchange_weak(known, row)) {
      }
      return;
    }
  });
  return first.load() == own.size(0) ? -1 : first.load();
}

std::string first_broken_weight(const torch::nn::Module& model) {
  at::NoGradGuard no_grad;
  const auto message = [](const std::string& module, const std::string& weight,
                          const std::string& what) {
    const std::string path = module + "." + weight;
    return str_cat("weight '", module == "lm_head" ? path : "model." + path, "' holds ", what);
  };
  for (const auto& item : model.named_modules("", /*include_self=*/false)) {
    const torch::nn::Module& module = *item.value();
    for (const auto& parameter : module.named_parameters(/*recurse=*/false)) {
      const std::string what = broken(parameter.value());
      if (!what.empty()) return message(item.key(), parameter.key(), what);
    }
    std::pair<std::string, std::string> found;  // what is packed is no parameter
    if (const auto* linear = module.as<LinearImpl>()) {
      const at::Tensor& packed = PackAccess::packed(*linear);
      if (packed.defined()) {
        found = broken_view(packed, {{"weight", packed.size(0) * packed.size(2)}});
      }
    } else if (const auto* attention = module.as<ChunkedLlamaAttentionImpl>()) {
      found = broken_view(PackAccess::packed_qkv(*attention), PackAccess::qkv_rows(*attention));
    } else if (const auto* mlp = module.as<LlamaMlpImpl>()) {
      found = broken_view(mlp->packed_gate_up(), mlp->gate_up_rows());
    }
    if (!found.first.empty()) return message(item.key(), found.first, found.second);
  }
  return "";
}

}  // namespace rillkv
