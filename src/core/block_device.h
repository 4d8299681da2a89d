// What a compressed layer asks of the device that holds its packed bytes: measure a chunk, seal a
// block, attend. A chunk goes down once and what was found in it comes back as a value; what is
// decided from it, and all state but packed bytes and the kernels' tables, is PackedLayerCache's.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "core/block_layout.h"
#include "kernels/params.h"
#include "rillkv/quantizer.h"
#include "rillkv/sealed_block.h"

namespace rillkv {

class CpuRotationTable;
class CudaBackend;
class DeviceRotationTable;
class HugePageArena;

/// Rows [begin, end) of a chunk.
struct Span {
  int64_t begin = 0, end = 0;
  int64_t count() const { return end - begin; }
};

/// The new tokens of one layer, before RoPE and with contiguous channels, and where they go.
struct Chunk {
  const at::Tensor& q;       // [tokens, heads, head_dim]
  const at::Tensor& k;       // [tokens, kv_heads, head_dim]
  const at::Tensor& v;       // [tokens, kv_heads, head_dim]
  Span sinks;                // the first of them; may be empty
  std::vector<Span> blocks;  // what each block takes of the rest, oldest first
};

/// What `measure` found in a chunk.
struct Measured {
  /// The values as they are stored: rotated where the quantiser rotates them.
  at::Tensor values;  // [tokens, kv_heads, head_dim]
  /// Policy "ema": the largest magnitudes after the sinks; undefined where no token is.
  at::Tensor key_absmax, value_absmax;  // [kv_heads, head_dim] f32, on the CPU
  /// Policies "adaptive" and "trellis": QueryEnergy's sums, or with error feedback QueryMoment's
  /// moments, at the end of each of the chunk's block spans. Empty for one token on the CPU, where
  /// they read the query itself.
  std::vector<at::Tensor> query_sums;  // f32, on the CPU
};

/// A block to be sealed.
struct OpenBlock {
  int64_t index = 0;        // in the tables that the kernels read
  at::Tensor keys, values;  // [tokens, kv_heads, head_dim], as they are stored
  bool keep = true;         // false: the stress protocol's provisional block
  /// "adaptive": QueryEnergy's energies, or with error feedback QueryMoment's moments.
  at::Tensor query_statistics;
  ChannelScales key_scales, value_scales;  // "ema"
};

/// A layer's attention sinks, packed (16 bits: fp16 rows of keys before RoPE and of values as
/// `Measured::values` has them, rounded to the model's dtype); undefined where the configuration
/// has none.
struct PackedSinks {
  at::Tensor keys, values;  // [kv_heads, bytes] u8
};
PackedSinks allocate_sinks(const QuantizerOptions& options, at::Device device);

/// Packed bytes of one layer and the kernels that write and read them. Used by one thread at a
/// time.
class BlockDevice {
 public:
  virtual ~BlockDevice() = default;

  /// `query_sums`: of the open block, see Measured. Changes nothing; throws Error unless every
  /// key, value and (policy "adaptive") query can be quantised.
  virtual Measured measure(const Chunk& chunk, const at::Tensor& query_sums) = 0;

  /// Packs tokens as sinks `first` and on.
  virtual void seal_sinks(const at::Tensor& keys, const at::Tensor& values, int64_t first) = 0;
  /// Packs a block and enters it in the tables. Its tally may be incomplete until `settle`.
  virtual std::shared_ptr<SealedBlock> seal(const OpenBlock& open) = 0;

  /// Runs the kernels; all of `params` is given but the tables of blocks.
  virtual void attend(const kernels::AttentionParams& params) = 0;

  /// Completes the tallies of a layer's blocks.
  virtual void settle(const std::vector<std::shared_ptr<SealedBlock>>& blocks) = 0;
  virtual const PackedSinks& sinks() const = 0;
  /// Forgets sinks and blocks.
  virtual void reset() = 0;
};

/// `rotations` and `memory`, of sealed blocks, must outlive the device; a sequence's layers share
/// them.
std::unique_ptr<BlockDevice> make_cpu_block_device(Quantizer quantizer,
                                                   const CpuRotationTable& rotations,
                                                   HugePageArena& memory);
/// `rotations` and `backend` must outlive the device; a sequence's layers share them. Throws Error
/// for a head_dim that no CUDA kernel takes.
std::unique_ptr<BlockDevice> make_cuda_block_device(Quantizer quantizer,
                                                    const DeviceRotationTable& rotations,
                                                    CudaBackend& backend);

}  // namespace rillkv
