// What the layers of one CUDA cache of policy "adaptive" or "trellis" share in device memory:
// tables of blocks, statistics, and the word that says what could not be quantised.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "core/adaptive_layout.h"
#include "core/cuda_backend.h"
#include "kernels/cuda/sequence_step.h"
#include "rillkv/cache_geometry.h"

namespace rillkv {

/// Device memory of all layers; written by kernels, so that nothing comes to the host or goes from
/// it while tokens are appended. Used by one thread at a time.
class CudaCacheState {
 public:
  CudaCacheState(const CacheGeometry& geometry, const AdaptiveLayout& layout, CudaBackend& backend);

  /// Room for so many blocks in every layer's tables. A larger table is a copy of the old one.
  void ensure_blocks(int64_t count);
  const uint8_t** key_table(int64_t layer) const { return table(layer, 0); }  // [blocks, kv_heads]
  const uint8_t** value_table(int64_t layer) const { return table(layer, 1); }
  /// Clipped value codes of a block.
  unsigned long long* clipped(int64_t layer, int64_t block) const;
  /// The same of blocks [first, end), on the CPU: waits for the device.
  std::vector<int64_t> read_clipped(int64_t layer, int64_t first, int64_t end) const;

  /// Without error feedback; null with it.
  float* energy_sums(int64_t layer) const { return energy(layer, 0); }     // [heads, head_dim]
  float* energy_ema(int64_t layer) const { return energy(layer, sums_); }  // [kv_heads, head_dim]
  float* energies(int64_t layer) const { return energy(layer, sums_ + ema_); }     // the same
  float* preview(int64_t layer) const { return energy(layer, sums_ + 2 * ema_); }  // the same

  /// With error feedback; null without it.
  bool error_feedback() const { return moments_.defined(); }
  float* moments(int64_t layer) const;  // [kv_heads, moment_floats(head_dim)]
  const float* distances() const;       // as AdaptiveLayout has them

  /// What a layer adds to its LayerState: sinks (null: none) and the tail.
  struct Places {
    at::Tensor sink_keys, sink_values, tail_keys, tail_values;
  };
  void set_places(int64_t layer, Places places);
  /// [layers], on the device, as things are now.
  const kernels::cuda::LayerState* layer_states();

  /// See kernels::cuda::IngestParams::error.
  const at::Tensor& error() const { return error_; }  // [1] i64
  unsigned long long* error_word() const;
  /// What an error word other than 0 says, and the layer it names.
  static std::string describe_error(uint64_t word);
  static int64_t layer_of_error(uint64_t word) { return static_cast<int64_t>(word >> 16 & 0xffff); }

  /// Forgets statistics, counts and errors; tables stay, their entries do not count.
  void reset();
  /// What kernels may read or write, but for the layers' places.
  std::vector<at::Tensor> tensors() const;

 private:
  const uint8_t** table(int64_t layer, int64_t side) const;
  float* energy(int64_t layer, int64_t offset) const;

  CudaBackend& backend_;
  int64_t layers_, kv_heads_;
  int64_t sums_, ema_;          // numbers of a layer
  int64_t capacity_ = 0;        // blocks
  at::Tensor tables_;           // [layers, 2, capacity, kv_heads] i64: pointers to keys, values
  at::Tensor clipped_;          // [layers, capacity] i64
  at::Tensor energies_;         // [layers, sums + 3 * ema] f32; undefined with error feedback
  at::Tensor moments_;          // [layers, kv_heads * moment_floats] f32; undefined without it
  at::Tensor distances_;        // the same
  at::Tensor error_;            // [1] i64
  std::vector<Places> places_;  // [layers]
  at::Tensor states_;           // [layers] LayerState, as bytes
  bool states_are_old_ = true;
};

}  // namespace rillkv
