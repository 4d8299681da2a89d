// Decoding on a CUDA device without the host between the layers.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/cuda_backend.h"
#include "core/cuda_sequence.h"
#include "core/device_rotation_table.h"
#include "rillkv/kv_cache.h"

namespace rillkv {

/// What a pass leaves on a device that the host needs.
struct PassResult {
  at::Tensor logits;             // on the CPU, as they were; undefined if they were
  std::vector<uint64_t> errors;  // error words of the sequences
};
/// Brings it to the host with one wait, or none where there is nothing. sequences: null where a
/// cache notes no errors, whose word is 0.
PassResult await_pass(CudaBackend& backend, const at::Tensor& logits,
                      const std::vector<CudaSequence*>& sequences);

/// One token of each of several sequences: one launch tells the device where every sequence is,
/// then come launches that are the same for every token, whichever caches they are for, and one
/// wait for the logits. The second pass of a number of sequences is captured as a CUDA graph, later
/// ones replay it. Not thread-safe.
class DeviceDecoder {
 public:
  DeviceDecoder(std::shared_ptr<CudaBackend> backend, at::ScalarType dtype)
      : backend_(std::move(backend)), dtype_(dtype) {}

  /// The caches' CUDA sides if all of them can take a step together; empty otherwise.
  static std::vector<CudaSequence*> sequences_of(const std::vector<QuantizedKvCache*>& caches);

  /// Attention of a layer: a row of q [rows, heads, head_dim], k and v [rows, kv_heads, head_dim] a
  /// sequence -> [rows, heads, head_dim].
  using Attend = std::function<at::Tensor(int64_t layer, const at::Tensor& q, const at::Tensor& k,
                                          const at::Tensor& v)>;
  /// The model's part: token ids [rows] i32 on the device -> logits [rows, vocab].
  using Layers = std::function<at::Tensor(const at::Tensor& ids, const Attend& attend)>;
  /// Whether the sequences are of one geometry and configuration, and the fast decode kernels take
  /// them; of others, each cache attends by itself.
  bool takes(const std::vector<CudaSequence*>& sequences);
  /// Of sequences that it takes; ids: a token of each. `layers` may be called now or never again;
  /// it must do the same work each time. Logits: [sequences, vocab].
  PassResult run(const std::vector<CudaSequence*>& sequences, const std::vector<int32_t>& ids,
                 const Layers& layers);

 private:
  /// What was seen, or captured, of a number of sequences and a size of context.
  struct Shape {
    std::unique_ptr<CudaGraph> graph;
    at::Tensor logits;
  };

  void begin(const std::vector<CudaSequence*>& sequences, const std::vector<int32_t>& ids);
  at::Tensor attend(CudaSequence& first, int64_t planned_blocks, int64_t layer, const at::Tensor& q,
                    const at::Tensor& k, const at::Tensor& v);

  std::shared_ptr<CudaBackend> backend_;
  at::ScalarType dtype_;
  std::optional<uint64_t> stream_;  // of the last pass
  std::string kind_;                // geometry and configuration of what follows
  std::vector<uint64_t> known_;     // sequences of the last pass: they are of that kind
  std::unique_ptr<DeviceRotationTable> rotations_;
  at::Tensor steps_;                                     // [capacity] SequenceStep, as bytes
  at::Tensor ids_;                                       // [capacity] i32
  std::map<std::pair<int64_t, int64_t>, Shape> shapes_;  // of (sequences, blocks planned for)
};

}  // namespace rillkv
