// Trellis-coded keys, a register of S::kLanes tokens of one channel at a time; S: see
// simd_concept.h. scalar/trellis.cpp defines what the bytes are; its lines stand above the groups
// of vector operations that repeat them. Values: trellis_values.h.
//
// Channels come one after the other, as error feedback has it, so only the search itself is a chain
// (trellis_path.h): the distances of all tokens are computed before it, four lanes a token, and
// levels, codes and planes after it.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/cpu/generic/feedback.h"
#include "kernels/cpu/generic/trellis_path.h"
#include "kernels/cpu/generic/trellis_steps.h"
#include "kernels/cpu/generic/trellis_values.h"
#include "kernels/cpu/isa.h"
#include "kernels/planes.h"
#include "kernels/steps8.h"
#include "kernels/trellis.h"

namespace rillkv::kernels::cpu {
namespace {

/// kDistanceSubsets again and again.
template <int kLanes>
struct LaneSubsets {
  alignas(64) float lanes[kLanes];
  constexpr LaneSubsets() : lanes() {
    for (int i = 0; i < kLanes; ++i) lanes[i] = kDistanceSubsets[i % 4];
  }
};
template <int kLanes>
inline constexpr LaneSubsets<kLanes> kLaneSubsets;

/// z0 and z1 of every token from u, as bits of 64 tokens a word.
template <int kWords>
struct SubsetBits {
  uint64_t low[kWords], high[kWords];
  explicit RILLKV_INLINE SubsetBits(const uint64_t* path) {
    uint64_t before = 0;
    for (int i = 0; i < kWords; ++i) {
      const uint64_t u = path[i];
      low[i] = u << 2 | before >> 62;
      high[i] = u ^ (u << 1 | before >> 63) ^ (u << 3 | before >> 61);
      before = u;
    }
  }
};

/// The channels of a trellis key block, in any order: a coder of feed_back.
template <class S, int kBlock>
class TrellisCoder {
 public:
  /// Writes what does not depend on the keys.
  TrellisCoder(const PackParams& p, const uint8_t* widths, uint8_t* out)
      : head_dim_(p.head_dim), tokens_(p.tokens), widths_(widths), out_(out) {
    const int D = p.head_dim;
    std::memset(out, 0, format::trellis_key_path_offset(D));
    std::memcpy(out + format::trellis_widths_offset(D), widths, static_cast<size_t>(D) / 2);
    format::TrellisPlanes<uint8_t> at = format::trellis_key_planes(out, kBlock, D);
    path_ = at.path;
    for (int pair = 0; pair < D / 2; ++pair) {
      pairs_[pair] = at.b;
      for (int i = 0; i < 2; ++i) {
        format::advance(at, kBlock, format::first_width(widths[pair]));
      }
    }
    // `bits` has come to the end of the last plane; what follows is padding.
    const size_t end = static_cast<size_t>(at.b.bits - out);
    std::memset(at.b.bits, 0, format::align_up(end) - end);
    for (int t = 0; t < kBlock; ++t) counted_[t] = t < p.tokens ? -1 : 0;
  }

  void operator()(int c, const float* x, float* y) const {
    const int width = format::channel_width(widths_, c, head_dim_);
    const KeyLattice lattice =
        tokens_ == kBlock ? find_lattice<true>(x, width) : find_lattice<false>(x, width);
    const int16_t zero_bits = static_cast<int16_t>(static_cast<int32_t>(lattice.zero));
    std::memcpy(out_ + 2 * c, &zero_bits, 2);
    out_[format::trellis_step_offset(head_dim_) + static_cast<size_t>(c)] =
        static_cast<uint8_t>(lattice.step);

    // v = fma(x, inverse, -zero)
    alignas(64) float v[kBlock + L];
    const F inverses = S::set1(lattice.inverse), offset = S::set1(-lattice.zero);
#pragma GCC unroll 32
    for (int r = 0; r < kRegisters; ++r) {
      S::store(v + r * L, S::fma(S::load(x + r * L), inverses, offset));
    }
    uint64_t path[kWords] = {};
    search(v, width, path);
    reconstruct(c, v, path, width, format::step8(lattice.step), lattice.zero, y);
  }

 private:
  using F = typename S::F;
  using I = typename S::I;
  static constexpr int L = S::kLanes, kRegisters = kBlock / L;
  static constexpr int kWords = (kBlock + 63) / 64;
  static constexpr int kSums = 16 / L;

  template <bool kWhole>
  F counted(F x, int r) const {
    if constexpr (kWhole) return x;
    return S::as_float(S::bit_and(S::as_int(x), S::load_int(counted_ + r * L)));
  }

  /// steps_of and search_range of scalar/trellis.cpp. kWhole: the block has all its tokens.
  template <bool kWhole>
  KeyLattice find_lattice(const float* x, int width) const {
    F least = S::load(x), most = least, sums[kSums];
    for (F& sum : sums) sum = S::zero();
#pragma GCC unroll 32
    for (int r = 0; r < kRegisters; ++r) {
      const F keys = S::load(x + r * L);  // after the last token they repeat the first one's
      least = S::min(keys, least);
      most = S::max(keys, most);
      sums[r % kSums] = S::add(sums[r % kSums], counted<kWhole>(keys, r));
    }
    const KeySteps steps(S::reduce_min(least) + 0.0f, S::reduce_max(most) + 0.0f,
                         S::fold16(sums) / static_cast<float>(tokens_), width);
    // All errors before any is compared: what one candidate waits for, the next ones fill.
    const int candidates = key_candidates(width);
    float errors[kMostKeyCandidates];
    KeyRange ranges[kMostKeyCandidates];
    const F tops = S::set1(max_code(width)), none = S::zero();
    for (int k = 0; k < candidates; ++k) {
      ranges[k] = steps.candidate(k);
      const KeyLattice lattice = steps.scalar(ranges[k]);
      const F inverses = S::set1(lattice.inverse), offset = S::set1(-lattice.zero);
      for (F& sum : sums) sum = none;
#pragma GCC unroll 32
      for (int r = 0; r < kRegisters; ++r) {
        // v = fma(x, inverse, -zero); error = v - clamped(rint(v), 0, top)
        const F v = S::fma(S::load(x + r * L), inverses, offset);
        const F error = counted<kWhole>(S::sub(v, S::min(S::max(S::round(v), none), tops)), r);
        sums[r % kSums] = S::add(sums[r % kSums], S::mul(error, error));
      }
      const float size = format::step8(lattice.step);
      errors[k] = S::fold16(sums) * (size * size);
    }
    int best = 0;
    for (int k = 1; k < candidates; ++k) best = errors[k] < errors[best] ? k : best;
    return steps.trellis(ranges[best]);
  }

  void search(const float* v, int width, uint64_t* path) const {
    alignas(64) float distances[4 * kBlock];
    alignas(16) __m128i second[kBlock];
    const F subset = S::load(kLaneSubsets<L>.lanes), top = S::set1(max_code(width - 1));
#pragma GCC unroll 4
    for (int t = 0; t < kBlock; t += L / 4) {
      S::store(distances + 4 * t, subset_distance<S>(S::repeat_each4(v + t), subset, top));
    }
    trace_back(second, tokens_, advance_states(distances, tokens_, second), path);
  }

  void reconstruct(int c, const float* v, const uint64_t* path, int width, float step, float zero,
                   float* y) const {
    const SubsetBits<kWords> subsets(path);
    const auto bits = [](const uint64_t* words, int r) {
      return static_cast<uint32_t>(words[r * L / 64] >> r * L % 64);
    };
    const F top = S::set1(max_code(width - 1)), steps = S::set1(step), zeros = S::set1(zero);
    const F four = S::set1(4.0f);
    I b[kRegisters];
#pragma GCC unroll 32
    for (int r = 0; r < kRegisters; ++r) {
      const F subset = subset_of<S>(bits(subsets.low, r), bits(subsets.high, r));
      const F z = nearest_of_subset<S>(S::load(v + r * L), subset, top);
      // y = step * (zero + L)
      S::store(y + r * L, S::mul(steps, S::add(zeros, S::fma(four, z, subset))));
      b[r] = S::round_to_int(z);
    }
    if (tokens_ < kBlock) {
#pragma GCC unroll 32
      for (int r = 0; r < kRegisters; ++r) {
        b[r] = S::bit_and(b[r], S::load_int(counted_ + r * L));
      }
    }
    const int half = head_dim_ / 2;
    uint8_t* path_at = path_ + format::channel_position(c, head_dim_) *
                                   static_cast<int>(format::plane_bytes(kBlock, 1));
    format::Planes<uint8_t> at = pairs_[c < half ? c : c - half];
    if (c >= half) format::advance(at, kBlock, width - 1);
    if constexpr (kBlock >= 64) {
      const F one = S::as_float(S::set1_int(1));
      pack_plane_registers<S, kBlock, 1>(
          [&](int r) { return S::as_int(S::choose(bits(path, r), one, S::zero())); }, 0, path_at);
      if (width > 1) pack_registers<S, kBlock>([&](int r) { return b[r]; }, width - 1, at);
    } else {
      std::memcpy(path_at, path, kBlock / 8);  // a plane of 32 bits is one word
      alignas(64) uint8_t bytes[kBlock];
      for (int r = 0; r < kRegisters; ++r) S::store_bytes(bytes + r * L, b[r]);
      if (width > 1) format::pack_codes(bytes, kBlock, width - 1, at);
    }
  }

  int head_dim_, tokens_;
  const uint8_t* widths_;
  uint8_t* out_;
  uint8_t* path_;  // of channel_at(0)
  format::Planes<uint8_t> pairs_[kMaxSimdHeadDim / 2];
  alignas(64) int32_t counted_[kBlock];  // all bits of the tokens that there are
};

template <class S>
void pack_trellis_keys_any(const PackParams& p, const FeedbackPlan& plan, const uint8_t* widths,
                           void* workspace, uint8_t* out) {
  if (p.head_dim > kMaxSimdHeadDim) {
    return scalar::kTrellis.pack_trellis_keys(p, plan, widths, workspace, out);
  }
  with_block_size(p.block_size, [&](auto size) {
    feed_back<S, size>(p, plan, workspace, TrellisCoder<S, size>(p, widths, out));
  });
}

/// The entries of KernelTable.
template <class S>
constexpr TrellisKernels trellis_kernels() {
  return {
      .pack_trellis_keys = pack_trellis_keys_any<S>,
      .pack_trellis_values = pack_trellis_values_any<S>,
  };
}

}  // namespace
}  // namespace rillkv::kernels::cpu
