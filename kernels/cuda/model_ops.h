// Launches that a model needs besides attention and the cache; see model_params.h and launch.h.
// Each is one launch (set_ids and begin_pass: one for every kMaxIdsPerLaunch, kMaxStepsPerLaunch).
#pragma once

#include "kernels/cuda/model_params.h"
#include "kernels/cuda/queue.h"

namespace rillkv::kernels::cuda {

void rms_norm(Queue& queue, const NormParams& params);
void gate(Queue& queue, const GateParams& params);
void embed(Queue& queue, const EmbedParams& params);
/// `ids` [count] is host memory, read before the call returns.
void set_ids(Queue& queue, const int32_t* ids, int count, int32_t* out);
/// `values` and `ids` [count] are host memory, read before the call returns; of params, all but
/// values, ids, first and count is given.
void begin_pass(Queue& queue, const BeginPassParams& params, const SequenceStep* values,
                const int32_t* ids, int count);
void rope_rows(Queue& queue, const RopeRowsParams& params);

}  // namespace rillkv::kernels::cuda
