#include "tests/kernels/attention_scenario.h"

#include <algorithm>
#include <cmath>
#include <ostream>

#include "tests/reference/trellis_block.h"

namespace rillkv::test {

using reference::PackedBlock;
using reference::Vector;

std::ostream& operator<<(std::ostream& out, const Shape& s) {
  return out << "heads " << s.heads << "/" << s.kv_heads << "/" << s.head_dim << " block "
             << s.block_size << " " << dtype_name(s.dtype)
             << (s.ema       ? " ema"
                 : s.trellis ? " trellis"
                             : " adaptive")
             << " value_width " << s.value_width << " wide " << s.value_wide_pairs << " value_bits "
             << s.value_bits << " groups " << s.value_groups << " rotate " << s.rotate_output
             << " sinks " << s.sinks << "/" << s.sink_capacity << " bits " << s.sink_bits << ","
             << s.sink_value_bits << " blocks " << s.blocks << " tail " << s.tail << " queries "
             << s.queries << " provisional " << s.provisional << " key offset " << s.key_offset
             << " growth " << s.key_growth << " query deviation " << s.query_deviation
             << " query pair " << s.query_pair << " seed " << s.seed;
}

Scenario::Scenario(const Shape& shape)
    : shape_(shape),
      random_(shape.seed),
      queries_(shape.dtype, shape.queries, shape.heads, shape.head_dim),
      out_(shape.dtype, shape.queries, shape.heads, shape.head_dim),
      tokens_(static_cast<size_t>(shape.kv_heads)) {
  const int pairs = shape.head_dim / 2;
  for (int p = 0; p < pairs; ++p) inv_freq_.push_back(std::pow(10000.0, -double(p) / pairs));
  for (int p = 0; p < pairs; ++p) {
    for (int j = 0; j < shape.block_size; ++j) {
      in_block_cosines_.push_back(static_cast<float>(std::cos(j * inv_freq_[size_t(p)])));
      in_block_sines_.push_back(static_cast<float>(std::sin(j * inv_freq_[size_t(p)])));
    }
  }
  in_block_fixed_ = {in_block_cosines_.data(), in_block_sines_.data(),
                     int64_t(pairs) * shape.block_size};
  add_sinks();
  for (int n = 0; n < shape.blocks; ++n) {
    const int64_t first = shape.sink_capacity + int64_t(n) * shape.block_size;
    rotations_.emplace_back();
    std::vector<float> sines;
    add_rotation(first + shape.position_shift, rotations_.back(), sines);
    rotations_.back().insert(rotations_.back().end(), sines.begin(), sines.end());
    for (int h = 0; h < shape.kv_heads; ++h) add_block(n, h);
  }
  const int64_t prefix = (shape.blocks > 0 ? shape.sink_capacity : shape.sinks) +
                         int64_t(shape.blocks) * shape.block_size;
  if (shape.provisional > 0) {
    first_query_index_ = prefix - shape.block_size + shape.provisional - shape.queries;
  } else {
    add_dense(tail_, shape.tail, prefix);
    first_query_index_ = prefix + shape.tail;
    add_dense(chunk_, shape.queries, first_query_index_);
  }
  if (shape.query_deviation > 0) {
    queries_.fill_normal(shape.seed + 1000, shape.query_deviation);
    if (shape.query_pair >= 0) {
      queries_.fill([&](int t, int h, int c) {
        return c % (shape.head_dim / 2) == shape.query_pair ? queries_.get(t, h, c) : 0.0;
      });
    }
  } else {
    queries_.fill([](int, int, int) { return 0.0; });
  }
  for (int t = 0; t < shape.queries; ++t) {
    add_rotation(first_query_index_ + t + shape.position_shift, query_cosines_, query_sines_);
  }
}

double Scenario::key_size(int64_t index) const {
  return std::pow(shape_.key_growth, double(index) / 128);
}

void Scenario::add_rotation(int64_t position, std::vector<float>& cosines,
                            std::vector<float>& sines) const {
  for (double frequency : inv_freq_) {
    cosines.push_back(static_cast<float>(std::cos(double(position) * frequency)));
    sines.push_back(static_cast<float>(std::sin(double(position) * frequency)));
  }
}

PackedBlock Scenario::random_block(size_t rows, size_t elements, size_t scales, bool symmetric,
                                   std::vector<int> widths) {
  PackedBlock block;
  std::uniform_real_distribution<double> reach(1.0, 3.0), offset(-0.5, 0.5);
  for (size_t s = 0; s < scales; ++s) {
    const int width = widths[widths.size() == scales ? s : 0];
    const double range = 2 * reach(random_);
    block.step.push_back(
        reference::half_round(range / ((1 << width) - 1), reference::Direction::kNearest));
    if (!symmetric) {
      block.lo.push_back(
          reference::half_round(-range / 2 + offset(random_), reference::Direction::kNearest));
    }
  }
  for (size_t r = 0; r < rows; ++r) {
    const int width = widths[widths.size() == rows ? r : 0];
    std::uniform_int_distribution<int> code(0, (1 << width) - 1);
    block.codes.emplace_back();
    for (size_t e = 0; e < elements; ++e) block.codes.back().push_back(code(random_));
  }
  block.widths = std::move(widths);
  return block;
}

std::vector<uint8_t> Scenario::random_sinks(int bits, std::vector<std::vector<double>>& values) {
  const auto D = static_cast<size_t>(shape_.head_dim);
  const auto tokens = static_cast<size_t>(shape_.sink_capacity);
  if (bits < 16) {
    const PackedBlock block = random_block(tokens, D, tokens, true, {bits});
    values = reference::token_block_values(block, shape_.head_dim, 1, true);
    return reference::write_token_block(block, shape_.head_dim, 1, true);
  }
  std::uniform_real_distribution<double> value(-3, 3);
  std::vector<std::vector<uint16_t>> rows(tokens, std::vector<uint16_t>(D));
  for (auto& row : rows) {
    for (uint16_t& x : row) {
      x = reference::half_round(value(random_), reference::Direction::kNearest);
    }
  }
  values = reference::sink_row_values(rows);
  return reference::write_sink_rows(rows);
}

void Scenario::add_sinks() {
  for (int h = 0; h < shape_.kv_heads && shape_.sink_capacity > 0; ++h) {
    std::vector<std::vector<double>> decoded[2];
    sink_keys_.push_back(random_sinks(shape_.sink_bits, decoded[0]));
    sink_values_.push_back(random_sinks(sink_value_bits(), decoded[1]));
    for (int t = 0; t < shape_.sinks; ++t) {
      tokens_[size_t(h)].push_back(
          {t, t + shape_.position_shift, decoded[0][size_t(t)], decoded[1][size_t(t)]});
    }
  }
  for (int t = 0; t < shape_.sink_capacity; ++t) {
    add_rotation(t + shape_.position_shift, sink_cosines_, sink_sines_);
  }
}

std::vector<int> Scenario::random_pair_widths() {
  const auto pairs = static_cast<size_t>(shape_.head_dim) / 2;
  std::vector<int> widths;
  std::uniform_int_distribution<size_t> pick(0, shape_.key_widths.size() - 1);
  for (size_t p = 0; p < pairs; ++p) {
    widths.push_back(
        shape_.key_widths[shape_.equal_shares ? p % shape_.key_widths.size() : pick(random_)]);
  }
  if (shape_.equal_shares) std::shuffle(widths.begin(), widths.end(), random_);
  return widths;
}

// Any bits are a trellis block: planes are noise, and the scales make of them what random_block
// makes of its codes.
std::vector<uint8_t> Scenario::random_trellis_keys(double size) {
  const auto D = static_cast<size_t>(shape_.head_dim);
  const std::vector<int> widths = random_pair_widths();
  std::vector<uint8_t> bytes(
      static_cast<size_t>(reference::trellis_key_size(shape_.block_size, widths)));
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random_() & 255);
  std::uniform_real_distribution<double> reach(1.0, 3.0), offset(-0.5, 0.5);
  for (size_t c = 0; c < D; ++c) {
    const int top = (2 << widths[c % (D / 2)]) - 1;
    const double wanted = 2 * reach(random_) / top * size;
    const int index = 136 + static_cast<int>(std::lround(8 * std::log2(wanted)));
    const double moved = offset(random_) + (c % 2 == 0 ? 1 : -1) * shape_.key_offset;
    const long zero = std::lround(moved * size / reference::trellis_step(index) - top / 2.0);
    bytes[2 * c] = static_cast<uint8_t>(zero & 255);
    bytes[2 * c + 1] = static_cast<uint8_t>(zero >> 8 & 255);
    bytes[2 * D + c] = static_cast<uint8_t>(index);
  }
  for (size_t p = 0; p < D / 2; ++p) bytes[3 * D + p] = static_cast<uint8_t>(widths[p] * 17);
  return bytes;
}

std::vector<uint8_t> Scenario::random_trellis_values(int n) {
  std::vector<int> widths;
  for (int p = 0; p < shape_.head_dim / 2; ++p) {
    widths.push_back(shape_.value_width + (p < shape_.value_wide_pairs ? 1 : 0));
  }
  std::vector<uint8_t> bytes(
      static_cast<size_t>(reference::trellis_value_size(shape_.block_size, widths)));
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random_() & 255);
  std::uniform_real_distribution<double> reach(1.0, 3.0);
  for (size_t t = 0; t < static_cast<size_t>(shape_.block_size); ++t) {
    const int octaves = shape_.value_octaves.empty() ? 0 : shape_.value_octaves[size_t(n)];
    const double step = std::ldexp(reach(random_), octaves - shape_.value_width - 1);
    bytes[t] = static_cast<uint8_t>(136 + std::lround(8 * std::log2(step)));
  }
  return bytes;
}

void Scenario::add_block(int n, int kv_head) {
  const auto D = static_cast<size_t>(shape_.head_dim), B = static_cast<size_t>(shape_.block_size);
  const double size = key_size(shape_.sink_capacity + int64_t(n) * shape_.block_size);
  const auto add_tokens = [&](const std::vector<std::vector<double>>& keys,
                              const std::vector<std::vector<double>>& values) {
    const bool last = n == shape_.blocks - 1;
    const size_t held = last && shape_.provisional > 0 ? size_t(shape_.provisional) : B;
    for (size_t t = 0; t < held; ++t) {
      const int64_t index = shape_.sink_capacity + int64_t(n) * shape_.block_size + int64_t(t);
      tokens_[size_t(kv_head)].push_back(
          {index, index + shape_.position_shift, keys[t], values[t]});
    }
  };
  if (shape_.trellis) {
    keys_.push_back(random_trellis_keys(size));
    values_.push_back(random_trellis_values(n));
    return add_tokens(
        reference::trellis_key_values(keys_.back().data(), shape_.block_size, shape_.head_dim),
        reference::trellis_value_values(values_.back().data(), shape_.block_size, shape_.head_dim,
                                        shape_.value_width, shape_.value_wide_pairs));
  }
  const auto random_widths = [&] {
    std::uniform_int_distribution<size_t> pick(0, shape_.key_widths.size() - 1);
    std::vector<int> widths = random_pair_widths();
    widths.resize(D);
    for (size_t p = 0; p < D / 2; ++p) {
      // Policy "ema" widens single channels, "adaptive" pairs.
      widths[p + D / 2] =
          shape_.ema || shape_.mixed_pairs ? shape_.key_widths[pick(random_)] : widths[p];
    }
    return widths;
  };
  PackedBlock keys = random_block(D, B, D, shape_.ema, random_widths());
  for (size_t c = 0; c < keys.lo.size() && shape_.key_offset != 0; ++c) {
    const double moved =
        reference::half_value(keys.lo[c]) + (c % 2 == 0 ? 1 : -1) * shape_.key_offset;
    keys.lo[c] = reference::half_round(moved, reference::Direction::kNearest);
  }
  for (std::vector<uint16_t>* scales : {&keys.lo, &keys.step}) {
    if (size == 1) break;
    for (uint16_t& x : *scales) {
      x = reference::half_round(reference::half_value(x) * size, reference::Direction::kNearest);
    }
  }
  const auto key_values = reference::channel_block_values(keys, shape_.ema);
  keys_.push_back(reference::write_channel_block(keys, shape_.block_size, shape_.ema));
  std::vector<std::vector<double>> values;
  if (shape_.ema) {
    const PackedBlock block = random_block(D, B, D, true, random_widths());
    values = reference::channel_block_values(block, true);
    values_.push_back(reference::write_channel_block(block, shape_.block_size, true));
  } else {
    const PackedBlock block = random_block(B, D, static_cast<size_t>(shape_.value_groups) * B,
                                           false, {shape_.value_bits});
    values = reference::token_block_values(block, shape_.head_dim, shape_.value_groups, false);
    values_.push_back(
        reference::write_token_block(block, shape_.head_dim, shape_.value_groups, false));
  }
  add_tokens(key_values, values);
}

void Scenario::add_dense(Dense& dense, int count, int64_t first_index) {
  const int D = shape_.head_dim;
  dense.keys = std::make_unique<ActivationBuffer>(shape_.dtype, count, shape_.kv_heads, D);
  dense.values = std::make_unique<ActivationBuffer>(shape_.dtype, count, shape_.kv_heads, D);
  dense.keys->fill_normal(static_cast<uint32_t>(random_()));
  dense.values->fill_normal(static_cast<uint32_t>(random_()));
  for (int t = 0; t < count; ++t) {
    const int64_t position = first_index + t + shape_.position_shift;
    add_rotation(position, dense.cosines, dense.sines);
    for (int h = 0; h < shape_.kv_heads; ++h) {
      reference::Token token = {first_index + t, position, {}, {}};
      for (int c = 0; c < D && shape_.key_growth != 1; ++c) {
        dense.keys->set(t, h, c, dense.keys->get(t, h, c) * key_size(first_index + t));
      }
      for (int c = 0; c < D; ++c) {
        token.key.push_back(dense.keys->get(t, h, c));
        token.value.push_back(dense.values->get(t, h, c));
      }
      tokens_[size_t(h)].push_back(std::move(token));
    }
  }
}

kernels::cpu::AttentionParams Scenario::params() {
  const auto aligned = [](const std::vector<std::vector<uint8_t>>& parts) {
    size_t bytes = 0;
    for (const auto& part : parts) bytes += part.size();
    auto buffer = std::make_unique<GuardedBuffer>(bytes);
    uint8_t* at = buffer->data();
    for (const auto& part : parts) at = std::copy(part.begin(), part.end(), at);
    return buffer;
  };
  kernels::cpu::AttentionParams p;
  p.heads = shape_.heads;
  p.kv_heads = shape_.kv_heads;
  p.head_dim = shape_.head_dim;
  p.block_size = shape_.block_size;
  p.dtype = shape_.dtype;
  p.scale = static_cast<float>(1.0 / std::sqrt(double(shape_.head_dim)));
  p.queries = queries_.activation();
  p.query_cos = query_cosines_.data();
  p.query_sin = query_sines_.data();
  p.query_count = shape_.queries;
  p.first_query_index = first_query_index_;
  p.out = out_.mutable_activation();
  p.rotate_output = shape_.rotate_output;
  p.rotations = {in_block_cosines_.data(), in_block_sines_.data()};
  p.in_block_fixed = in_block_fixed_.data();

  kernels::PackedPrefix& prefix = p.prefix;
  prefix.sink_count = shape_.sinks;
  prefix.sink_capacity = shape_.sink_capacity;
  prefix.sink_key_bits = shape_.sink_bits;
  prefix.sink_value_bits = sink_value_bits();
  if (shape_.sink_capacity > 0) {
    aligned_sink_keys_ = aligned(sink_keys_);
    aligned_sink_values_ = aligned(sink_values_);
    prefix.sink_keys = aligned_sink_keys_->data();
    prefix.sink_values = aligned_sink_values_->data();
    prefix.sink_key_stride = static_cast<int64_t>(sink_keys_[0].size());
    prefix.sink_value_stride = static_cast<int64_t>(sink_values_[0].size());
    prefix.sink_cos = sink_cosines_.data();
    prefix.sink_sin = sink_sines_.data();
  }
  aligned_blocks_.clear();
  key_pointers_.clear();
  value_pointers_.clear();
  rotation_pointers_.clear();
  for (size_t i = 0; i < keys_.size(); ++i) {
    aligned_blocks_.push_back(aligned({keys_[i]}));
    key_pointers_.push_back(aligned_blocks_.back()->data());
    aligned_blocks_.push_back(aligned({values_[i]}));
    value_pointers_.push_back(aligned_blocks_.back()->data());
  }
  for (const auto& rotation : rotations_) rotation_pointers_.push_back(rotation.data());
  prefix.block_count = shape_.blocks;
  prefix.keys = key_pointers_.data();
  prefix.values = value_pointers_.data();
  prefix.rotations = rotation_pointers_.data();
  prefix.keys_symmetric = shape_.ema;
  prefix.values_channel_major = shape_.ema;
  prefix.value_bits = shape_.value_bits;
  prefix.value_groups = shape_.value_groups;
  prefix.trellis = shape_.trellis;
  prefix.value_width = shape_.value_width;
  prefix.value_wide_pairs = shape_.value_wide_pairs;

  const auto segment = [&](Dense& dense, int count, int64_t first_index) {
    kernels::DenseSegment s;
    if (dense.keys == nullptr) return s;
    s.keys = dense.keys->activation();
    s.values = dense.values->activation();
    s.count = count;
    s.first_index = first_index;
    s.cos = dense.cosines.data();
    s.sin = dense.sines.data();
    return s;
  };
  p.tail = segment(tail_, shape_.tail, first_query_index_ - shape_.tail);
  p.chunk = segment(chunk_, shape_.queries, first_query_index_);
  return p;
}

std::vector<std::vector<Vector>> Scenario::run_oracle(reference::Precision precision) {
  const int group = shape_.heads / shape_.kv_heads;
  const double scale = 1.0 / std::sqrt(double(shape_.head_dim));
  std::vector<std::vector<Vector>> result(static_cast<size_t>(shape_.queries));
  for (int h = 0; h < shape_.heads; ++h) {
    const auto rotated =
        reference::with_rotated_keys(tokens_[size_t(h / group)], inv_freq_, precision);
    for (int t = 0; t < shape_.queries; ++t) {
      reference::Query query = {
          first_query_index_ + t, first_query_index_ + t + shape_.position_shift, {}};
      for (int c = 0; c < shape_.head_dim; ++c) query.vector.push_back(queries_.get(t, h, c));
      Vector out = reference::attend(query, rotated, inv_freq_, scale, precision);
      if (shape_.rotate_output) out = reference::hadamard(out);
      result[size_t(t)].push_back(std::move(out));
    }
  }
  return result;
}

const std::vector<std::vector<Vector>>& Scenario::expected() {
  if (expected_.empty()) expected_ = run_oracle(reference::Precision::kExact);
  return expected_;
}

double Scenario::error() {
  double worst = 0;
  for (int t = 0; t < shape_.queries; ++t) {
    for (int h = 0; h < shape_.heads; ++h) {
      for (int c = 0; c < shape_.head_dim; ++c) {
        const double difference =
            std::fabs(out_.get(t, h, c) - expected()[size_t(t)][size_t(h)][size_t(c)]);
        if (!(difference <= worst)) worst = difference;
        if (std::isnan(worst)) return worst;
      }
    }
  }
  return worst;
}

// Rounding an output to the dtype: half a unit in the last place of the largest.
double Scenario::output_rounding() {
  double most = 0;
  for (const auto& row : expected()) {
    for (const Vector& out : row) {
      for (double x : out) most = std::max(most, std::fabs(x));
    }
  }
  const int significant_bits = shape_.dtype == Dtype::kFloat32    ? 24
                               : shape_.dtype == Dtype::kBFloat16 ? 8
                                                                  : 11;
  return most * std::ldexp(1.0, -significant_bits);
}

double Scenario::error_of(reference::Precision precision) {
  const auto actual = run_oracle(precision);
  double worst = 0;
  for (size_t t = 0; t < actual.size(); ++t) {
    for (size_t h = 0; h < actual[t].size(); ++h) {
      for (size_t c = 0; c < actual[t][h].size(); ++c) {
        worst = std::max(worst, std::fabs(actual[t][h][c] - expected()[t][h][c]));
      }
    }
  }
  return worst;
}

// Four times what naive fp32 code is off by on the same problem: a kernel adds in another order and
// composes its rotation from two tables (about three more roundings an element). Plus twice the
// relative error allowed to an exponential, 4e-7 (weight and sum), on the largest value; the
// inverse Hadamard transform may align those errors.
double Scenario::float32_tolerance() {
  if (float32_error_ < 0) float32_error_ = error_of(reference::Precision::kFloat32);
  double largest_value = 0;
  for (const auto& head : tokens_) {
    for (const auto& token : head) {
      for (double x : token.value) largest_value = std::max(largest_value, std::fabs(x));
    }
  }
  const double exponential = 2 * 4e-7 * largest_value * (shape_.rotate_output ? 2 : 1);
  return 4 * float32_error_ + exponential + output_rounding();
}

// A kernel with bf16 tiles rounds rotated queries and keys, weights and values to 8 bits and
// accumulates in fp32. The same roundings in an otherwise exact computation show what such code
// costs here; a kernel may be off by twice that.
double Scenario::bfloat16_tolerance() {
  if (bfloat16_error_ < 0) bfloat16_error_ = error_of(reference::Precision::kBFloat16Tiles);
  return 2 * bfloat16_error_ + float32_tolerance();
}

double Scenario::tolerance(const std::string& isa) {
  return shape_.dtype == Dtype::kFloat32 || isa == "scalar" ? float32_tolerance()
                                                            : bfloat16_tolerance();
}

bool attend_whole(const KernelTable& isa, Scenario& scenario) {
  return attend_in_parts(isa, scenario, {}, {});
}

bool attend_in_parts(const KernelTable& isa, Scenario& scenario, const std::vector<int>& query_cuts,
                     const std::vector<int>& tile_cuts) {
  const kernels::cpu::AttentionParams params = scenario.params();
  const auto with_ends = [](std::vector<int> cuts, int end) {
    cuts.insert(cuts.begin(), 0);
    cuts.push_back(end);
    return cuts;
  };
  const std::vector<int> queries = with_ends(query_cuts, params.query_count);
  const std::vector<int> tiles = with_ends(tile_cuts, scenario.tile_count());
  const int parts = static_cast<int>(tiles.size()) - 1;
  bool intact = true;
  for (int h = 0; h < params.kv_heads; ++h) {
    for (size_t q = 0; q + 1 < queries.size(); ++q) {
      kernels::cpu::AttentionTask task;
      task.kv_head = h;
      task.query_begin = queries[q];
      task.query_end = queries[q + 1];
      const auto rows =
          static_cast<size_t>((task.query_end - task.query_begin) * params.heads / params.kv_heads);
      const size_t part_floats = rows * static_cast<size_t>(params.head_dim + 2);
      GuardedBuffer partials(sizeof(float) * part_floats * static_cast<size_t>(parts), 0xff);
      GuardedBuffer workspace(
          isa.attention_workspace_bytes(params, task.query_end - task.query_begin), 0xff);
      for (int part = 0; part < parts; ++part) {
        task.tile_begin = tiles[static_cast<size_t>(part)];
        task.tile_end = tiles[static_cast<size_t>(part) + 1];
        task.partial =
            parts == 1 ? nullptr : partials.as<float>() + static_cast<size_t>(part) * part_floats;
        isa.attend(params, task, workspace.data());
      }
      if (parts > 1) {
        kernels::cpu::merge_partials(params, h, task.query_begin, task.query_end,
                                     partials.as<float>(), parts);
      }
      intact &= partials.intact() && workspace.intact();
    }
  }
  return intact && scenario.out().gaps_intact();
}

}  // namespace rillkv::test
