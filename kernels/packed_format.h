// The packed format of the compressed KV cache. This file is its one authority: every packer,
// attention kernel and script cites it, and nothing else computes an offset.
//
// PLANES. A code of `width` bits (1..8) is split, most significant bits first, into planes of 4-bit
// (nibble), 2-bit (crumb) and 1-bit elements:
//
//   width   1    2    3    4    5    6    7      8
//   planes  b    c    c b  n    n b  n c  n c b  n n        n = nibble, c = crumb, b = bit
//
//   code bits of width 7:   | 6 5 4 3 | 2 1 | 0 |
//                             nibble   crumb  bit
//
// A plane of `count` elements of e bits is W = ceil(count * e / 32) little-endian 32-bit words.
// Element k of word i (bits e*k .. e*k+e-1) belongs to index k * W + i:
//
//   nibble plane of 128 tokens, W = 16      word 0                             word 1 ...
//   bits    0..3   4..7   8..11  ...  28..31 |
//   token   0      16     32     ...  112    | 1, 17, 33, ...
//
// so one load, one shift and one mask of a register of words yield *consecutive* indices, whatever
// the register's width, and the planes of 2 and 1 bits line up with the nibbles after one constant
// per-lane shift. At 128 tokens the planes are 64, 32 and 16 bytes: one AVX-512 or AVX2 register,
// or one coalesced warp load.
//
// CHANNEL BLOCK (keys of both policies, values of policy "ema"): `tokens` x head_dim of one kv
// head, a scale (and offset) and a width for each channel.
//
//   offset                   bytes
//   0                        2 * D        lo   fp16[D]      absent if symmetric
//   channel_step_offset      2 * D        step fp16[D]
//   channel_widths_offset    D / 2        byte p: bits 0..3 width of channel p, 4..7 of p + D/2
//   channel_codes_offset                  all nibble planes (a channel of 8 bits has two, high then
//                                         low), then all crumb planes, then all bit planes, each
//                                         kind by RoPE pair: of the channels 0, D/2, 1, D/2 + 1, ..
//                                         (channel_at)
//   total                    rounded up to kAlignment
//
// The channels of a pair are always used together: on a CPU their planes are one stream, and in a
// GPU's shared memory planes that are neighbours lie in different banks.
//
//   value = lo + step * code;   symmetric: value = step * (code - 2^(width-1))
//
// TOKEN BLOCK (values of policy "adaptive", sinks of 2 to 8 bits: symmetric, one group): `tokens` x
// head_dim of one kv head, one width for all, a scale (and offset) for each token and group of
// channels.
//
//   0                        2 * G * T    lo   fp16[G][T]   absent if symmetric
//   token_step_offset        2 * G * T    step fp16[G][T]
//   token_codes_offset                    nibble rows [T][nibble planes], then crumb rows [T],
//                                         then bit rows [T]; a row is one plane of D elements
//   total                    rounded up to kAlignment
//
// SINK ROWS (sinks of 16 bits): `tokens` x head_dim of one kv head as they are, fp16 without a
// scale, since one scale for a token cannot hold a key bias of hundreds beside the rest.
//
//   0                        2 * D * T    fp16[T][D]
//   total                    rounded up to kAlignment
//
// fp16 whatever the model's dtype, to nearest even; up to kMaxMagnitude nothing overflows. An fp16
// model's numbers are exact, and so are a bf16 model's of 2^-17 and more, whose 8 significant bits
// fit in 11 (below they are off by up to 2^-25); an fp32 model's are off by up to 2^-11 of
// themselves. bf16 has steps of 2 at a bias of 350, where keys spread by 1.
//
// TRELLIS KEY BLOCK (keys of policy "trellis"): a code of w bits (1..7) is read as a level of one
// bit more. Its bits are one of the channel's path, u, and a part b of w - 1 bits; with u = 0
// before token 0 the level of token t is
//
//   L_t = 4 b_t + 2 (u_t ^ u_(t-1) ^ u_(t-3)) + u_(t-2)        0 <= L_t < 2^(w+1)
//
// (Ungerboeck's code of 8 states; Marcellin & Fischer, IEEE Trans. Commun. 38, 1990). The widths of
// a pair's channels are equal. step8: steps8.h.
//
//   0                        2 * D        zero int16[D]
//   2 * D                    D            step uint8[D]
//   3 * D                    D / 2        widths, a byte a pair as in a channel block
//   trellis_key_path_offset               path planes: the bit plane of u of every channel, in the
//                                         order of channel_at
//   trellis_codes_offset                  planes of b, as those of a channel block whose widths are
//                                         smaller by one (a channel of 1 bit has none)
//   total                    rounded up to kAlignment
//
//   value = step8(step) * (zero + L)
//
// TRELLIS VALUE BLOCK (values of policy "trellis", rotated): a scale for each token; the channels
// of the pairs p < wide_pairs have width + 1 bits, the rest `width`. Both follow from the
// configuration and are not stored.
//
//   0                        T            scale uint8[T]
//   trellis_value_path_offset             path planes, then planes of b, as in a key block
//   total                    rounded up to kAlignment
//
//   value = step8(scale) * (2 L + 1 - 2^(width+1))                   channels of `width`
//   value = step8(scale) * (kWideGain * (2 L + 1 - 2^(width+2)))     the wide ones
//
// Unused elements and padding are zero. Tokens past the last of a short block have code, lo and
// step 0, and in a trellis block u, b and scale 0: what that is read as is never visible.
// All offsets are bytes from the start of the block, which is kAlignment-aligned.
#pragma once

#include <cassert>
#include <cstddef>
#include <cstdint>

#if defined(__CUDACC__)
#define RILLKV_HOST_DEVICE __host__ __device__
#define RILLKV_FORMAT_ASSERT(condition) static_cast<void>(0)
#else
// Bounds, in debug builds: these functions run in inner loops.
#define RILLKV_FORMAT_ASSERT(condition) assert(condition)
// Always inlined: a copy emitted by a file that is compiled for AVX-512 could otherwise be the one
// that the linker keeps for the portable files.
#define RILLKV_HOST_DEVICE __attribute__((always_inline))
#endif

namespace rillkv::format {

inline constexpr int kVersion = 4;  // of all layouts of a build
inline constexpr int kAlignment = 64;
inline constexpr int kMinWidth = 1;
inline constexpr int kMaxWidth = 8;
inline constexpr int kMaxTrellisWidth = 7;
/// fp32(2^(-7/8)): the levels of a wide value channel lie that much closer than the others'.
inline constexpr float kWideGain = 0x1.172b84p-1f;
/// "Width" of sinks that are fp16 rows rather than codes.
inline constexpr int kRowBits = 16;

// lo, hi and (hi - lo) / (2^width - 1) all fit in fp16 (largest finite value 65504) as long as no
// input exceeds half of it. Larger or non-finite input is rejected before any state changes.
inline constexpr float kMaxMagnitude = 32752.0f;

RILLKV_HOST_DEVICE constexpr size_t align_up(size_t bytes, size_t to = kAlignment) {
  return (bytes + to - 1) / to * to;
}

// ---- planes ----
RILLKV_HOST_DEVICE constexpr int nibble_planes(int width) { return width >> 2; }
RILLKV_HOST_DEVICE constexpr int crumb_planes(int width) { return (width >> 1) & 1; }
RILLKV_HOST_DEVICE constexpr int bit_planes(int width) { return width & 1; }
/// Right shift that brings the (first) nibble of a code to bit 0; the second nibble of width 8 has
/// 0.
RILLKV_HOST_DEVICE constexpr int nibble_shift(int width) { return width - 4; }
RILLKV_HOST_DEVICE constexpr int crumb_shift(int width) { return width & 1; }

/// 32-bit words of a plane of `count` elements of `element_bits` bits.
RILLKV_HOST_DEVICE constexpr int plane_words(int count, int element_bits) {
  return (count * element_bits + 31) / 32;
}
RILLKV_HOST_DEVICE constexpr size_t plane_bytes(int count, int element_bits) {
  return 4 * static_cast<size_t>(plane_words(count, element_bits));
}

/// Numbers of planes by kind: of one channel or row, of those that come before it, of a block.
struct PlaneCounts {
  uint32_t nibbles = 0, crumbs = 0, bits = 0;
};
RILLKV_HOST_DEVICE constexpr PlaneCounts planes_of(int width) {
  RILLKV_FORMAT_ASSERT(0 <= width && width <= kMaxWidth);
  return {static_cast<uint32_t>(nibble_planes(width)), static_cast<uint32_t>(crumb_planes(width)),
          static_cast<uint32_t>(bit_planes(width))};
}
RILLKV_HOST_DEVICE constexpr PlaneCounts operator+(PlaneCounts a, PlaneCounts b) {
  return {a.nibbles + b.nibbles, a.crumbs + b.crumbs, a.bits + b.bits};
}
RILLKV_HOST_DEVICE constexpr PlaneCounts operator*(uint32_t n, PlaneCounts a) {
  return {n * a.nibbles, n * a.crumbs, n * a.bits};
}

/// Bytes by kind of plane.
struct PlaneOffsets {
  uint32_t nibbles = 0, crumbs = 0, bits = 0;
};
RILLKV_HOST_DEVICE constexpr PlaneOffsets operator+(PlaneOffsets a, PlaneOffsets b) {
  return {a.nibbles + b.nibbles, a.crumbs + b.crumbs, a.bits + b.bits};
}
/// What so many planes of `count` elements take.
RILLKV_HOST_DEVICE constexpr PlaneOffsets plane_extents(PlaneCounts planes, int count) {
  return {planes.nibbles * static_cast<uint32_t>(plane_bytes(count, 4)),
          planes.crumbs * static_cast<uint32_t>(plane_bytes(count, 2)),
          planes.bits * static_cast<uint32_t>(plane_bytes(count, 1))};
}
/// Where, from the start of a block's codes, the planes begin that come after those of `before`;
/// `total`: of the whole block. Channel blocks: `count` is the block's tokens. Token blocks: it is
/// head_dim, and every row has planes_of(width).
RILLKV_HOST_DEVICE constexpr PlaneOffsets plane_offsets(PlaneCounts before, PlaneCounts total,
                                                        int count) {
  RILLKV_FORMAT_ASSERT(before.nibbles <= total.nibbles && before.crumbs <= total.crumbs &&
                       before.bits <= total.bits);
  const PlaneOffsets here = plane_extents(before, count), all = plane_extents(total, count);
  return {here.nibbles, all.nibbles + here.crumbs, all.nibbles + all.crumbs + here.bits};
}
/// Bytes of so many planes of `count` elements.
RILLKV_HOST_DEVICE constexpr size_t codes_bytes(int count, PlaneCounts planes) {
  return plane_offsets(planes, planes, count).bits;
}
/// Bytes of all planes of `count` codes of `width` bits.
RILLKV_HOST_DEVICE constexpr size_t codes_bytes(int count, int width) {
  return codes_bytes(count, planes_of(width));
}

// ---- widths of channel pairs ----
/// The byte of a pair: the widths of channels p and p + D/2.
RILLKV_HOST_DEVICE constexpr uint8_t pair_widths(int first, int second) {
  RILLKV_FORMAT_ASSERT(kMinWidth <= first && first <= kMaxWidth);
  RILLKV_FORMAT_ASSERT(kMinWidth <= second && second <= kMaxWidth);
  return static_cast<uint8_t>(first | second << 4);
}
RILLKV_HOST_DEVICE constexpr int first_width(uint32_t pair) { return static_cast<int>(pair & 15); }
RILLKV_HOST_DEVICE constexpr int second_width(uint32_t pair) { return static_cast<int>(pair >> 4); }
/// Of one channel; widths: [head_dim / 2] pairs.
RILLKV_HOST_DEVICE constexpr int channel_width(const uint8_t* widths, int channel, int head_dim) {
  RILLKV_FORMAT_ASSERT(0 <= channel && channel < head_dim);
  const int half = head_dim / 2;
  return channel < half ? first_width(widths[channel]) : second_width(widths[channel - half]);
}
/// Planes of both channels of a pair.
RILLKV_HOST_DEVICE constexpr PlaneCounts planes_of_pair(uint32_t pair) {
  return planes_of(first_width(pair)) + planes_of(second_width(pair));
}

// ---- channel block ----
RILLKV_HOST_DEVICE constexpr size_t channel_step_offset(int head_dim, bool symmetric) {
  return symmetric ? 0 : 2 * static_cast<size_t>(head_dim);
}
RILLKV_HOST_DEVICE constexpr size_t channel_widths_offset(int head_dim, bool symmetric) {
  return channel_step_offset(head_dim, symmetric) + 2 * static_cast<size_t>(head_dim);
}
RILLKV_HOST_DEVICE constexpr size_t channel_codes_offset(int head_dim, bool symmetric) {
  return align_up(channel_widths_offset(head_dim, symmetric) + static_cast<size_t>(head_dim) / 2);
}
/// `width_sum` is the sum of the widths of all channels; exact because block sizes are multiples of
/// 32, which leaves no plane with unused elements.
RILLKV_HOST_DEVICE constexpr size_t channel_block_bytes(int head_dim, int block_size,
                                                        bool symmetric, int width_sum) {
  return align_up(channel_codes_offset(head_dim, symmetric) +
                  static_cast<size_t>(block_size) / 8 * static_cast<size_t>(width_sum));
}
/// The channel whose planes come after those of `position` others, and the inverse.
RILLKV_HOST_DEVICE constexpr int channel_at(int position, int head_dim) {
  return position / 2 + position % 2 * (head_dim / 2);
}
RILLKV_HOST_DEVICE constexpr int channel_position(int channel, int head_dim) {
  const int half = head_dim / 2;
  return channel < half ? 2 * channel : 2 * (channel - half) + 1;
}

// ---- token block ----
/// Groups of a row: max(1, D / size) of them, D split evenly, earlier groups take the remainder.
RILLKV_HOST_DEVICE constexpr int value_groups(int head_dim, int group_size) {
  return head_dim / group_size > 0 ? head_dim / group_size : 1;
}
RILLKV_HOST_DEVICE constexpr int group_begin(int group, int groups, int head_dim) {
  const int rest = head_dim % groups;
  return group * (head_dim / groups) + (group < rest ? group : rest);
}
RILLKV_HOST_DEVICE constexpr size_t token_step_offset(int tokens, int groups, bool symmetric) {
  return symmetric ? 0 : 2 * static_cast<size_t>(groups) * static_cast<size_t>(tokens);
}
RILLKV_HOST_DEVICE constexpr size_t token_codes_offset(int tokens, int groups, bool symmetric) {
  return align_up(token_step_offset(tokens, groups, symmetric) +
                  2 * static_cast<size_t>(groups) * static_cast<size_t>(tokens));
}
RILLKV_HOST_DEVICE constexpr size_t token_block_bytes(int tokens, int head_dim, int groups,
                                                      bool symmetric, int width) {
  return align_up(token_codes_offset(tokens, groups, symmetric) +
                  static_cast<size_t>(tokens) * codes_bytes(head_dim, width));
}

// ---- trellis blocks ----
RILLKV_HOST_DEVICE constexpr size_t trellis_step_offset(int head_dim) {
  return 2 * static_cast<size_t>(head_dim);
}
RILLKV_HOST_DEVICE constexpr size_t trellis_widths_offset(int head_dim) {
  return 3 * static_cast<size_t>(head_dim);
}
RILLKV_HOST_DEVICE constexpr size_t trellis_key_path_offset(int head_dim) {
  return align_up(trellis_widths_offset(head_dim) + static_cast<size_t>(head_dim) / 2);
}
RILLKV_HOST_DEVICE constexpr size_t trellis_value_path_offset(int block_size) {
  return align_up(static_cast<size_t>(block_size));
}
/// Where the planes of b begin, after the path planes.
RILLKV_HOST_DEVICE constexpr size_t trellis_codes_offset(size_t path_offset, int head_dim,
                                                         int block_size) {
  return path_offset + static_cast<size_t>(head_dim) * plane_bytes(block_size, 1);
}
/// `width_sum`: of the widths of all channels.
RILLKV_HOST_DEVICE constexpr size_t trellis_block_bytes(size_t path_offset, int block_size,
                                                        int width_sum) {
  return align_up(path_offset +
                  static_cast<size_t>(block_size) / 8 * static_cast<size_t>(width_sum));
}
RILLKV_HOST_DEVICE constexpr size_t trellis_key_bytes(int head_dim, int block_size, int width_sum) {
  return trellis_block_bytes(trellis_key_path_offset(head_dim), block_size, width_sum);
}
RILLKV_HOST_DEVICE constexpr size_t trellis_value_bytes(int head_dim, int block_size, int width,
                                                        int wide_pairs) {
  return trellis_block_bytes(trellis_value_path_offset(block_size), block_size,
                             head_dim * width + 2 * wide_pairs);
}
/// Bits of a value of channel pair `pair`.
RILLKV_HOST_DEVICE constexpr int trellis_value_width(int pair, int width, int wide_pairs) {
  return pair < wide_pairs ? width + 1 : width;
}
/// Planes of b of the first `pairs` channel pairs of a value block.
RILLKV_HOST_DEVICE constexpr PlaneCounts trellis_value_planes(int pairs, int width,
                                                              int wide_pairs) {
  const int wide = pairs < wide_pairs ? pairs : wide_pairs;
  return static_cast<uint32_t>(2 * wide) * planes_of(width) +
         static_cast<uint32_t>(2 * (pairs - wide)) * planes_of(width - 1);
}
/// The level of a token; path: bits 0 .. 3 are u of this token, of the one before it, and so on.
RILLKV_HOST_DEVICE constexpr uint32_t trellis_level(uint32_t b, uint32_t path) {
  return 4 * b + 2 * ((path ^ path >> 1 ^ path >> 3) & 1) + (path >> 2 & 1);
}

// ---- sinks ----
/// Where row `row` of sinks of kRowBits bits begins.
RILLKV_HOST_DEVICE constexpr size_t sink_row_offset(int row, int head_dim) {
  return 2 * static_cast<size_t>(row) * static_cast<size_t>(head_dim);
}
/// Bytes of one kv head's sinks: a token block of 2 to 8 bits, or rows of kRowBits.
RILLKV_HOST_DEVICE constexpr size_t sink_block_bytes(int tokens, int head_dim, int bits) {
  return bits == kRowBits ? align_up(sink_row_offset(tokens, head_dim))
                          : token_block_bytes(tokens, head_dim, 1, true, bits);
}

// ---- the sizes that docs/architecture.md promises ----
static_assert(codes_bytes(128, 7) == 64 + 32 + 16 && codes_bytes(128, 8) == 128);
// balanced, 4.25 / 4 bits: 4.531 bits an element at D = 64, 4.516 at D = 128.
static_assert(channel_block_bytes(64, 128, false, 64 * 17 / 4) == 4672);
static_assert(token_block_bytes(128, 64, 1, false, 4) == 4608);
static_assert(channel_block_bytes(128, 128, false, 128 * 17 / 4) == 9280);
static_assert(token_block_bytes(128, 128, 2, false, 4) == 9216);
// 4.0625 / 4.625 bits, of trellis blocks: 4.531 bits an element at D = 64, 4.484 at D = 128.
static_assert(trellis_key_bytes(64, 128, 64 * 65 / 16) == 256 + 4160);
static_assert(trellis_value_bytes(64, 128, 4, 20) == 128 + 4736);
static_assert(trellis_key_bytes(128, 128, 128 * 65 / 16) == 448 + 8320);
static_assert(trellis_value_bytes(128, 128, 4, 40) == 128 + 9472);
// Eight sinks of a kv head's keys, or values.
static_assert(sink_block_bytes(8, 64, 8) == 576 && sink_block_bytes(8, 64, kRowBits) == 1024);

}  // namespace rillkv::format
