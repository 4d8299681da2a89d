// A kv cache of one layer for bench_attention: random keys and values, quantised and packed by the
// library's own kernels, and the same cache dense (dequantised, rotated), for Torch and for checks.
#pragma once

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <vector>

#include "core/huge_page_arena.h"
#include "kernels/cpu/fixed_rotations.h"
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/plan.h"
#include "kernels/packed_format.h"
#include "kernels/planes.h"
#include "kernels/steps8.h"
#include "rillkv/compression_config.h"
#include "rillkv/error.h"

namespace rillkv::bench {

namespace cpu = kernels::cpu;
using kernels::Dtype;
using kernels::cpu::AttentionParams;
using kernels::cpu::PackParams;

/// How a configuration quantises.
struct Mix {
  std::string name;
  bool ema;
  double key_bits;           // mean; ema: the normal width
  std::vector<int> classes;  // adaptive
  int value_bits;
  int sink_bits;         // of keys; the presets' values have as many
  bool trellis = false;  // trellis blocks of noise, values of value_bits and value_wide_share
  double value_wide_share = 0;  // of the channel pairs, a bit wider

  int value_wide_pairs(int head_dim) const {
    return static_cast<int>(value_wide_share * head_dim / 2 + 1e-6);
  }
};

inline Mix mix_of(const std::string& name, const CompressionConfig& config) {
  const bool ema = config.policy == Policy::kEma;
  return {name,
          ema,
          ema ? static_cast<double>(config.key_bits_normal) : config.key_bits_mean,
          {config.bit_classes.begin(), config.bit_classes.end()},
          static_cast<int>(ema ? config.value_bits_normal : config.value_bits),
          static_cast<int>(config.key_bits_sink_outlier)};
}

/// The library's presets (but for the dense one), "balanced" first, then what they are compared
/// with: other widths at the same mean, and no mixing at all.
inline const std::vector<Mix>& mixes() {
  static const std::vector<Mix> all = [] {
    std::vector<Mix> mixes = {mix_of("balanced", CompressionConfig::preset("balanced"))};
    for (const std::string& name : CompressionConfig::preset_names()) {
      const CompressionConfig config = CompressionConfig::preset(name);
      if (name != "balanced" && config.policy != Policy::kDense) {
        mixes.push_back(mix_of(name, config));
      }
    }
    const Mix balanced = mixes.front();
    const auto vary = [&](const char* name, double key_bits, std::vector<int> classes) {
      mixes.push_back(
          {name, false, key_bits, std::move(classes), balanced.value_bits, balanced.sink_bits});
    };
    vary("balanced2468", balanced.key_bits, {2, 4, 6, 8});
    vary("balanced3456", balanced.key_bits, {3, 4, 5, 6});
    vary("balanced1357", balanced.key_bits, {1, 3, 5, 7});
    vary("uniform4", 4, {4});
    return mixes;
  }();
  return all;
}

/// Keys of 4.1875 bits and values of 4.5. Any bits are a trellis block: theirs are noise.
inline const Mix& trellis_mix() {
  static const Mix mix = {
      "trellis", false, 4.1875, {1, 2, 3, 4, 5, 6, 7}, 4, mixes().front().sink_bits, true, 0.5};
  return mix;
}

inline const Mix& mix_named(const std::string& name) {
  for (const Mix& mix : mixes()) {
    if (mix.name == name) return mix;
  }
  throw Error("no mix of widths called " + name);
}

struct Shape {
  int heads, kv_heads, head_dim;
};

/// What is attended to: `cached` tokens in sealed blocks alone, or (`whole`) 8 sinks, blocks, a
/// tail and the queries' own chunk with causal masking, as a model has it.
struct Problem {
  Shape shape;
  int queries;
  int cached;
  Mix mix;
  Dtype dtype;
  bool whole;
};

struct FreeAligned {
  void operator()(uint8_t* p) const { std::free(p); }
};
using Bytes = std::unique_ptr<uint8_t[], FreeAligned>;

inline Bytes allocate(size_t bytes) {
  const size_t size = format::align_up(bytes);
  uint8_t* p = static_cast<uint8_t*>(std::aligned_alloc(format::kAlignment, size));
  if (p == nullptr) throw std::bad_alloc();
  std::fill(p, p + size, uint8_t{0});
  return Bytes(p);
}

inline at::ScalarType scalar_type(Dtype dtype) {
  return dtype == Dtype::kFloat32    ? at::kFloat
         : dtype == Dtype::kBFloat16 ? at::kBFloat16
                                     : at::kHalf;
}

class Case {
 public:
  static constexpr int kBlock = 128;

  explicit Case(const Problem& problem) : problem_(problem) {
    const auto& s = problem.shape;
    const int D = s.head_dim;
    sinks_ = problem.whole ? 8 : 0;
    blocks_ = (problem.cached - sinks_) / kBlock;
    tail_ = problem.cached - sinks_ - blocks_ * kBlock;
    generator_.set_current_seed(2024);

    const int chunk = problem.whole ? problem.queries : 0;
    total_ = problem.cached + chunk;
    // Channels of very different ranges and offsets, as pre-RoPE keys have them.
    const at::Tensor range = at::exp(0.6 * normal({s.kv_heads, 1, D}));
    const at::Tensor offset = 1.5 * normal({s.kv_heads, 1, D});
    keys_ = (normal({s.kv_heads, total_, D}) + offset) * range;
    values_ = normal({s.kv_heads, total_, D});
    const at::Tensor query_range = (1.0 / range).repeat_interleave(s.heads / s.kv_heads, 0) *
                                   at::exp(0.3 * normal({s.heads, 1, D}));
    queries_ = (normal({problem.queries, s.heads, D}) * query_range.transpose(0, 1))
                   .to(scalar_type(problem.dtype))
                   .contiguous();
    out_ = at::zeros({problem.queries, s.heads, D}, scalar_type(problem.dtype));
    pack();
    fill_params();
  }

  const AttentionParams& params() const { return params_; }
  const Problem& problem() const { return problem_; }
  const at::Tensor& out() const { return out_; }  // [queries, heads, D]
  /// Bytes of the sealed blocks and sinks.
  size_t packed_bytes() const { return packed_bytes_; }
  double bits_an_element() const {
    return 8.0 * static_cast<double>(packed_bytes_) /
           (2.0 * problem_.shape.kv_heads * problem_.shape.head_dim * (problem_.cached - tail_));
  }
  /// Multiply-adds times 2 of both products over the visible part.
  double flops() const {
    const double own = problem_.whole ? (problem_.queries + 1) / 2.0 : 0.0;
    return 4.0 * problem_.shape.heads * problem_.shape.head_dim * problem_.queries *
           (problem_.cached + own);
  }

  /// Runs `table` on Torch's threads, as the library does.
  void run(const cpu::KernelTable& table) {
    const int threads = at::get_num_threads();
    const cpu::AttentionPlan plan(params_, threads, table.task_rows);
    const size_t bytes = table.attention_workspace_bytes(params_, plan.query_tokens);
    if (bytes > workspace_bytes_) {
      workspaces_.clear();
      workspace_bytes_ = bytes;
    }
    while (workspaces_.size() < static_cast<size_t>(threads)) {
      workspaces_.push_back(allocate(workspace_bytes_));
    }
    std::atomic<size_t> next{0};
    at::parallel_for(0, threads, 1, [&](int64_t thread, int64_t) {
      for (size_t i = next++; i < plan.tasks.size(); i = next++) {
        table.attend(params_, plan.tasks[i], workspaces_[static_cast<size_t>(thread)].get());
      }
    });
    for (const auto& m : plan.merges) {
      cpu::merge_partials(params_, m.kv_head, m.query_begin, m.query_end, m.partials, plan.parts);
    }
  }

  /// The rotated queries [1, heads, queries, D] and the dense cache [1, kv_heads, tokens, D] for
  /// Torch, in `type`.
  at::Tensor torch_queries(at::ScalarType type) const {
    return rotate(queries_.to(at::kFloat).transpose(0, 1), problem_.cached)
        .unsqueeze(0)
        .to(type)
        .contiguous();
  }
  at::Tensor torch_keys(at::ScalarType type) const {
    return dense_keys_.unsqueeze(0).to(type).contiguous();
  }
  at::Tensor torch_values(at::ScalarType type) const {
    return dense_values_.unsqueeze(0).to(type).contiguous();
  }
  /// Which keys a query may see; undefined if all.
  at::Tensor torch_mask() const {
    if (!problem_.whole || problem_.queries == 1) return {};
    return at::ones({problem_.queries, total_}, at::kBool).tril(problem_.cached);
  }

  /// What attention over the dequantised cache gives, in fp32 by Torch on `device`:
  /// [queries, heads, D] on the CPU.
  at::Tensor reference(at::Device device = at::kCPU) const {
    const at::Tensor mask = torch_mask();
    return at::scaled_dot_product_attention(
               torch_queries(at::kFloat).to(device), torch_keys(at::kFloat).to(device),
               torch_values(at::kFloat).to(device),
               mask.defined() ? std::optional<at::Tensor>(mask.to(device)) : std::nullopt, 0.0,
               false, std::nullopt, problem_.shape.heads != problem_.shape.kv_heads)
        .cpu()
        .squeeze(0)
        .transpose(0, 1);
  }
  /// |out - reference| / |reference|. NaN stays NaN.
  double relative_error(at::Device device = at::kCPU) const {
    const at::Tensor expected = reference(device);
    return ((out_.to(at::kFloat) - expected).norm() / expected.norm()).item<double>();
  }

 private:
  at::Tensor normal(at::IntArrayRef sizes) {
    return at::randn(sizes, generator_, at::TensorOptions(at::kFloat));
  }

  /// cos or sin of position * inv_freq for positions first .. first + count - 1, [count, D/2].
  at::Tensor angles(int64_t first, int64_t count) const {
    const int half = problem_.shape.head_dim / 2;
    const at::Tensor inv = at::pow(10000.0, -at::arange(half, at::kDouble) / half);
    return (at::arange(first, first + count, at::kDouble).unsqueeze(1) * inv.unsqueeze(0));
  }
  at::Tensor rotate(const at::Tensor& x, int64_t first) const {  // [heads, tokens, D]
    const int64_t half = x.size(2) / 2;
    const at::Tensor angle = angles(first, x.size(1));
    const at::Tensor c = at::cos(angle).to(at::kFloat), s = at::sin(angle).to(at::kFloat);
    const at::Tensor low = x.slice(2, 0, half), high = x.slice(2, half);
    return at::cat({low * c - high * s, high * c + low * s}, 2);
  }

  PackParams pack_params(const at::Tensor& x, int head, int first, int tokens) const {
    PackParams p;
    p.input = {x.data_ptr<float>() + static_cast<int64_t>(first) * x.size(2), x.size(2),
               x.size(1) * x.size(2)};
    p.kv_head = head;
    p.tokens = tokens;
    p.block_size = kBlock;
    p.head_dim = problem_.shape.head_dim;
    return p;
  }

  void pack() {
    const auto& s = problem_.shape;
    const int D = s.head_dim;
    dense_keys_ = keys_.clone();
    dense_values_ = values_.clone();
    const size_t count = static_cast<size_t>(blocks_) * static_cast<size_t>(s.kv_heads);
    key_blocks_.resize(count);
    value_blocks_.resize(count);
    std::atomic<size_t> bytes{0};
    at::parallel_for(0, static_cast<int64_t>(count), 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) bytes += pack_block(static_cast<size_t>(i));
    });
    packed_bytes_ = bytes;
    if (sinks_ > 0) {
      const size_t stride = format::sink_block_bytes(sinks_, D, sink_bits());
      packed_bytes_ += 2 * stride * static_cast<size_t>(s.kv_heads);
      sink_keys_ = allocate(stride * static_cast<size_t>(s.kv_heads));
      sink_values_ = allocate(stride * static_cast<size_t>(s.kv_heads));
      for (int h = 0; h < s.kv_heads; ++h) {
        for (const bool keys : {true, false}) {
          PackParams p = pack_params(keys ? keys_ : values_, h, 0, sinks_);
          p.block_size = sinks_;
          uint8_t* to = (keys ? sink_keys_ : sink_values_).get() + static_cast<size_t>(h) * stride;
          cpu::kernels().pack_sinks(p, 0, sink_bits(), to);
          cpu::unpack_sinks(to, sinks_, sinks_, D, sink_bits(),
                            dense_row(keys ? dense_keys_ : dense_values_, h, 0));
        }
      }
    }
    // The tail and the chunk are read in the queries' dtype.
    const int uncompressed = sinks_ + blocks_ * kBlock;
    for (at::Tensor* side : {&dense_keys_, &dense_values_}) {
      at::Tensor rest = side->slice(1, uncompressed);
      rest.copy_(rest.to(scalar_type(problem_.dtype)).to(at::kFloat));
    }
    raw_keys_ = dense_keys_.slice(1, uncompressed).to(scalar_type(problem_.dtype)).contiguous();
    raw_values_ = dense_values_.slice(1, uncompressed).to(scalar_type(problem_.dtype)).contiguous();
    dense_keys_ = rotate(dense_keys_, 0);
    keys_ = values_ = at::Tensor();
  }

  int sink_bits() const { return problem_.mix.sink_bits; }

  float* dense_row(const at::Tensor& x, int head, int token) const {
    return x.data_ptr<float>() + (static_cast<int64_t>(head) * x.size(1) + token) * x.size(2);
  }

  size_t pack_block(size_t i) {
    const auto& s = problem_.shape;
    const Mix& mix = problem_.mix;
    const auto& table = cpu::kernels();
    const int D = s.head_dim, n = static_cast<int>(i) / s.kv_heads,
              h = static_cast<int>(i) % s.kv_heads;
    const int first = sinks_ + n * kBlock;
    const PackParams keys = pack_params(keys_, h, first, kBlock);
    const PackParams values = pack_params(values_, h, first, kBlock);
    float* dense_k = dense_row(dense_keys_, h, first);
    float* dense_v = dense_row(dense_values_, h, first);
    std::vector<uint8_t> widths(static_cast<size_t>(D / 2));
    const auto channel_bytes = [&](bool symmetric) {
      int sum = 0;
      for (int c = 0; c < D; ++c) sum += format::channel_width(widths.data(), c, D);
      return format::channel_block_bytes(D, kBlock, symmetric, sum);
    };
    if (mix.ema) {  // every 32nd channel is an outlier of 8 bits
      size_t bytes = 0;
      for (const bool is_key : {true, false}) {
        for (int p = 0; p < D / 2; ++p) {
          const int low = (p + h) % 32 == 5 ? 8 : 4;
          widths[static_cast<size_t>(p)] = static_cast<uint8_t>(low | 4 << 4);
        }
        std::vector<float> absmax(static_cast<size_t>(D));
        const PackParams& x = is_key ? keys : values;
        table.absmax(x, absmax.data());
        uint8_t* to = take_block(channel_bytes(true));
        (is_key ? key_blocks_ : value_blocks_)[i] = to;
        bytes += channel_bytes(true);
        table.pack_channels_symmetric(x, absmax.data(), widths.data(), to);
        cpu::unpack_channels(to, kBlock, kBlock, D, true, is_key ? dense_k : dense_v);
      }
      return bytes;
    }
    std::vector<float> lo(static_cast<size_t>(D)), hi = lo, spread = lo, energy = lo;
    table.min_max(keys, lo.data(), hi.data());
    std::mt19937 random(static_cast<uint32_t>(h) + 17);  // the queries of a head change slowly
    std::normal_distribution<float> normal(0.0f, 0.5f);
    for (int c = 0; c < D; ++c) {
      const size_t at = static_cast<size_t>(c);
      const float range = hi[at] - lo[at];
      spread[at] = range * range;
      energy[at] = std::exp(2.0f * normal(random)) / spread[at] * 16.0f;
    }
    const int spacing = mix.classes.size() > 1 ? mix.classes[1] - mix.classes[0] : 1;
    const int increments =
        static_cast<int>((mix.key_bits - mix.classes[0]) * D / 2 / spacing + 1e-6);
    cpu::allocate_widths(spread.data(), energy.data(), D, mix.classes.data(),
                         static_cast<int>(mix.classes.size()), increments, widths.data());
    if (mix.trellis) return make_trellis_block(i, widths, lo, hi, dense_k, dense_v);
    uint8_t* key_block = take_block(channel_bytes(false));
    key_blocks_[i] = key_block;
    table.pack_channels_affine(keys, lo.data(), hi.data(), widths.data(), key_block);
    cpu::unpack_channels(key_block, kBlock, kBlock, D, false, dense_k);
    const int groups = format::value_groups(D, 64);
    const size_t value_bytes = format::token_block_bytes(kBlock, D, groups, false, mix.value_bits);
    uint8_t* value_block = take_block(value_bytes);
    value_blocks_[i] = value_block;
    table.pack_tokens_affine(values, groups, mix.value_bits, value_block);
    cpu::unpack_tokens(value_block, kBlock, kBlock, D, groups, false, mix.value_bits, dense_v);
    return channel_bytes(false) + value_bytes;
  }

  /// Noise in blocks whose channels have about these ranges.
  size_t make_trellis_block(size_t i, const std::vector<uint8_t>& widths,
                            const std::vector<float>& lo, const std::vector<float>& hi,
                            float* dense_k, float* dense_v) {
    std::mt19937 random(static_cast<uint32_t>(i) + 1);
    const int D = problem_.shape.head_dim, width = problem_.mix.value_bits;
    const int wide = problem_.mix.value_wide_pairs(D);
    const auto noise = [&](size_t bytes) {
      uint8_t* block = take_block(bytes);
      for (size_t b = 0; b < bytes; ++b) block[b] = static_cast<uint8_t>(random());
      return block;
    };
    const size_t key_bytes =
        format::trellis_key_bytes(D, kBlock, format::width_sum(widths.data(), D));
    const size_t value_bytes = format::trellis_value_bytes(D, kBlock, width, wide);
    uint8_t *keys = noise(key_bytes), *values = noise(value_bytes);
    for (int c = 0; c < D; ++c) {
      const auto at = static_cast<size_t>(c);
      const int levels = 2 << format::channel_width(widths.data(), c, D);
      reinterpret_cast<int16_t*>(keys)[c] = static_cast<int16_t>(-levels / 2);
      // Noise fills the range evenly, as a normal channel does not: half of it has its spread.
      keys[format::trellis_step_offset(D) + at] = static_cast<uint8_t>(
          format::nearest8(0.5f * (hi[at] - lo[at]) / static_cast<float>(levels)));
    }
    std::copy(widths.begin(), widths.end(), keys + format::trellis_widths_offset(D));
    for (int t = 0; t < kBlock; ++t) {
      values[t] = static_cast<uint8_t>(format::nearest8(1.7f / static_cast<float>(2 << width)));
    }
    key_blocks_[i] = keys;
    value_blocks_[i] = values;
    cpu::unpack_trellis_keys(keys, kBlock, kBlock, D, dense_k);
    cpu::unpack_trellis_values(values, kBlock, kBlock, D, width, wide, dense_v);
    return key_bytes + value_bytes;
  }

  /// Blocks lie as the library has them.
  uint8_t* take_block(size_t bytes) {
    const std::lock_guard<std::mutex> lock(block_mutex_);
    block_tensors_.push_back(block_memory_.take({static_cast<int64_t>(bytes)}, at::kByte));
    return block_tensors_.back().data_ptr<uint8_t>();
  }

  const float* keep(const at::Tensor& x) {
    kept_.push_back(x.to(at::kFloat).contiguous());
    return kept_.back().data_ptr<float>();
  }

  void fill_params() {
    const auto& s = problem_.shape;
    const int D = s.head_dim, T = problem_.queries;
    AttentionParams& p = params_;
    p.heads = s.heads;
    p.kv_heads = s.kv_heads;
    p.head_dim = D;
    p.block_size = kBlock;
    p.dtype = problem_.dtype;
    p.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(D)));
    p.queries = {queries_.data_ptr(), s.heads * D, D};
    p.out = {out_.data_ptr(), s.heads * D, D};
    p.query_count = T;
    p.first_query_index = problem_.cached;
    const at::Tensor query_angles = angles(problem_.cached, T);
    p.query_cos = keep(at::cos(query_angles));
    p.query_sin = keep(at::sin(query_angles));
    const at::Tensor in_block = angles(0, kBlock).transpose(0, 1);
    p.rotations.in_block_cos = keep(at::cos(in_block));
    p.rotations.in_block_sin = keep(at::sin(in_block));
    fixed_ = {p.rotations.in_block_cos, p.rotations.in_block_sin, in_block.numel()};
    p.in_block_fixed = fixed_.data();

    auto& prefix = p.prefix;
    prefix.sink_count = prefix.sink_capacity = sinks_;
    prefix.sink_keys = sink_keys_.get();
    prefix.sink_values = sink_values_.get();
    prefix.sink_key_stride = prefix.sink_value_stride =
        static_cast<int64_t>(format::sink_block_bytes(std::max(sinks_, 1), D, sink_bits()));
    prefix.sink_key_bits = prefix.sink_value_bits = sink_bits();
    prefix.sink_cos = keep(at::cos(angles(0, std::max(sinks_, 1))));
    prefix.sink_sin = keep(at::sin(angles(0, std::max(sinks_, 1))));
    prefix.block_count = blocks_;
    for (int n = 0; n < blocks_; ++n) {
      const at::Tensor angle = angles(sinks_ + static_cast<int64_t>(n) * kBlock, 1);
      rotation_table_.push_back(keep(at::cat({at::cos(angle), at::sin(angle)}, 1)));
    }
    prefix.keys = key_blocks_.data();
    prefix.values = value_blocks_.data();
    prefix.rotations = rotation_table_.data();
    prefix.keys_symmetric = prefix.values_channel_major = problem_.mix.ema;
    prefix.value_bits = problem_.mix.value_bits;
    prefix.value_groups = problem_.mix.ema ? 1 : format::value_groups(D, 64);
    prefix.trellis = problem_.mix.trellis;
    prefix.value_width = problem_.mix.value_bits;
    prefix.value_wide_pairs = problem_.mix.value_wide_pairs(D);

    const auto segment = [&](kernels::DenseSegment& to, int begin, int count) {
      const int64_t first = sinks_ + static_cast<int64_t>(blocks_) * kBlock + begin;
      const int64_t bytes = static_cast<int64_t>(begin) * D * raw_keys_.element_size();
      to.keys = {static_cast<const uint8_t*>(raw_keys_.data_ptr()) + bytes, D,
                 raw_keys_.size(1) * D};
      to.values = {static_cast<const uint8_t*>(raw_values_.data_ptr()) + bytes, D,
                   raw_values_.size(1) * D};
      to.count = count;
      to.first_index = first;
      const at::Tensor angle = angles(first, std::max(count, 1));
      to.cos = keep(at::cos(angle));
      to.sin = keep(at::sin(angle));
    };
    segment(p.tail, 0, tail_);
    segment(p.chunk, tail_, problem_.whole ? T : 0);
  }

  Problem problem_;
  at::Generator generator_ = at::detail::createCPUGenerator();
  int sinks_, blocks_, tail_;
  int64_t total_;
  at::Tensor keys_, values_, queries_, out_;
  at::Tensor dense_keys_, dense_values_;  // [kv_heads, total, D] fp32, what the packed cache holds
  at::Tensor raw_keys_, raw_values_;      // [kv_heads, tail + chunk, D], before RoPE
  std::vector<const uint8_t*> key_blocks_, value_blocks_;  // [blocks, kv_heads]
  HugePageArena block_memory_;
  std::vector<at::Tensor> block_tensors_;
  std::mutex block_mutex_;
  Bytes sink_keys_, sink_values_;
  std::vector<const float*> rotation_table_;
  std::vector<at::Tensor> kept_;
  cpu::FixedRotations fixed_;
  size_t packed_bytes_ = 0;
  AttentionParams params_;
  std::vector<Bytes> workspaces_;
  size_t workspace_bytes_ = 0;
};

}  // namespace rillkv::bench
