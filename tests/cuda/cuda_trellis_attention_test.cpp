// CUDA attention over trellis blocks against naive attention in double, generic and prefill, and
// such blocks back to fp32. Any bits are a trellis block, so the blocks are noise with sensible
// scales.
#include <cmath>

#include "tests/cuda/attention_fixture.h"
#include "tests/reference/trellis_block.h"

namespace rillkv::test {
namespace {

class CudaTrellisAttention : public CudaAttentionTest {
 protected:
  static constexpr const char* kGeneric = "rillkv_attention_generic";
  void check_trellis(Shape shape, const std::string& entry, int multiprocessors = 1) {
    shape.trellis = true;
    if (shape.key_widths.size() == 8) shape.key_widths.pop_back();
    check(shape, entry, multiprocessors);
  }
};

TEST_P(CudaTrellisAttention, GenericPath) {
  for (int head_dim : {2, 6, 80, 256}) {
    check_trellis({.heads = 2,
                   .head_dim = head_dim,
                   .value_wide_pairs = head_dim / 4,
                   .blocks = 1,
                   .queries = 3,
                   .seed = 500 + static_cast<uint32_t>(head_dim)},
                  kGeneric);
  }
  for (int block_size : {32, 64, 128, 256}) {
    for (int head_dim : {64, 128}) {
      for (Dtype dtype : kDtypes) {
        if (block_size == 128 && dtype != Dtype::kFloat32) continue;
        check_trellis({.heads = 2,
                       .head_dim = head_dim,
                       .block_size = block_size,
                       .dtype = dtype,
                       .value_wide_pairs = head_dim / 4,
                       .blocks = 1,
                       .tail = 3,
                       .queries = 2,
                       .seed = 510},
                      kGeneric);
      }
    }
  }
}

TEST_P(CudaTrellisAttention, GenericWidths) {
  for (int width = 1; width <= 7; ++width) {
    for (int wide : {0, 1, 10, 31, 32}) {
      if (width + (wide > 0 ? 1 : 0) > 7) continue;
      check_trellis({.heads = 2,
                     .block_size = 32,
                     .key_widths = {width},
                     .value_width = width,
                     .value_wide_pairs = wide,
                     .rotate_output = true,
                     .blocks = 2,
                     .queries = 2,
                     .seed = 520 + static_cast<uint32_t>(width)},
                    kGeneric);
    }
  }
}

// To fp32 exactly, but for the rounding of the oracle's steps and, of wide values, their gain.
TEST_P(CudaTrellisAttention, Dequantise) {
  for (int head_dim : {6, 64, 128}) {
    for (int block_size : {32, 128}) {
      for (bool keys : {true, false}) {
        Scenario scenario({.head_dim = head_dim,
                           .block_size = block_size,
                           .trellis = true,
                           .key_widths = {1, 2, 3, 4, 5, 6, 7},
                           .value_width = 3,
                           .value_wide_pairs = head_dim / 4,
                           .blocks = 1,
                           .seed = 530});
        const std::vector<uint8_t>& bytes =
            keys ? scenario.key_block(0, 0) : scenario.value_block(0, 0);
        ptx::DeviceArray<uint8_t> block(device(), bytes);
        ptx::DeviceArray<uint8_t*> blocks(device(), std::vector<uint8_t*>{block.data()});
        const int tokens = block_size - 1;
        ptx::DeviceArray<float> out(device(), static_cast<size_t>(tokens * head_dim));
        DeviceQueue queue(device(), 1);
        kernels::cuda::DequantiseParams p;
        p.blocks = blocks.data();
        p.tokens = tokens;
        p.block_size = block_size;
        p.head_dim = head_dim;
        p.channel_major = keys;
        p.trellis = true;
        p.bits = 3;
        p.wide_pairs = head_dim / 4;
        p.out = out.data();
        kernels::cuda::dequantise(queue, p, 1);
        const auto expected =
            keys ? reference::trellis_key_values(bytes.data(), block_size, head_dim)
                 : reference::trellis_value_values(bytes.data(), block_size, head_dim, 3,
                                                   head_dim / 4);
        const std::vector<float> got = out.to_vector();
        for (int t = 0; t < tokens; ++t) {
          for (int c = 0; c < head_dim; ++c) {
            const double want = expected[static_cast<size_t>(t)][static_cast<size_t>(c)];
            const double error =
                std::abs(static_cast<double>(got[static_cast<size_t>(t * head_dim + c)]) - want);
            ASSERT_TRUE(error <= 0x1p-22 * std::abs(want))
                << "head_dim " << head_dim << " block " << block_size
                << (keys ? " keys" : " values") << " token " << t << " channel " << c << ": "
                << error;
          }
        }
      }
    }
  }
}

RILLKV_INSTANTIATE_FOR_EVERY_DEVICE(CudaTrellisAttention);

}  // namespace
}  // namespace rillkv::test
