// CUDA packers of policy "ema" and of sinks, and dequantisation, against kernels/cpu's scalar
// table, which has its own tests against an oracle.
#include <cmath>
#include <random>

#include "kernels/cpu/kernels.h"
#include "kernels/packed_format.h"
#include "tests/cuda/device_fixture.h"

namespace rillkv::test {
namespace {

namespace format = rillkv::format;
namespace cuda = kernels::cuda;

/// Normal values with the cases that rounding and degenerate scales care about: constant channels,
/// an offset far above the range, zeros of both signs, fp16 subnormals.
void fill_awkward(ActivationBuffer& x, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal(0.0, 1.0);
  x.fill([&](int, int h, int c) {
    const double value = normal(random);
    switch ((c + 3 * h) % 8) {
      case 0:
        return 1.25;
      case 1:
        return 3000 + value;
      case 2:
        return value < 0 ? -0.0 : 0.0;
      case 3:
        return value * 1e-7;
      case 4:
        return value * 8000;
      default:
        return value;
    }
  });
}

std::vector<int> random_widths(int head_dim, bool pairs, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<int> widths(static_cast<size_t>(head_dim));
  const auto half = static_cast<size_t>(head_dim) / 2;
  for (size_t p = 0; p < half; ++p) {
    widths[p] = 2 + static_cast<int>(random() % 7);
    widths[p + half] = pairs ? widths[p] : 2 + static_cast<int>(random() % 7);
  }
  return widths;
}

struct Case {
  int kv_heads, head_dim, block_size, tokens;
  Dtype dtype;
};
std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << c.kv_heads << " heads of " << c.head_dim << ", " << c.tokens
             << " tokens in blocks of " << c.block_size << ", " << dtype_name(c.dtype);
}

constexpr Case kCases[] = {{2, 64, 128, 128, Dtype::kBFloat16}, {1, 128, 128, 200, Dtype::kFloat16},
                           {3, 80, 32, 70, Dtype::kFloat32},    {2, 2, 64, 64, Dtype::kBFloat16},
                           {1, 96, 256, 300, Dtype::kFloat16},  {1, 6, 32, 1, Dtype::kFloat32},
                           {1, 256, 64, 65, Dtype::kBFloat16}};

class CudaPackTest : public EveryDevice {
 protected:
  void SetUp() override {
    EveryDevice::SetUp();
    scalar_ = kernels::cpu::find_kernels("scalar");
  }

  /// Room on the device for the blocks of one kind, and what the packers take.
  struct Packed {
    std::vector<ptx::DeviceArray<uint8_t>> blocks;  // [blocks][kv_heads], of exactly their size
    std::unique_ptr<ptx::DeviceArray<uint8_t*>> pointers;
    std::unique_ptr<ptx::DeviceArray<unsigned long long>> clipped;
  };
  Packed make_blocks(const std::vector<size_t>& sizes, uint8_t fill = 0xff) {
    Packed packed;
    std::vector<uint8_t*> pointers;
    for (size_t size : sizes) {
      packed.blocks.emplace_back(device(), std::vector<uint8_t>(size, fill));
      pointers.push_back(packed.blocks.back().data());
    }
    packed.pointers = std::make_unique<ptx::DeviceArray<uint8_t*>>(device(), pointers);
    packed.clipped = std::make_unique<ptx::DeviceArray<unsigned long long>>(
        device(), std::vector<unsigned long long>{0});
    return packed;
  }
  cuda::BlockPackParams block_params(const Case& c, const DeviceActivation& x,
                                     const Packed& packed) {
    cuda::BlockPackParams p;
    p.input = x.activation();
    p.dtype = c.dtype;
    p.tokens = c.tokens;
    p.block_size = c.block_size;
    p.head_dim = c.head_dim;
    p.blocks = packed.pointers->data();
    p.clipped = packed.clipped->data();
    return p;
  }
  /// The CPU's view of block n of one kv head.
  kernels::cpu::PackParams cpu_params(const Case& c, ActivationBuffer& x, int n, int h) {
    kernels::cpu::PackParams p = x.pack_params(h, c.block_size);
    const auto* begin = static_cast<const uint8_t*>(x.at(n * c.block_size, 0, 0));
    p.input.data = begin;
    p.tokens = std::min(c.block_size, c.tokens - n * c.block_size);
    return p;
  }
  DeviceActivation to_device(const Case& c, ActivationBuffer& x) {
    return DeviceActivation::copy_of(device(), x.activation(), c.dtype, c.tokens, c.kv_heads,
                                     c.head_dim);
  }
  static int blocks_of(const Case& c) { return (c.tokens + c.block_size - 1) / c.block_size; }
  void expect_same(const Packed& packed, size_t i, const std::vector<uint8_t>& expected,
                   const std::string& what) {
    const int64_t at = first_difference(packed.blocks[i].to_vector(), expected);
    ASSERT_EQ(at, -1) << what << ", block " << i;
  }

  const kernels::cpu::KernelTable* scalar_ = nullptr;
};

TEST_P(CudaPackTest, ChannelsSymmetric) {
  under_every_order([&] {
    for (const Case& c : kCases) {
      ActivationBuffer x(c.dtype, c.tokens, c.kv_heads, c.head_dim);
      fill_awkward(x, 5);
      const DeviceActivation on_device = to_device(c, x);
      std::vector<uint8_t> widths;
      std::vector<float> absmax;
      std::vector<size_t> sizes;
      for (int i = 0; i < blocks_of(c) * c.kv_heads; ++i) {
        const auto drawn = random_widths(c.head_dim, false, static_cast<uint32_t>(100 + i));
        int sum = 0;
        for (int w : drawn) sum += w;
        sizes.push_back(format::channel_block_bytes(c.head_dim, c.block_size, true, sum));
        const auto stored = stored_widths(drawn);
        widths.insert(widths.end(), stored.begin(), stored.end());
        // Too small for some channels, so that codes clip; zero for one.
        for (int k = 0; k < c.head_dim; ++k) absmax.push_back(k == 1 ? 0.0f : 1.5f);
      }
      ptx::DeviceArray<uint8_t> device_widths(device(), widths);
      ptx::DeviceArray<float> device_absmax(device(), absmax);
      Packed packed = make_blocks(sizes);
      DeviceQueue queue(device(), 1);
      cuda::PackChannelsSymmetricParams p;
      p.block = block_params(c, on_device, packed);
      p.widths = device_widths.data();
      p.absmax = device_absmax.data();
      cuda::pack_channels_symmetric(queue, p, c.kv_heads);
      int64_t clipped = 0;
      for (int n = 0; n < blocks_of(c); ++n) {
        for (int h = 0; h < c.kv_heads; ++h) {
          const auto i = static_cast<size_t>(n * c.kv_heads + h);
          GuardedBuffer expected(sizes[i]);
          clipped += scalar_->pack_channels_symmetric(
              cpu_params(c, x, n, h), absmax.data() + i * static_cast<size_t>(c.head_dim),
              widths.data() + i * static_cast<size_t>(c.head_dim) / 2, expected.data());
          expect_same(packed, i, expected.bytes(), testing::PrintToString(c.head_dim));
          if (HasFatalFailure()) return;
        }
      }
      EXPECT_EQ(static_cast<int64_t>(packed.clipped->to_vector()[0]), clipped) << c;
    }
  });
}

TEST_P(CudaPackTest, SinkRowsOnly) {
  under_every_order([&] {
    for (int head_dim : {6, 64, 128}) {
      for (int bits : kSinkBits) {
        const Case c = {2, head_dim, 40, 21, kDtypes[bits % 3]};  // capacity 40
        const int first_row = bits;
        ActivationBuffer x(c.dtype, c.tokens, c.kv_heads, c.head_dim);
        fill_awkward(x, 7);
        const DeviceActivation on_device = to_device(c, x);
        const size_t size = format::sink_block_bytes(c.block_size, head_dim, bits);
        Packed packed = make_blocks({size, size}, 0x5a);
        DeviceQueue queue(device(), 1);
        cuda::PackSinksParams p;
        p.block = block_params(c, on_device, packed);
        p.bits = bits;
        p.first_row = first_row;
        cuda::pack_sinks(queue, p, c.kv_heads);
        for (int h = 0; h < c.kv_heads; ++h) {
          GuardedBuffer expected(size, 0x5a);
          scalar_->pack_sinks(x.pack_params(h, c.block_size), first_row, bits, expected.data());
          expect_same(packed, static_cast<size_t>(h), expected.bytes(),
                      testing::PrintToString(bits));
          if (HasFatalFailure()) return;
        }
        p.first_row = 20;
        EXPECT_THROW(cuda::pack_sinks(queue, p, c.kv_heads), std::invalid_argument);
      }
    }
  });
}

TEST_P(CudaPackTest, DequantiseGivesTheCpusValues) {
  under_every_order([&] {
    const Case c = {2, 64, 128, 128, Dtype::kFloat32};
    ActivationBuffer x(c.dtype, c.tokens, c.kv_heads, c.head_dim);
    x.fill_normal(10);
    const auto widths = stored_widths(random_widths(c.head_dim, false, 11));
    int sum = 0;
    for (int k = 0; k < c.head_dim; ++k) sum += format::channel_width(widths.data(), k, c.head_dim);
    for (const std::string layout :
         {"channels affine", "channels symmetric", "tokens", "sinks 3", "sinks 16"}) {
      const bool channels = layout[0] == 'c', sinks = layout[0] == 's';
      const bool symmetric = sinks || layout == "channels symmetric";
      const int bits = layout == "sinks 16" ? 16 : 3;
      const size_t size =
          channels ? format::channel_block_bytes(c.head_dim, c.block_size, symmetric, sum)
          : sinks  ? format::sink_block_bytes(c.block_size, c.head_dim, bits)
                   : format::token_block_bytes(c.block_size, c.head_dim, 2, false, bits);
      Packed packed = make_blocks({size, size});
      std::vector<std::vector<float>> expected;
      for (int h = 0; h < c.kv_heads; ++h) {
        std::vector<float> lo(static_cast<size_t>(c.head_dim)), hi = lo;
        GuardedBuffer block(size);
        const auto params = x.pack_params(h, c.block_size);
        expected.emplace_back(static_cast<size_t>(c.tokens * c.head_dim));
        if (channels) {
          scalar_->min_max(params, lo.data(), hi.data());
          if (symmetric) {
            scalar_->pack_channels_symmetric(params, hi.data(), widths.data(), block.data());
          } else {
            scalar_->pack_channels_affine(params, lo.data(), hi.data(), widths.data(),
                                          block.data());
          }
          kernels::cpu::unpack_channels(block.data(), c.tokens, c.block_size, c.head_dim, symmetric,
                                        expected.back().data());
        } else if (sinks) {
          scalar_->pack_sinks(params, 0, bits, block.data());
          kernels::cpu::unpack_sinks(block.data(), c.tokens, c.block_size, c.head_dim, bits,
                                     expected.back().data());
        } else {
          scalar_->pack_tokens_affine(params, 2, 3, block.data());
          kernels::cpu::unpack_tokens(block.data(), c.tokens, c.block_size, c.head_dim, 2, false, 3,
                                      expected.back().data());
        }
        device().upload(packed.blocks[static_cast<size_t>(h)].data(), block.data(), size);
      }
      ptx::DeviceArray<float> out(device(),
                                  static_cast<size_t>(c.kv_heads * c.tokens * c.head_dim));
      DeviceQueue queue(device(), 1);
      cuda::DequantiseParams p;
      p.blocks = packed.pointers->data();
      p.tokens = c.tokens;
      p.block_size = c.block_size;
      p.head_dim = c.head_dim;
      p.channel_major = channels;
      p.symmetric = symmetric;
      p.groups = 2;
      p.bits = bits;
      p.out = out.data();
      cuda::dequantise(queue, p, c.kv_heads);
      const auto got = out.to_vector();
      size_t at = 0;
      for (const auto& head : expected) {
        for (float value : head) {
          // One fused multiply-add here, two roundings there.
          ASSERT_TRUE(std::fabs(double(got[at]) - double(value)) <= 1e-6 * (1 + std::fabs(value)))
              << layout << " at " << at;
          ++at;
        }
      }
    }
  });
}

RILLKV_INSTANTIATE_FOR_EVERY_DEVICE(CudaPackTest);

}  // namespace
}  // namespace rillkv::test
