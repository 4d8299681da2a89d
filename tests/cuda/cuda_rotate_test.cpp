// CUDA rotations: Walsh-Hadamard with the CPU's bits, RoPE and dequantised keys against double.
#include <cmath>
#include <random>
#include <utility>

#include "kernels/cpu/kernels.h"
#include "kernels/packed_format.h"
#include "tests/cuda/device_fixture.h"
#include "tests/reference/packed_block.h"

namespace rillkv::test {
namespace {

namespace format = rillkv::format;
namespace cuda = kernels::cuda;

class CudaRotateTest : public EveryDevice {
 protected:
  const kernels::cpu::KernelTable* scalar_ = kernels::cpu::find_kernels("scalar");
};

TEST_P(CudaRotateTest, HadamardHasTheSameBits) {
  under_every_order([&] {
    for (int head_dim : {2, 8, 64, 128, 256}) {
      for (Dtype dtype : kDtypes) {
        const int tokens = 5, heads = 3;
        ActivationBuffer x(dtype, tokens, heads, head_dim),
            expected(dtype, tokens, heads, head_dim);
        x.fill_normal(8);
        DeviceActivation on_device =
            DeviceActivation::copy_of(device(), x.activation(), dtype, tokens, heads, head_dim);
        DeviceQueue queue(device(), 1);
        cuda::RotateParams p;
        p.input = on_device.activation();
        p.out = on_device.mutable_activation();  // in place
        p.dtype = dtype;
        p.tokens = tokens;
        p.heads = heads;
        p.head_dim = head_dim;
        cuda::hadamard(queue, p);
        for (int h = 0; h < heads; ++h) {
          kernels::MutableActivation out = expected.mutable_activation();
          scalar_->hadamard(x.pack_params(h, 128), out);
        }
        const auto got = on_device.bytes();
        size_t at = 0;
        for (int t = 0; t < tokens; ++t) {
          for (int h = 0; h < heads; ++h) {
            for (int c = 0; c < head_dim; ++c, at += dtype_bytes(dtype)) {
              ASSERT_EQ(std::memcmp(got.data() + at, expected.at(t, h, c), dtype_bytes(dtype)), 0)
                  << dtype_name(dtype) << " D " << head_dim << " at " << t << " " << h << " " << c;
            }
          }
        }
      }
    }
  });
}

// x cos - y sin in fp32: three roundings of terms below |x| + |y|, then the dtype's.
TEST_P(CudaRotateTest, RopeRotatesPairs) {
  under_every_order([&] {
    for (int head_dim : {2, 64, 80, 128}) {
      for (Dtype dtype : kDtypes) {
        const int tokens = 6, heads = 2, pairs = head_dim / 2;
        ActivationBuffer x(dtype, tokens, heads, head_dim);
        x.fill_normal(9);
        std::vector<float> cosines, sines;
        for (int i = 0; i < tokens * pairs; ++i) {
          cosines.push_back(std::cos(0.7f * static_cast<float>(i)));
          sines.push_back(std::sin(0.7f * static_cast<float>(i)));
        }
        ptx::DeviceArray<float> device_cos(device(), cosines), device_sin(device(), sines);
        const DeviceActivation in =
            DeviceActivation::copy_of(device(), x.activation(), dtype, tokens, heads, head_dim);
        DeviceActivation apart(device(), std::vector<uint8_t>(in.bytes().size(), 0xff), heads,
                               head_dim);
        for (const DeviceActivation* out : {&std::as_const(apart), &in}) {  // in place at last
          DeviceQueue queue(device(), 1);
          cuda::RotateParams p;
          p.input = in.activation();
          p.out = out->mutable_activation();
          p.dtype = dtype;
          p.tokens = tokens;
          p.heads = heads;
          p.head_dim = head_dim;
          p.cos = device_cos.data();
          p.sin = device_sin.data();
          cuda::rope(queue, p);
          const auto got = out->bytes();
          const double unit = std::ldexp(1.0, dtype == Dtype::kFloat32    ? -24
                                              : dtype == Dtype::kBFloat16 ? -8
                                                                          : -11);
          size_t at = 0;
          for (int t = 0; t < tokens; ++t) {
            for (int h = 0; h < heads; ++h) {
              for (int c = 0; c < head_dim; ++c, at += dtype_bytes(dtype)) {
                const int pair = c % pairs;
                const double a = x.get(t, h, pair), b = x.get(t, h, pair + pairs);
                const double cosine = cosines[static_cast<size_t>(t * pairs + pair)];
                const double sine = sines[static_cast<size_t>(t * pairs + pair)];
                const double expected = c < pairs ? a * cosine - b * sine : a * sine + b * cosine;
                const double size = std::fabs(a) + std::fabs(b);
                const double error = std::fabs(load_element(dtype, got.data() + at) - expected);
                ASSERT_TRUE(error <= size * (unit + 3 * std::ldexp(1.0, -24)))
                    << dtype_name(dtype) << " D " << head_dim << " at " << t << " " << h << " "
                    << c;
              }
            }
          }
        }
      }
    }
  });
}

// A key is lo + step * code by one fused multiply-add, and is then rotated in fp32: x cos - y sin
// has an fma's rounding and a product's. u = 2^-24 each: |error| <= u (|x| + |y|) for x and y
// themselves, and 2 u (|x| + |y|) for the rotation; 4 u leaves room for the second order.
TEST_P(CudaRotateTest, DequantisedKeysAreRotated) {
  for (int head_dim : {6, 64, 80, 128}) {
    for (bool symmetric : {false, true}) {
      const int heads = 2, block_size = 128, tokens = 77, pairs = head_dim / 2;
      ActivationBuffer x(Dtype::kFloat32, tokens, heads, head_dim);
      x.fill_normal(11);
      std::mt19937 random(12);
      std::vector<int> drawn(static_cast<size_t>(head_dim));
      int sum = 0;
      for (int& width : drawn) sum += width = 2 + static_cast<int>(random() % 7);
      const auto widths = stored_widths(drawn);
      std::vector<float> cosines, sines;
      for (int i = 0; i < tokens * pairs; ++i) {
        cosines.push_back(std::cos(0.3f * static_cast<float>(i)));
        sines.push_back(std::sin(0.3f * static_cast<float>(i)));
      }
      const size_t size = format::channel_block_bytes(head_dim, block_size, symmetric, sum);
      std::vector<ptx::DeviceArray<uint8_t>> blocks;
      std::vector<uint8_t*> pointers;
      std::vector<std::vector<uint8_t>> packed;
      for (int h = 0; h < heads; ++h) {
        std::vector<float> lo(static_cast<size_t>(head_dim)), hi = lo;
        GuardedBuffer block(size);
        const auto params = x.pack_params(h, block_size);
        scalar_->min_max(params, lo.data(), hi.data());
        if (symmetric) {
          scalar_->pack_channels_symmetric(params, hi.data(), widths.data(), block.data());
        } else {
          scalar_->pack_channels_affine(params, lo.data(), hi.data(), widths.data(), block.data());
        }
        packed.push_back(block.bytes());
        blocks.emplace_back(device(), block.bytes());
        pointers.push_back(blocks.back().data());
      }
      ptx::DeviceArray<uint8_t*> device_pointers(device(), pointers);
      ptx::DeviceArray<float> device_cos(device(), cosines), device_sin(device(), sines);
      ptx::DeviceArray<float> out(device(), static_cast<size_t>(heads * tokens * head_dim));
      DeviceQueue queue(device(), 1);
      cuda::DequantiseParams p;
      p.blocks = device_pointers.data();
      p.tokens = tokens;
      p.block_size = block_size;
      p.head_dim = head_dim;
      p.symmetric = symmetric;
      p.cos = device_cos.data();
      p.sin = device_sin.data();
      p.out = out.data();
      cuda::dequantise(queue, p, heads);
      const auto got = out.to_vector();
      for (int h = 0; h < heads; ++h) {
        const auto keys = reference::channel_block_values(
            reference::read_channel_block(packed[static_cast<size_t>(h)].data(), block_size,
                                          head_dim, symmetric),
            symmetric);
        for (int t = 0; t < tokens; ++t) {
          for (int c = 0; c < head_dim; ++c) {
            const int pair = c % pairs;
            const double a = keys[static_cast<size_t>(t)][static_cast<size_t>(pair)];
            const double b = keys[static_cast<size_t>(t)][static_cast<size_t>(pair + pairs)];
            const double cosine = cosines[static_cast<size_t>(t * pairs + pair)];
            const double sine = sines[static_cast<size_t>(t * pairs + pair)];
            const double expected = c < pairs ? a * cosine - b * sine : a * sine + b * cosine;
            const double found = got[static_cast<size_t>((h * tokens + t) * head_dim + c)];
            ASSERT_TRUE(std::fabs(found - expected) <=
                        4 * std::ldexp(1.0, -24) * (std::fabs(a) + std::fabs(b)))
                << "D " << head_dim << (symmetric ? " symmetric" : "") << " at " << h << " " << t
                << " " << c << ": " << found << ", expected " << expected;
          }
        }
      }
    }
  }
}

RILLKV_INSTANTIATE_FOR_EVERY_DEVICE(CudaRotateTest);

}  // namespace
}  // namespace rillkv::test
