#include "core/device_decoder.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <string>
#include <string_view>

#include "core/assert.h"
#include "core/cache_access.h"
#include "core/cuda_runner.h"
#include "kernels/cuda/ingest.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/model_ops.h"
#include "rillkv/error.h"

namespace rillkv {
namespace {

namespace cuda = kernels::cuda;

constexpr size_t kMostShapes = 32;  // each keeps a pass's activations

bool graphs_are_wanted() {
  const char* setting = std::getenv("RILLKV_CUDA_GRAPHS");
  if (setting == nullptr || std::string_view(setting) == "1") return true;
  if (std::string_view(setting) == "0") return false;
  throw UsageError(str_cat("expected RILLKV_CUDA_GRAPHS=0 or 1, got '", setting, "'"));
}

std::string kind_of(const CudaSequence& sequence) {
  const CacheGeometry& g = sequence.geometry();
  std::string kind = str_cat(g.layers, " ", g.heads, " ", g.kv_heads, " ", g.head_dim, " ",
                             sequence.options().config.to_json());
  for (double frequency : g.inverse_frequencies) {
    kind += str_cat(" ", std::bit_cast<uint64_t>(frequency));
  }
  return kind;
}

}  // namespace

PassResult await_pass(CudaBackend& backend, const at::Tensor& logits,
                      const std::vector<CudaSequence*>& sequences) {
  PassResult result;
  result.errors.resize(sequences.size());
  std::vector<Download> copies;
  if (logits.defined()) {
    result.logits = at::empty(logits.sizes(), logits.options().device(at::kCPU));
    copies.push_back({logits, result.logits.mutable_data_ptr()});
  }
  for (size_t i = 0; i < sequences.size(); ++i) {
    if (sequences[i] != nullptr) {
      copies.push_back({sequences[i]->state().error(), &result.errors[i]});
    }
  }
  if (!copies.empty()) backend.download(copies);
  return result;
}

std::vector<CudaSequence*> DeviceDecoder::sequences_of(
    const std::vector<QuantizedKvCache*>& caches) {
  std::vector<CudaSequence*> sequences;
  for (QuantizedKvCache* cache : caches) {
    CudaSequence* sequence = CacheAccess::cuda(*cache);
    if (sequence == nullptr || !sequence->can_step()) return {};
    sequences.push_back(sequence);
  }
  return sequences;
}

bool DeviceDecoder::takes(const std::vector<CudaSequence*>& sequences) {
  if (sequences.empty()) return false;
  std::vector<uint64_t> ids;
  for (const CudaSequence* sequence : sequences) ids.push_back(sequence->id());
  if (ids == known_) return true;
  const std::string kind = kind_of(*sequences.front());
  for (const CudaSequence* sequence : sequences) {
    if (kind_of(*sequence) != kind) return false;
  }
  if (kind != kind_) {
    CudaSequence& first = *sequences.front();
    const CacheGeometry& g = first.geometry();
    const at::Tensor q = at::empty({1, g.heads, g.head_dim},
                                   at::TensorOptions().dtype(dtype_).device(backend_->device()));
    at::Tensor out = at::empty_like(q);
    if (!cuda::attend_steps_takes(backend_->queue(), first.layer(0).step_params(q, out))) {
      return false;
    }
    shapes_.clear();
    kind_ = kind;
    const CompressionConfig& config = first.options().config;
    rotations_ = std::make_unique<DeviceRotationTable>(
        g.inverse_frequencies, config.attention_sink_size, config.block_size, *backend_);
  }
  known_ = std::move(ids);
  return true;
}

void DeviceDecoder::begin(const std::vector<CudaSequence*>& sequences,
                          const std::vector<int32_t>& ids) {
  const auto count = static_cast<int64_t>(sequences.size());
  if (!ids_.defined() || ids_.size(0) < count) {
    shapes_.clear();  // they hold the old places
    const auto options = at::TensorOptions().device(backend_->device());
    const auto capacity = static_cast<int64_t>(std::bit_ceil(sequences.size()));
    ids_ = at::empty({capacity}, options.dtype(at::kInt));
    steps_ = at::empty({capacity * static_cast<int64_t>(sizeof(cuda::SequenceStep))},
                       options.dtype(at::kByte));
  }
  std::vector<cuda::SequenceStep> steps;
  for (CudaSequence* sequence : sequences) steps.push_back(sequence->begin_step());
  cuda::BeginPassParams p;
  p.steps = reinterpret_cast<cuda::SequenceStep*>(steps_.mutable_data_ptr<uint8_t>());
  p.ids_out = ids_.mutable_data_ptr<int32_t>();
  p.head_dim = static_cast<int32_t>(sequences.front()->geometry().head_dim);
  p.block_size = static_cast<int32_t>(sequences.front()->options().config.block_size);
  p.in_block_cos = rotations_->in_block().in_block_cos;
  p.in_block_sin = rotations_->in_block().in_block_sin;
  cuda::begin_pass(backend_->queue(), p, steps.data(), ids.data(), static_cast<int>(count));
}

at::Tensor DeviceDecoder::attend(CudaSequence& first, int64_t planned_blocks, int64_t layer,
                                 const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  const int64_t count = q.size(0);
  const CompressionConfig& config = first.options().config;
  const auto* steps = reinterpret_cast<const cuda::SequenceStep*>(steps_.const_data_ptr<uint8_t>());
  at::Tensor out = at::empty({q.size(0), q.size(1), q.size(2)}, q.options());
  cuda::AttentionParams shape = first.layer(layer).step_params(q, out);
  cuda::IngestParams p = ingest_params(q, k, v, config.block_size, shape.rotate_output);
  p.layer = static_cast<int32_t>(layer);
  p.keep = static_cast<float>(config.query_energy_decay);
  p.take = static_cast<float>(1 - config.query_energy_decay);
  p.error_feedback = config.feeds_back() ? 1 : 0;
  p.steps = steps;
  cuda::ingest(backend_->queue(), p, static_cast<int>(count));
  // Nothing of one cache's: a graph outlives it.
  shape.rotations = rotations_->in_block();
  shape.in_block_half = rotations_->in_block_half();
  shape.prefix.sink_cos = rotations_->sink_cos();
  shape.prefix.sink_sin = rotations_->sink_sin();
  shape.prefix.block_count = static_cast<int32_t>(planned_blocks);
  shape.tail.count = shape.block_size;
  cuda::Queue& queue = backend_->queue();
  const size_t bytes = cuda::attend_steps_workspace_bytes(queue, shape, static_cast<int>(count));
  const at::Tensor workspace =
      at::empty({static_cast<int64_t>(bytes)}, q.options().dtype(at::kByte));
  cuda::attend_steps(queue, shape, steps, static_cast<int>(count), static_cast<int>(layer),
                     workspace.mutable_data_ptr(), bytes);
  return out;
}

PassResult DeviceDecoder::run(const std::vector<CudaSequence*>& sequences,
                              const std::vector<int32_t>& ids, const Layers& layers) {
  RILLKV_ASSERT(takes(sequences));
  const uint64_t now = backend_->stream();
  if (stream_ && *stream_ != now) {
    std::vector<at::Tensor> used = rotations_->tensors();
    used.insert(used.end(), {steps_, ids_});
    for (const auto& [key, shape] : shapes_) used.push_back(shape.logits);
    backend_->follow(*stream_, used);
  }
  stream_ = now;
  begin(sequences, ids);

  const auto count = static_cast<int64_t>(sequences.size());
  int64_t blocks = 1;
  for (CudaSequence* sequence : sequences) {
    blocks = std::max(blocks, sequence->layer(0).block_count());
  }
  // The split of the keys is planned for this many: another graph when the context has doubled.
  blocks = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(blocks)));
  if (shapes_.size() >= kMostShapes && shapes_.find({count, blocks}) == shapes_.end()) {
    shapes_.clear();
  }
  const bool seen = shapes_.find({count, blocks}) != shapes_.end();
  Shape& shape = shapes_[{count, blocks}];
  const auto work = [&] {
    shape.logits = layers(ids_.slice(0, 0, count), [&](int64_t layer, const at::Tensor& q,
                                                       const at::Tensor& k, const at::Tensor& v) {
      return attend(*sequences.front(), blocks, layer, q, k, v);
    });
  };
  if (shape.graph == nullptr && graphs_are_wanted()) {
    if (seen) {
      shape.graph = backend_->capture(work);
    } else {
      backend_->prepare(work);
    }
  }
  if (shape.graph != nullptr) {
    shape.graph->replay();
  } else if (seen || !graphs_are_wanted()) {
    work();
  }

  PassResult result = await_pass(*backend_, shape.logits, sequences);
  for (CudaSequence* sequence : sequences) sequence->end_step();
  return result;
}

}  // namespace rillkv
