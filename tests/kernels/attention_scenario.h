// A random attention problem: packed prefix, dense tail and chunk as the kernels take them, the
// same tokens as the oracle takes them, and the tolerance that the comparison deserves. The packed
// bytes come from the oracle's own writer with random codes, so attention is tested without the
// packers.
#pragma once

#include <memory>
#include <random>
#include <vector>

#include "kernels/cpu/fixed_rotations.h"
#include "kernels/params.h"
#include "tests/kernels/isa_fixture.h"
#include "tests/reference/attention.h"
#include "tests/reference/packed_block.h"

namespace rillkv::test {

struct Shape {
  int heads = 3;
  int kv_heads = 1;
  int head_dim = 64;
  int block_size = 128;
  Dtype dtype = Dtype::kFloat32;
  bool ema = false;      // symmetric keys, channel-major symmetric values
  bool trellis = false;  // trellis blocks; key_widths within 1 .. 7
  std::vector<int> key_widths = {1, 2, 3, 4, 5, 6, 7, 8};  // drawn from per channel pair
  bool equal_shares = false;  // of key_widths: all key blocks have one size, as in the product
  bool mixed_pairs = false;   // under ema always: widths drawn per channel
  int value_bits = 4;
  int value_groups = 1;
  int value_width = 4;  // of trellis blocks, one more for the pairs before value_wide_pairs
  int value_wide_pairs = 0;
  std::vector<int> value_octaves = {};  // of each trellis block: its values are 2^that times
                                        // as large
  bool rotate_output = false;
  int sink_capacity = 8;
  int sinks = 8;
  int sink_bits = 8;        // of keys: 2 .. 8 or 16
  int sink_value_bits = 0;  // of values; 0: as many
  int blocks = 2;
  int tail = 5;
  int queries = 7;
  // Stress protocol: no tail and no chunk; the last block holds only this many tokens, the rest of
  // it is noise that no query may see, and the queries are the last tokens. 0: off.
  int provisional = 0;
  int64_t position_shift = 0;  // position = index + shift
  double key_offset = 0;       // added to lo of every other channel of a key block, or taken off
  double key_growth = 1;       // keys are so many times as large every 128 tokens
  double query_deviation = 1.5;
  int query_pair = -1;  // the only channel pair in which queries are not zero; -1: all
  uint32_t seed = 1;
};

std::ostream& operator<<(std::ostream& out, const Shape& shape);

class Scenario {
 public:
  explicit Scenario(const Shape& shape);

  /// Queries and pointers, ready for a kernel; out points to `out()`.
  kernels::cpu::AttentionParams params();
  ActivationBuffer& out() { return out_; }
  int tile_count() const { return shape_.blocks + 3; }
  const Shape& shape() const { return shape_; }

  /// The oracle's outputs, [query][head].
  const std::vector<std::vector<reference::Vector>>& expected();

  /// Largest |out - expected|; NaN if any output is NaN.
  double error();

  /// What fp32 arithmetic may be off by; see the comment in the source.
  double float32_tolerance();
  /// What a kernel with bf16 tiles may be off by.
  double bfloat16_tolerance();
  /// For this instruction set and this dtype: the scalar kernels compute in fp32 whatever the
  /// dtype.
  double tolerance(const std::string& isa);

  /// Packed bytes of block n of one kv head, to tamper with.
  std::vector<uint8_t>& key_block(int n, int kv_head) { return keys_[index_of(n, kv_head)]; }
  std::vector<uint8_t>& value_block(int n, int kv_head) { return values_[index_of(n, kv_head)]; }

 private:
  struct Dense {
    std::unique_ptr<ActivationBuffer> keys, values;
    std::vector<float> cosines, sines;  // [count, D/2]
  };

  size_t index_of(int n, int kv_head) const {
    return static_cast<size_t>(n * shape_.kv_heads + kv_head);
  }
  void add_sinks();
  int sink_value_bits() const {
    return shape_.sink_value_bits > 0 ? shape_.sink_value_bits : shape_.sink_bits;
  }
  /// Random rows [sink_capacity][head_dim] as bytes, and what they stand for.
  std::vector<uint8_t> random_sinks(int bits, std::vector<std::vector<double>>& values);
  void add_block(int n, int kv_head);
  std::vector<int> random_pair_widths();
  std::vector<uint8_t> random_trellis_keys(double size);
  std::vector<uint8_t> random_trellis_values(int n);
  void add_dense(Dense& dense, int count, int64_t first_index);
  double key_size(int64_t index) const;
  void add_rotation(int64_t position, std::vector<float>& cosines, std::vector<float>& sines) const;
  reference::PackedBlock random_block(size_t rows, size_t elements, size_t scales, bool symmetric,
                                      std::vector<int> widths);
  double output_rounding();
  std::vector<std::vector<reference::Vector>> run_oracle(reference::Precision precision);
  /// Largest error of the oracle itself at this precision.
  double error_of(reference::Precision precision);

  Shape shape_;
  std::mt19937 random_;
  reference::Vector inv_freq_;
  int64_t first_query_index_ = 0;
  // Packed storage; copied to aligned memory when params() is called.
  std::vector<std::vector<uint8_t>> sink_keys_, sink_values_, keys_, values_;
  std::vector<std::vector<float>> rotations_;
  std::vector<float> sink_cosines_, sink_sines_, in_block_cosines_, in_block_sines_;
  kernels::cpu::FixedRotations in_block_fixed_;
  Dense tail_, chunk_;
  std::vector<float> query_cosines_, query_sines_;
  ActivationBuffer queries_, out_;
  std::vector<std::vector<reference::Token>> tokens_;  // [kv_head]
  std::vector<std::vector<reference::Vector>> expected_;
  double float32_error_ = -1, bfloat16_error_ = -1;
  // Aligned copies that params() points into.
  std::unique_ptr<GuardedBuffer> aligned_sink_keys_, aligned_sink_values_;
  std::vector<std::unique_ptr<GuardedBuffer>> aligned_blocks_;
  std::vector<const uint8_t*> key_pointers_, value_pointers_;
  std::vector<const float*> rotation_pointers_;
};

/// One task over everything, in a workspace of exactly the size asked for that begins as garbage.
/// Returns false if the kernel wrote outside the workspace or between the outputs.
bool attend_whole(const KernelTable& isa, Scenario& scenario);

/// The same by tasks: queries split at `query_cuts`, tiles at `tile_cuts`; partial results merged.
bool attend_in_parts(const KernelTable& isa, Scenario& scenario, const std::vector<int>& query_cuts,
                     const std::vector<int>& tile_cuts);

/// Every table's attention against a scenario's oracle.
class ScenarioTest : public EveryIsa {
 protected:
  void expect_close(Scenario& scenario, bool intact) {
    EXPECT_TRUE(intact) << isa().name << " wrote outside its buffers: " << scenario.shape();
    const double error = scenario.error(), tolerance = scenario.tolerance(isa().name);
    EXPECT_TRUE(error <= tolerance)
        << isa().name << ": error " << error << " > " << tolerance << ": " << scenario.shape();
    worst_ratio_ = std::max(worst_ratio_, error / tolerance);
  }
  void check(const Shape& shape) {
    Scenario scenario(shape);
    expect_close(scenario, attend_whole(isa(), scenario));
  }
  void TearDown() override {
    RecordProperty("worst_error_over_tolerance", std::to_string(worst_ratio_));
  }

 private:
  double worst_ratio_ = 0;
};

}  // namespace rillkv::test
