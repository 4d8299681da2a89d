// rillkv_pack_*: blocks, tables, clipped codes and the tail's leftover, against kernels/cpu's
// scalar table, which has its own tests against an oracle.
#include "kernels/packed_format.h"
#include "tests/cuda/ingest_oracle.h"

namespace rillkv::test {
namespace {

namespace format = rillkv::format;
namespace cuda = kernels::cuda;

struct Case {
  int kv_heads, head_dim, block_size, tail, chunk, blocks;
  Dtype dtype;
  int bits, group_size, gap;
  bool keep_rest;
  std::vector<int> classes = {1, 2, 3, 4, 5, 6, 7, 8};
  bool close_gains = false;  // channels have one range, and energies differ in their last bits
  float energy_scale = 1;    // 0 and tiny: gains of a pair share an exponent; huge: they overflow
};
std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << c.kv_heads << " heads of " << c.head_dim << ", tail " << c.tail << " of "
             << c.block_size << " and " << c.chunk << " tokens, " << dtype_name(c.dtype) << ", "
             << c.bits << " bits, gap " << c.gap;
}

const Case kCases[] = {
    {2, 128, 128, 0, 256, 2, Dtype::kBFloat16, 4, 64, 0, true},   // whole blocks
    {2, 128, 128, 100, 200, 2, Dtype::kFloat16, 4, 64, 0, true},  // from the tail, a rest of 44
    {1, 64, 128, 127, 128, 1, Dtype::kBFloat16, 2, 64, 8, true},  // a rest of 127; clip search
    {3, 80, 32, 32, 70, 3, Dtype::kFloat32, 3, 24, 1, true},      // a full tail, odd strides
    {2, 2, 32, 5, 91, 3, Dtype::kBFloat16, 8, 64, 3, true},       //
    {1, 256, 64, 1, 64, 1, Dtype::kFloat16, 5, 64, 0, true},      //
    {1, 256, 256, 3, 300, 1, Dtype::kFloat32, 4, 64, 0, true},    // a tile that does not fit
    {2, 96, 64, 20, 30, 1, Dtype::kFloat16, 4, 64, 0, false},     // a provisional short block
    {1, 6, 32, 0, 1, 1, Dtype::kFloat32, 6, 64, 2, false},        //
    {2, 64, 64, 9, 55, 1, Dtype::kBFloat16, 7, 64, 0, false},     // provisional, full
    {2, 64, 32, 7, 100, 3, Dtype::kBFloat16, 4, 64, 0, true, {2, 4, 6, 8}},
    {1, 64, 32, 7, 100, 3, Dtype::kBFloat16, 4, 64, 0, true, {4}},
    {1, 48, 32, 7, 100, 3, Dtype::kFloat32, 4, 64, 1, true, {1, 8}},
    {2, 128, 32, 0, 96, 3, Dtype::kFloat16, 4, 64, 0, true, {3, 4}, true},
    {2, 256, 32, 0, 96, 3, Dtype::kFloat32, 4, 64, 0, true, {1, 2, 3, 4, 5, 6, 7, 8}, true},
    // Tiles that are packed from registers: every width, ties of every kind, any start, and rows
    // that are not 16-byte chunks or not enough.
    {2, 128, 128, 0, 256, 2, Dtype::kFloat16, 3, 128, 0, true, {2, 4, 6, 8}},
    {1, 64, 128, 5, 256, 2, Dtype::kFloat16, 5, 64, 8, true, {1, 8}},
    {1, 128, 128, 128, 128, 2, Dtype::kBFloat16, 6, 128, 16, true, {4}},
    {1, 64, 128, 0, 128, 1, Dtype::kFloat16, 7, 64, 0, true, {3, 5, 7}},
    {1, 128, 128, 31, 97, 1, Dtype::kBFloat16, 2, 128, 0, true, {1, 2, 3}},
    {1, 128, 128, 64, 100, 1, Dtype::kFloat16, 2, 64, 0, true, {6, 7, 8}},
    {1, 128, 128, 64, 100, 1, Dtype::kBFloat16, 8, 64, 1, true},
    {1, 128, 128, 64, 50, 1, Dtype::kBFloat16, 5, 64, 0, false},
    {1, 128, 128, 0, 128, 1, Dtype::kFloat32, 7, 64, 0, true},
    {1, 128, 128, 0, 128, 1, Dtype::kFloat16, 4, 64, 0, true, {3, 4}, true},
    {1, 64, 128, 0, 128, 1, Dtype::kBFloat16, 4, 64, 0, true, {1, 2, 3, 4, 5, 6, 7, 8}, true},
    {1, 128, 128, 0, 128, 1, Dtype::kBFloat16, 4, 64, 0, true, {2, 3, 5, 6, 8}, false, 0},
    {1, 64, 128, 0, 128, 1, Dtype::kFloat16, 4, 64, 0, true, {1, 2, 4, 7}, false, 1e-40f},
    {1, 128, 128, 0, 128, 1, Dtype::kFloat16, 4, 64, 0, true, {1, 2, 4, 7}, true, 1e-40f},
    {1, 128, 128, 0, 128, 1, Dtype::kFloat16, 4, 64, 0, true, {1, 2, 4, 7}, false, 1e-44f},
    {1, 64, 128, 0, 128, 1, Dtype::kBFloat16, 4, 64, 0, true, {1, 2, 3, 4, 5}, false, 3e-45f},
    {1, 128, 128, 0, 128, 1, Dtype::kFloat16, 4, 64, 0, true, {5, 6, 8}, false, 1e34f},
};

class CudaPackBlocksTest : public EveryDevice {
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
  static Side make_side(const Case& c, uint32_t seed) {
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
      const double value = c.close_gains ? x
                           : kind == 0   ? 1.25
                           : kind == 1   ? 3000 + x
                           : kind == 2   ? (x < 0 ? -0.0 : 0.0)
                           : kind == 3   ? x * 1e-7
                           : kind == 4   ? x * 8000
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
  static kernels::cpu::PackParams cpu_params(const Case& c, const Side& side, int n, int h) {
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
  void run(const Case& c, uint32_t seed);

  const kernels::cpu::KernelTable* scalar_ = nullptr;
};

void CudaPackBlocksTest::run(const Case& c, uint32_t seed) {
  const int D = c.head_dim, pairs = D / 2, class_count = static_cast<int>(c.classes.size());
  const int increments = pairs * (class_count - 1) * 2 / 5;
  const int groups = format::value_groups(D, c.group_size);
  const Side keys = make_side(c, seed), values = make_side(c, seed + 1);
  // Few distinct energies and constant channels make ties.
  std::mt19937 random(seed + 2);
  std::vector<float> energies(static_cast<size_t>(c.blocks * c.kv_heads * D));
  for (float& e : energies) e = static_cast<float>(random() % 5) * 0.37f;
  if (c.close_gains) {
    for (size_t i = 0; i < energies.size(); ++i) {
      // A pair's sum is 1 and a few units of the last place.
      const bool second = i % static_cast<size_t>(D) >= static_cast<size_t>(pairs);
      energies[i] = second ? 0.0f : 1.0f + std::ldexp(static_cast<float>(random() % 32), -23);
    }
  }

  for (float& e : energies) e *= c.energy_scale;

  // Block by block as the CPU writes them.
  std::vector<std::vector<uint8_t>> expected;
  std::vector<unsigned long long> expected_clipped;
  size_t key_bytes = 0;
  const size_t value_bytes = format::token_block_bytes(c.block_size, D, groups, false, c.bits);
  for (int n = 0; n < c.blocks; ++n) {
    std::vector<uint8_t> block;
    for (int h = 0; h < c.kv_heads; ++h) {
      std::vector<float> lo(static_cast<size_t>(D)), hi = lo, spread = lo;
      const auto params = cpu_params(c, keys, n, h);
      scalar_->min_max(params, lo.data(), hi.data());
      for (size_t k = 0; k < spread.size(); ++k) spread[k] = (hi[k] - lo[k]) * (hi[k] - lo[k]);
      std::vector<uint8_t> widths(static_cast<size_t>(pairs));
      kernels::cpu::allocate_widths(spread.data(), energies.data() + (n * c.kv_heads + h) * D, D,
                                    c.classes.data(), class_count, increments, widths.data());
      int sum = 0;
      for (int k = 0; k < D; ++k) sum += format::channel_width(widths.data(), k, D);
      key_bytes = format::channel_block_bytes(D, c.block_size, false, sum);
      GuardedBuffer one(key_bytes);
      scalar_->pack_channels_affine(params, lo.data(), hi.data(), widths.data(), one.data());
      const auto bytes = one.bytes();
      block.insert(block.end(), bytes.begin(), bytes.end());
    }
    int64_t clipped = 0;
    for (int h = 0; h < c.kv_heads; ++h) {
      GuardedBuffer one(value_bytes);
      clipped +=
          scalar_->pack_tokens_affine(cpu_params(c, values, n, h), groups, c.bits, one.data());
      const auto bytes = one.bytes();
      block.insert(block.end(), bytes.begin(), bytes.end());
    }
    expected.push_back(block);
    expected_clipped.push_back(static_cast<unsigned long long>(clipped) + 10);
  }

  ptx::DeviceArray<uint8_t> key_tail(device(), keys.tail), value_tail(device(), values.tail);
  ptx::DeviceArray<uint8_t> key_chunk(device(), keys.chunk), value_chunk(device(), values.chunk);
  ptx::DeviceArray<float> device_energies(device(), energies);
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
  p.energies = device_energies.data();
  p.class_count = class_count;
  std::copy(c.classes.begin(), c.classes.end(), p.classes);
  p.increments = increments;
  p.value_groups = groups;
  p.value_bits = c.bits;
  p.clipped = clipped.data();
  DeviceQueue queue(device(), 1);
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

TEST_P(CudaPackBlocksTest, BytesTablesAndLeftoverAreTheCpus) {
  under_every_order([&] {
    for (const Case& c : kCases) {
      run(c, 11);
      if (HasFatalFailure()) return;
    }
  });
}

TEST_P(CudaPackBlocksTest, EveryFillOfTheTail) {
  for (int tail = 0; tail <= 32; ++tail) {
    for (int chunk : {32 - tail, 64, 95 - tail}) {
      const int blocks = (tail + chunk) / 32;
      if (blocks == 0) continue;
      run({2, 16, 32, tail, chunk, blocks, Dtype::kBFloat16, 4, 64, 0, true},
          static_cast<uint32_t>(tail));
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(CudaPackBlocksTest, RefusesMoreBlocksThanALaunchTakes) {
  DeviceQueue queue(device(), 1);
  cuda::PackParams p;
  p.kv_heads = 1;
  p.head_dim = 64;
  p.blocks = cuda::kMaxBlocksPerPack + 1;
  EXPECT_THROW(cuda::pack(queue, p), std::invalid_argument);
}

// The kernel divides by a channel's step with its reciprocal; the codes must be a division's for
// every step that fp16 can hold.
TEST(QuotientTest, IsADivisionsForEveryStep) {
  std::mt19937 random(1);
  for (uint32_t bits = 1; bits < 0x7c00; ++bits) {
    const auto step = static_cast<float>(reference::half_value(static_cast<uint16_t>(bits)));
    const auto reciprocal = static_cast<float>(1.0 / static_cast<double>(step));
    for (int k = 0; k < 300; ++k) {
      // Distances near halves of a step, where a code is decided, and anywhere.
      float distance = k % 2 == 0 ? static_cast<float>((static_cast<int>(random() % 256) + 0.5) *
                                                       static_cast<double>(step))
                                  : std::ldexp(static_cast<float>(random()), -20 - k / 4);
      if (k % 4 == 0) distance = std::nextafter(distance, 0.0f);
      if (k % 4 == 2) distance = std::nextafter(distance, HUGE_VALF);
      if (k % 3 == 0) distance = -distance;
      float q = mul32(distance, reciprocal);
      q = std::fma(std::fma(-q, step, distance), reciprocal, q);
      ASSERT_EQ(q, div32(distance, step)) << distance << " / " << step;
    }
  }
}

RILLKV_INSTANTIATE_FOR_EVERY_DEVICE(CudaPackBlocksTest);

}  // namespace
}  // namespace rillkv::test
