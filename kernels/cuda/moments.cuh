// The second moment of a kv head's queries (kernels/feedback.h, step 1), for
// rillkv_ingest_feedback_*.
//
// A warp has a tile of 16 x 16 (moment_layout.h), a lane 4 x 2 of its elements in registers, and a
// CTA up to four tiles of a row of tiles. The order of an element's sum is part of the format's
// byte identity, so steps (one of the group's heads of a token) are not split over threads: their
// channels go through shared memory as fp32, a round of steps at a time, and the next round's are
// on their way while this one's are multiplied.
#pragma once

#include "kernels/cuda/ingest_rows.cuh"
#include "kernels/moment_layout.h"

namespace rillkv::kernels::cuda {
namespace {

template <typename T>
class MomentTiles {
 public:
  /// cta: of MomentGrid.
  __device__ MomentTiles(const IngestParams& p, const Sequence& s, int cta)
      : p_(p),
        s_(s),
        group_(p.heads / p.kv_heads),
        part_(cta, p.head_dim),
        queries_(static_cast<const T*>(p.queries.data) + s.row * p.queries.token_stride +
                 static_cast<int64_t>(part_.kv_head) * group_ * p.queries.head_stride),
        wide_(chunks_fit<T>(queries_, p.queries.token_stride, p.queries.head_stride, p.head_dim)),
        chunk_(static_cast<int>(threadIdx.x) % kChunks),
        step_(static_cast<int>(threadIdx.x) / kChunks),
        token_(step_ / group_),
        head_(step_ % group_) {
    const int c = chunk_ * kElements;
    channel_ =
        c < kMomentTile ? kMomentTile * part_.row + c : kMomentTile * (part_.first_column - 1) + c;
  }

  __device__ void run() {
    const auto size = static_cast<int64_t>(moment_floats(p_.head_dim));
    float* moment = s_.moments + part_.kv_head * size;
    const int steps = s_.tokens * group_, sinks = s_.sink_tokens * group_;
    // Where the open block is full. A step's is completed by the launch that packs it.
    int full = p_.steps != nullptr ? steps + 1 : sinks + (p_.block_size - s_.tail_count) * group_;
    float* snapshot = s_.block_moments + part_.kv_head * size;
    if (has_tile()) read(moment);
    load();
    for (int first = 0; first < steps; first += kRound) {
      if (first > 0) __syncthreads();
      stage(first, steps);
      __syncthreads();
      load();
      const int end = min(first + kRound, steps);
      if (!has_tile()) continue;
      for (int at = max(first, sinks); at < end;) {
        const int stop = min(end, full);
        add(at - first, stop - first);
        at = stop;
        if (stop < full) continue;
        write(snapshot);
        scale(p_.keep);
        snapshot += p_.kv_heads * size;
        full += p_.block_size * group_;
      }
    }
    if (has_tile()) write(moment);
  }

 private:
  static constexpr int kColumns = kMomentTile * (1 + MomentGrid::kTiles);  // of a staged step: the
      // rows', then the columns'
  static constexpr int kElements = Chunk<T>::kElements, kChunks = kColumns / kElements;
  static constexpr int kPass = kIngestThreads / kChunks, kPasses = 5;  // steps at once
  static constexpr int kRound = kPass * kPasses;
  static_assert(kRound * kColumns * sizeof(float) <= MomentGrid::kSharedBytes);

  __device__ int tile() const { return part_.first_column + warp_id(); }
  __device__ bool has_tile() const { return tile() <= part_.row; }
  __device__ static int row() { return lane_id() / 8 * 4; }     // of the tile, the first of four
  __device__ static int column() { return lane_id() % 8 * 2; }  // the first of two
  __device__ static float* staged() { return reinterpret_cast<float*>(shared_memory); }

  /// The next round's chunks of this thread.
  __device__ void load() {
    if (!wide_) return;
#pragma unroll
    for (int n = 0; n < kPasses; ++n) {
      if (step_ < kPass && channel_ < p_.head_dim && token_ < s_.tokens) {
        ahead_[n] = *reinterpret_cast<const uint4*>(queries_ + token_ * p_.queries.token_stride +
                                                    head_ * p_.queries.head_stride + channel_);
      } else {
        ahead_[n] = {0, 0, 0, 0};
      }
      token_ += kPass / group_;
      head_ += kPass % group_;
      if (head_ >= group_) {
        head_ -= group_;
        ++token_;
      }
    }
  }

  /// Steps first ... to shared memory; zeros where there is no channel.
  __device__ void stage(int first, int steps) const {
    if (!wide_) return stage_elements(first, steps);
    if (step_ >= kPass) return;
#pragma unroll
    for (int n = 0; n < kPasses; ++n) {
      const int step = step_ + n * kPass;
      float* to = staged() + step * kColumns + chunk_ * kElements;
      const Chunk<T> x = {ahead_[n]};
      uint32_t most = 0;
#pragma unroll
      for (int i = 0; i < kElements; i += 4) {
        const float4 four = {x.element(i), x.element(i + 1), x.element(i + 2), x.element(i + 3)};
        *reinterpret_cast<float4*>(to + i) = four;
        most = max(max(max(most, magnitude_bits(four.x)), magnitude_bits(four.y)),
                   max(magnitude_bits(four.z), magnitude_bits(four.w)));
      }
      if (checks(chunk_ * kElements)) check_step(first + step, most);
    }
  }
  __device__ void stage_elements(int first, int steps) const {
#pragma unroll 4
    for (int i = static_cast<int>(threadIdx.x); i < kRound * kColumns; i += kIngestThreads) {
      const int step = first + i / kColumns, c = i % kColumns;
      const int channel = c < kMomentTile ? kMomentTile * part_.row + c
                                          : kMomentTile * (part_.first_column - 1) + c;
      float x = 0.0f;
      if (step < steps && channel < p_.head_dim) {
        x = to_float(queries_[step / group_ * p_.queries.token_stride +
                              step % group_ * p_.queries.head_stride + channel]);
        if (checks(c)) check_step(step, magnitude_bits(x));
      }
      staged()[i] = x;
    }
  }
  /// One CTA looks at each channel.
  __device__ bool checks(int column) const {
    return column < kMomentTile && part_.first_column == 0;
  }
  __device__ void check_step(int step, uint32_t most) const {
    if (most <= __float_as_uint(format::kMaxMagnitude)) return;
    check(p_, s_, What::kQueries, part_.kv_head * group_ + step % group_, most);
  }

  /// Steps begin .. end - 1 of the round.
  __device__ void add(int begin, int end) {
    const float* rows = staged() + begin * kColumns + row();
    const float* columns = staged() + begin * kColumns + kMomentTile * (1 + warp_id()) + column();
#pragma unroll 4
    for (int i = begin; i < end; ++i) {
      const float4 four = *reinterpret_cast<const float4*>(rows);
      const float2 two = *reinterpret_cast<const float2*>(columns);
      const float q[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        sum_[r].x = __fmaf_rn(q[r], two.x, sum_[r].x);
        sum_[r].y = __fmaf_rn(q[r], two.y, sum_[r].y);
      }
      rows += kColumns;
      columns += kColumns;
    }
  }
  __device__ void scale(float factor) {
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      sum_[r] = {__fmul_rn(sum_[r].x, factor), __fmul_rn(sum_[r].y, factor)};
    }
  }
  __device__ int64_t place(int r) const {
    return static_cast<int64_t>(moment_row(kMomentTile * part_.row + row() + r)) +
           kMomentTile * tile() + column();
  }
  __device__ void read(const float* moment) {
#pragma unroll
    for (int r = 0; r < 4; ++r) sum_[r] = *reinterpret_cast<const float2*>(moment + place(r));
  }
  __device__ void write(float* moment) const {
#pragma unroll
    for (int r = 0; r < 4; ++r) *reinterpret_cast<float2*>(moment + place(r)) = sum_[r];
  }

  const IngestParams& p_;
  const Sequence& s_;
  const int group_;
  const MomentGrid::Part part_;
  const T* queries_;
  const bool wide_;
  const int chunk_, step_;  // of this thread, of those that are loaded at once
  int token_, head_;        // that it loads next
  int channel_;
  uint4 ahead_[kPasses];
  float2 sum_[4];
};

}  // namespace
}  // namespace rillkv::kernels::cuda
