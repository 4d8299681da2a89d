// Launches that take a chunk into the cache; see ingest_params.h and launch.h.
#pragma once

#include "kernels/cuda/ingest_params.h"
#include "kernels/cuda/queue.h"

namespace rillkv::kernels::cuda {

/// One launch. `sequences`: of params.steps, else 1. Throws std::invalid_argument where values are
/// rotated and head_dim is no power of two.
void ingest(Queue& queue, IngestParams params, int sequences);

/// One launch; params.blocks <= kMaxBlocksPerPack.
void pack(Queue& queue, PackParams params);
/// Floats of params.scratch; 0 without error feedback, and for the shapes that are packed from
/// shared memory alone.
size_t pack_scratch_floats(const PackParams& params);

}  // namespace rillkv::kernels::cuda
