// One decoder layer.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "core/huge_page_arena.h"
#include "model/pass.h"
#include "model/weight.h"
#include "rillkv/chunked_attention.h"
#include "rillkv/inference_module.h"
#include "rillkv/linear.h"
#include "rillkv/model_config.h"

namespace rillkv {

// Where `backend` is given, kernels of ours on its device; otherwise the CPU's.

/// x * rsqrt(mean(x^2) + eps) * weight, in f32 and rounded once; x: [rows, columns].
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps,
                    CudaBackend* backend = nullptr);
/// The same of x + delta, which replaces x; delta: undefined for none.
at::Tensor add_rms_norm(at::Tensor& x, const at::Tensor& delta, const at::Tensor& weight,
                        double eps, CudaBackend* backend = nullptr);

/// gate_up: [rows, 2 * columns] -> silu(gate) * up, [rows, columns], in f32 and rounded once.
at::Tensor gate(const at::Tensor& gate_up, CudaBackend* backend = nullptr);

/// down(silu(gate(x)) * up(x)); gate and up are one fused weight.
class LlamaMlpImpl : public InferenceModule {
 public:
  LlamaMlpImpl(const ModelConfig& config, at::ScalarType dtype, at::Device device);
  at::Tensor forward(const at::Tensor& x, CudaBackend* backend) const;
  void pack(HugePageArena* arena);
  /// See PackAccess::packed; whose rows are whose in the fused weight.
  const at::Tensor& packed_gate_up() const;
  std::vector<std::pair<const char*, int64_t>> gate_up_rows() const {
    return {{"gate_proj.weight", intermediate_}, {"up_proj.weight", intermediate_}};
  }

 private:
  int64_t intermediate_;
  Linear gate_up_{nullptr};  // the fused weight; its views are the submodules
  Linear gate_proj_{nullptr}, up_proj_{nullptr}, down_proj_{nullptr};
};
TORCH_MODULE(LlamaMlp);

/// x + attention(norm(x)), then x + mlp(norm(x)). The second sum is left to the next norm, which
/// needs a pass over x anyway: a layer takes and leaves x with a pending delta.
class LlamaLayerImpl : public InferenceModule {
 public:
  LlamaLayerImpl(const ModelConfig& config, int64_t layer, at::ScalarType dtype, at::Device device);
  /// hidden: [tokens, hidden_size], updated in place; delta: what is still to be added to it (may
  /// be undefined). Returns the new delta.
  at::Tensor forward(at::Tensor& hidden, const at::Tensor& delta, const Pass& pass) const;
  /// The last layer, of which only some rows are asked for: the caches take all tokens, the MLP
  /// sees `rows` alone. rows: [n] int64 on hidden's device. Returns hidden states without anything
  /// pending, [n, hidden_size].
  at::Tensor forward_rows(at::Tensor& hidden, const at::Tensor& delta, const Pass& pass,
                          const at::Tensor& rows) const;
  void pack(HugePageArena* arena);
  /// To be called where parameters have been written after `pack`.
  void refold();
  /// Whether all of its matrix products are our own kernels': Torch's open parallel regions.
  bool packed() const { return packed_; }

 private:
  double eps_;
  bool packed_ = false;
  Weight input_norm_{nullptr}, post_attention_norm_{nullptr};  // [hidden]
  ChunkedLlamaAttention attention_{nullptr};
  LlamaMlp mlp_{nullptr};
};

}  // namespace rillkv
