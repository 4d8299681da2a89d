// A launch of rillkv_pack_* and everything that it leaves behind, against blocks as the CPU writes
// them.
#pragma once

#include "kernels/packed_format.h"
#include "tests/cuda/ingest_oracle.h"

namespace rillkv::test {

namespace cuda = kernels::cuda;

struct PackCase {
  int kv_heads, head_dim, block_size, tail, chunk, blocks;
  Dtype dtype;
  int bits, group_size, gap;
  bool keep_rest;
  std::vector<int> classes = {1, 2, 3, 4, 5, 6, 7, 8};
  bool close_gains = false;  // channels have one range, and energies differ in their last bits
  float energy_scale = 1;    // 0 and tiny: gains of a pair share an exponent; huge: they overflow
  std::vector<double> keys = {}, values = {};  // if there are any: what elements are drawn from
};
inline std::ostream& operator<<(std::ostream& out, const PackCase& c) {
  return out << c.kv_heads << " heads of " << c.head_dim << ", tail " << c.tail << " of "
             << c.block_size << " and " << c.chunk << " tokens, " << dtype_name(c.dtype) << ", "
             << c.bits << " bits, gap " << c.gap;
}

/// What decides a block's keys, and how its values are packed.
class KeyPacker {
 public:
  virtual ~KeyPacker() = default;
  /// Values as the CPU packs them, by default of policy "adaptive"; adds to `clipped`.
  virtual std::vector<uint8_t> pack_values(const PackCase& c,
                                           const kernels::cpu::PackParams& params,
                                           const kernels::cpu::KernelTable& scalar,
                                           int64_t& clipped) const {
    const int groups = format::value_groups(c.head_dim, c.group_size);
    GuardedBuffer one(format::token_block_bytes(c.block_size, c.head_dim, groups, false, c.bits));
    clipped += scalar.pack_tokens_affine(params, groups, c.bits, one.data());
    const auto bytes = one.bytes();
    return {bytes.begin(), bytes.end()};
  }
  /// Keys of block n of kv head h as the CPU packs them.
  virtual std::vector<uint8_t> pack(const kernels::cpu::PackParams& params, int n, int h,
                                    int increments) const = 0;
  /// What the launch needs besides.
  virtual void set(ptx::Device& device, cuda::PackParams& p) const = 0;
};

class PackBlocksTest : public EveryDevice {
 protected:
  void SetUp() override {
    EveryDevice::SetUp();
    scalar_ = kernels::cpu::find_kernels("scalar");
  }

  /// Keys or values of the tail's and the chunk's tokens, contiguous: what the CPU packs.
  struct Side {
    std::vector<uint8_t> all;  // [tail + chunk, kv_heads, D]
    std::vector<uint8_t> tail, chunk;
    int row_bytes;
  };
  static Side make_side(const PackCase& c, uint32_t seed, const std::vector<double>& from) {
    std::mt19937 random(seed);
    std::normal_distribution<double> normal(0.0, 1.0);
    const auto size = static_cast<int>(dtype_bytes(c.dtype));
    const int row = c.kv_heads * c.head_dim, tokens = c.tail + c.chunk;
    Side side;
    side.row_bytes = row * size;
    side.all.resize(static_cast<size_t>(tokens * row * size));
    for (int i = 0; i < tokens * row; ++i) {
      // The cases that rounding and degenerate scales care about, as in cuda_pack_test.cpp.
      const double x = normal(random);
      const int kind = i % row % 8;
      const double value = !from.empty()   ? from[random() % from.size()]
                           : c.close_gains ? x
                           : kind == 0     ? 1.25
                           : kind == 1     ? 3000 + x
                           : kind == 2     ? (x < 0 ? -0.0 : 0.0)
                           : kind == 3     ? x * 1e-7
                           : kind == 4     ? x * 8000
                                           : x;
      if (c.close_gains && i % row != 0) {
        std::copy_n(side.all.data() + static_cast<size_t>((i / row * row) * size), size,
                    side.all.data() + static_cast<size_t>(i * size));
        continue;
      }
      store_element(std::min(32000.0, std::max(-32000.0, value)), c.dtype,
                    side.all.data() + static_cast<size_t>(i * size));
    }
    // Rows of the tail that hold no token, and the gaps of the chunk, are NaN.
    side.tail.assign(static_cast<size_t>(c.block_size * side.row_bytes), 0xff);
    std::copy_n(side.all.begin(), c.tail * side.row_bytes, side.tail.begin());
    const int stride = side.row_bytes + c.gap * size;
    side.chunk.assign(static_cast<size_t>(c.chunk * stride), 0xff);
    for (int t = 0; t < c.chunk; ++t) {
      std::copy_n(side.all.begin() + (c.tail + t) * side.row_bytes, side.row_bytes,
                  side.chunk.begin() + t * stride);
    }
    return side;
  }
  /// The CPU's view of block n of one kv head.
  static kernels::cpu::PackParams cpu_params(const PackCase& c, const Side& side, int n, int h) {
    kernels::cpu::PackParams p;
    p.input = {side.all.data() + static_cast<size_t>(n * c.block_size * side.row_bytes),
               int64_t{c.kv_heads} * c.head_dim, c.head_dim};
    p.dtype = c.dtype;
    p.kv_head = h;
    p.tokens = std::min(c.block_size, c.tail + c.chunk - n * c.block_size);
    p.block_size = c.block_size;
    p.head_dim = c.head_dim;
    return p;
  }
  void run(const PackCase& c, uint32_t seed, const KeyPacker& packer);

  const kernels::cpu::KernelTable* scalar_ = nullptr;
};

inline void PackBlocksTest::run(const PackCase& c, uint32_t seed, const KeyPacker& packer) {
  const int D = c.head_dim, pairs = D / 2, class_count = static_cast<int>(c.classes.size());
  const int increments = pairs * (class_count - 1) * 2 / 5;
  const int groups = format::value_groups(D, c.group_size);
  const Side keys = make_side(c, seed, c.keys), values = make_side(c, seed + 1, c.values);
  // Block by block as the CPU writes them.
  std::vector<std::vector<uint8_t>> expected;
  std::vector<unsigned long long> expected_clipped;
  size_t key_bytes = 0, value_bytes = 0;
  for (int n = 0; n < c.blocks; ++n) {
    std::vector<uint8_t> block;
    for (int h = 0; h < c.kv_heads; ++h) {
      const auto bytes = packer.pack(cpu_params(c, keys, n, h), n, h, increments);
      key_bytes = bytes.size();
      block.insert(block.end(), bytes.begin(), bytes.end());
    }
    int64_t clipped = 0;
    for (int h = 0; h < c.kv_heads; ++h) {
      const auto bytes = packer.pack_values(c, cpu_params(c, values, n, h), *scalar_, clipped);
      value_bytes = bytes.size();
      block.insert(block.end(), bytes.begin(), bytes.end());
    }
    expected.push_back(block);
    expected_clipped.push_back(static_cast<unsigned long long>(clipped) + 10);
  }

  ptx::DeviceArray<uint8_t> key_tail(device(), keys.tail), value_tail(device(), values.tail);
  ptx::DeviceArray<uint8_t> key_chunk(device(), keys.chunk), value_chunk(device(), values.chunk);
  ptx::DeviceArray<unsigned long long> clipped(
      device(), std::vector<unsigned long long>(static_cast<size_t>(c.blocks), 10));
  constexpr int kFirstBlock = 2;
  const auto table_size = static_cast<size_t>((kFirstBlock + c.blocks) * c.kv_heads);
  ptx::DeviceArray<const uint8_t*> key_table(device(), table_size);
  ptx::DeviceArray<const uint8_t*> value_table(device(), table_size);
  std::vector<ptx::DeviceArray<uint8_t>> storage;
  for (const auto& block : expected) storage.emplace_back(device(), block.size());

  cuda::PackParams p;
  const int64_t stride = c.kv_heads * D + c.gap;
  p.keys = {key_chunk.data(), stride, D};
  p.values = {value_chunk.data(), stride, D};
  p.tail_keys = key_tail.data();
  p.tail_values = value_tail.data();
  p.dtype = c.dtype;
  p.kv_heads = c.kv_heads;
  p.head_dim = D;
  p.block_size = c.block_size;
  p.tail_count = c.tail;
  p.tokens = c.tail + c.chunk;
  p.blocks = c.blocks;
  p.keep_rest = c.keep_rest;
  for (size_t i = 0; i < storage.size(); ++i) p.storage[i] = storage[i].data();
  p.key_bytes = static_cast<int32_t>(key_bytes);
  p.value_bytes = static_cast<int32_t>(value_bytes);
  p.key_table = key_table.data();
  p.value_table = value_table.data();
  p.first_block = kFirstBlock;
  p.class_count = class_count;
  std::copy(c.classes.begin(), c.classes.end(), p.classes);
  p.increments = increments;
  p.value_groups = groups;
  p.value_bits = c.bits;
  p.clipped = clipped.data();
  DeviceQueue queue(device(), 1);
  packer.set(device(), p);
  cuda::pack(queue, p);

  const auto got_keys = key_table.to_vector(), got_values = value_table.to_vector();
  for (int n = 0; n < c.blocks; ++n) {
    const auto& block = storage[static_cast<size_t>(n)];
    ASSERT_EQ(first_difference(block.to_vector(), expected[static_cast<size_t>(n)]), -1)
        << c << ", block " << n << ", keys of " << key_bytes << " and values of " << value_bytes;
    for (int h = 0; h < c.kv_heads; ++h) {
      const auto at = static_cast<size_t>((kFirstBlock + n) * c.kv_heads + h);
      ASSERT_EQ(got_keys[at], block.data() + static_cast<size_t>(h) * key_bytes) << c;
      ASSERT_EQ(got_values[at], block.data() + static_cast<size_t>(c.kv_heads) * key_bytes +
                                    static_cast<size_t>(h) * value_bytes)
          << c;
    }
  }
  ASSERT_EQ(clipped.to_vector(), expected_clipped) << c;
  // Leftover tokens come first in the tail; other rows are as they were.
  const auto check_tail = [&](const Side& side, const ptx::DeviceArray<uint8_t>& got) {
    auto tail = side.tail;
    const int rest = c.keep_rest ? c.tail + c.chunk - c.blocks * c.block_size : 0;
    if (rest > 0) {
      std::copy_n(side.all.begin() + c.blocks * c.block_size * side.row_bytes,
                  rest * side.row_bytes, tail.begin());
    }
    ASSERT_EQ(first_difference(got.to_vector(), tail), -1) << c;
  };
  check_tail(keys, key_tail);
  check_tail(values, value_tail);
}

}  // namespace rillkv::test
