// rillkv_pack_*: blocks, tables, clipped codes and the tail's leftover, against kernels/cpu's
// scalar table, which has its own tests against an oracle.
#include "tests/cuda/pack_blocks_fixture.h"

namespace rillkv::test {
namespace {

using Case = PackCase;

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

/// Without error feedback: energies choose the widths.
class EnergyPacker final : public KeyPacker {
 public:
  EnergyPacker(const Case& c, uint32_t seed, const kernels::cpu::KernelTable& scalar)
      : c_(c), scalar_(scalar), energies_(static_cast<size_t>(c.blocks * c.kv_heads * c.head_dim)) {
    const int D = c.head_dim, pairs = D / 2;
    // Few distinct energies and constant channels make ties.
    std::mt19937 random(seed);
    for (float& e : energies_) e = static_cast<float>(random() % 5) * 0.37f;
    if (c.close_gains) {
      for (size_t i = 0; i < energies_.size(); ++i) {
        // A pair's sum is 1 and a few units of the last place.
        const bool second = i % static_cast<size_t>(D) >= static_cast<size_t>(pairs);
        energies_[i] = second ? 0.0f : 1.0f + std::ldexp(static_cast<float>(random() % 32), -23);
      }
    }
    for (float& e : energies_) e *= c.energy_scale;
  }

  std::vector<uint8_t> pack(const kernels::cpu::PackParams& params, int n, int h,
                            int increments) const override {
    const int D = c_.head_dim;
    std::vector<float> lo(static_cast<size_t>(D)), hi = lo, spread = lo;
    scalar_.min_max(params, lo.data(), hi.data());
    for (size_t k = 0; k < spread.size(); ++k) spread[k] = (hi[k] - lo[k]) * (hi[k] - lo[k]);
    std::vector<uint8_t> widths(static_cast<size_t>(D / 2));
    kernels::cpu::allocate_widths(spread.data(), energies_.data() + (n * c_.kv_heads + h) * D, D,
                                  c_.classes.data(), static_cast<int>(c_.classes.size()),
                                  increments, widths.data());
    int sum = 0;
    for (int k = 0; k < D; ++k) sum += format::channel_width(widths.data(), k, D);
    const size_t key_bytes = format::channel_block_bytes(D, c_.block_size, false, sum);
    GuardedBuffer one(key_bytes);
    scalar_.pack_channels_affine(params, lo.data(), hi.data(), widths.data(), one.data());
    const auto bytes = one.bytes();
    return {bytes.begin(), bytes.end()};
  }
  void set(ptx::Device& device, cuda::PackParams& p) const override {
    device_energies_ = std::make_unique<ptx::DeviceArray<float>>(device, energies_);
    p.energies = device_energies_->data();
  }

 private:
  const Case& c_;
  const kernels::cpu::KernelTable& scalar_;
  std::vector<float> energies_;
  mutable std::unique_ptr<ptx::DeviceArray<float>> device_energies_;
};

class CudaPackBlocksTest : public PackBlocksTest {
 protected:
  void run(const Case& c, uint32_t seed) {
    PackBlocksTest::run(c, seed, EnergyPacker(c, seed + 2, *scalar_));
  }
};

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
