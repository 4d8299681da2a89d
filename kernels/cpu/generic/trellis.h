// Trellis-coded keys, a register of S::kLanes tokens of one channel at a time; S: see
// simd_concept.h. scalar/trellis.cpp defines what the bytes are; its lines stand above the groups
// of vector operations that repeat them. Values: trellis_values.h.
//
// Channels come one after the other, as error feedback has it, so only the search itself is a chain
// (trellis_path.h): the distances of all tokens are computed before it, four lanes a token, and
// levels, codes and planes after it. Two kv heads go side by side through it.
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

/// A kv head whose trellis key block is being written, a position of the plan after the other.
template <class S, int kBlock>
class TrellisHead {
 public:
  /// Writes what does not depend on the keys.
  void open(const TrellisKeys& head) {
    const PackParams& p = head.keys;
    head_dim_ = p.head_dim;
    tokens_ = p.tokens;
    widths_ = head.widths;
    out_ = head.out;
    channels_.open(p, head.plan, head.workspace);
    const int D = p.head_dim;
    std::memset(out_, 0, format::trellis_key_path_offset(D));
    std::memcpy(out_ + format::trellis_widths_offset(D), widths_, static_cast<size_t>(D) / 2);
    format::TrellisPlanes<uint8_t> at = format::trellis_key_planes(out_, kBlock, D);
    path_ = at.path;
    for (int pair = 0; pair < D / 2; ++pair) {
      pairs_[pair] = at.b;
      for (int i = 0; i < 2; ++i) {
        format::advance(at, kBlock, format::first_width(widths_[pair]));
      }
    }
    // `bits` has come to the end of the last plane; what follows is padding.
    const size_t end = static_cast<size_t>(at.b.bits - out_);
    std::memset(at.b.bits, 0, format::align_up(end) - end);
    for (int t = 0; t < kBlock; ++t) counted_[t] = t < p.tokens ? -1 : 0;
  }

  /// Position k: its range, its levels v before rounding, and what the search takes.
  RowSearch begin(int k) {
    const float* x = channels_.next(k);
    const int c = channels_.channel(k);
    const int width = format::channel_width(widths_, c, head_dim_);
    lattice_ = tokens_ == kBlock ? find_lattice<true>(x, width) : find_lattice<false>(x, width);
    const int16_t zero_bits = static_cast<int16_t>(static_cast<int32_t>(lattice_.zero));
    std::memcpy(out_ + 2 * c, &zero_bits, 2);
    out_[format::trellis_step_offset(head_dim_) + static_cast<size_t>(c)] =
        static_cast<uint8_t>(lattice_.step);

    // v = fma(x, scale, offset)
    const F scale = S::set1(lattice_.scale), offset = S::set1(lattice_.offset);
#pragma GCC unroll 32
    for (int r = 0; r < kRegisters; ++r) {
      S::store(v_ + r * L, S::fma(S::load(x + r * L), scale, offset));
    }
    const F subset = S::load(kLaneSubsets<L>.lanes), top = S::set1(max_code(width - 1));
#pragma GCC unroll 4
    for (int t = 0; t < kBlock; t += L / 4) {
      S::store(distances_ + 4 * t, subset_distance<S>(S::repeat_each4(v_ + t), subset, top));
    }
    return {.distances = distances_, .second = second_, .label = 0};
  }
  /// Where the path is to be written before `end`.
  uint64_t* path() { return bits_; }
  void end(int k) {
    alignas(64) float y[kBlock];
    const int c = channels_.channel(k);
    reconstruct(c, v_, bits_, format::channel_width(widths_, c, head_dim_),
                format::step8(lattice_.step), lattice_.zero, y);
    channels_.coded(k, y);
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
      const F scale = S::set1(lattice.scale), offset = S::set1(lattice.offset);
      for (F& sum : sums) sum = none;
#pragma GCC unroll 32
      for (int r = 0; r < kRegisters; ++r) {
        // v = fma(x, scale, offset); error = v - clamped(rint(v), 0, top)
        const F v = S::fma(S::load(x + r * L), scale, offset);
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

  FedChannels<S, kBlock> channels_;
  int head_dim_ = 0, tokens_ = 0;
  const uint8_t* widths_ = nullptr;
  uint8_t* out_ = nullptr;
  uint8_t* path_ = nullptr;  // of channel_at(0)
  format::Planes<uint8_t> pairs_[kMaxSimdHeadDim / 2];
  alignas(64) int32_t counted_[kBlock];  // all bits of the tokens that there are
  // Of the position that is being coded.
  KeyLattice lattice_ = {};
  alignas(64) float v_[kBlock + L], distances_[4 * kBlock];
  alignas(16) __m128i second_[kBlock];
  uint64_t bits_[kWords] = {};
};

template <class S, int kBlock, int kHeads>
void pack_trellis_heads(const TrellisKeys* heads) {
  TrellisHead<S, kBlock> team[kHeads];
  uint64_t* paths[kHeads];
  for (int h = 0; h < kHeads; ++h) {
    team[h].open(heads[h]);
    paths[h] = team[h].path();
  }
  const PackParams& p = heads[0].keys;
  for (int k = 0; k < p.head_dim; ++k) {
    RowSearch rows[kHeads];
    for (int h = 0; h < kHeads; ++h) rows[h] = team[h].begin(k);
    advance_states(rows, p.tokens);
    trace_back(rows, p.tokens, paths);
    for (int h = 0; h < kHeads; ++h) team[h].end(k);
  }
}

template <class S>
void pack_trellis_keys_any(const TrellisKeys* heads, int32_t count) {
  const PackParams& p = heads[0].keys;
  if (p.head_dim > kMaxSimdHeadDim) return scalar::kTrellis.pack_trellis_keys(heads, count);
  with_block_size(p.block_size, [&](auto size) {
    if (count == 1) {
      pack_trellis_heads<S, size, 1>(heads);
    } else {
      pack_trellis_heads<S, size, kHeadsTogether>(heads);
    }
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
