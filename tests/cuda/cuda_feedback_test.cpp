// Error feedback on the device against kernels/cpu's scalar table, which has its own tests: second
// moments of rillkv_ingest_feedback_*, and everything that rillkv_pack_feedback_* writes.
#include <bit>
#include <cmath>

#include "kernels/cuda/ingest.h"
#include "kernels/moment_layout.h"
#include "tests/cuda/feedback_packer.h"

namespace rillkv::test {
namespace {

using kernels::moment_at;
using kernels::moment_floats;

// The chain divides a range by a width's top code with its reciprocal and one residual: that is a
// division's quotient for every significand, and where nothing underflows for every exponent. What
// underflows becomes the least step or, both ways, none.
TEST(FeedbackScaleTest, QuotientsByTopCodesAreDivisions) {
  for (int width = 1; width <= 8; ++width) {
    const auto top = static_cast<float>((1 << width) - 1);
    const float inverse = div32(1.0f, top);
    for (uint32_t bits = 0; bits < 1u << 23; ++bits) {
      const auto range = std::bit_cast<float>(0x3f800000u | bits);
      float q = mul32(range, inverse);
      q = std::fma(std::fma(-top, q, range), inverse, q);
      ASSERT_EQ(q, div32(range, top)) << range << " / " << top;
    }
  }
}

// ---- moments ----

struct MomentCase {
  int heads, kv_heads, head_dim, block_size, tokens, sinks, tail;
  Dtype dtype;
  int gap;
};
std::ostream& operator<<(std::ostream& out, const MomentCase& c) {
  return out << c.heads << "/" << c.kv_heads << "/" << c.head_dim << ", " << c.tokens << " tokens, "
             << c.sinks << " sinks, tail " << c.tail << " of " << c.block_size << ", "
             << dtype_name(c.dtype) << ", gap " << c.gap;
}

constexpr MomentCase kMomentCases[] = {
    {4, 1, 128, 32, 70, 3, 0, Dtype::kBFloat16, 0},    // two blocks and a rest, several rounds
    {8, 2, 64, 128, 130, 0, 100, Dtype::kFloat16, 8},  // one block, from the tail
    {3, 1, 80, 32, 40, 0, 31, Dtype::kBFloat16, 1},    // no 16-byte chunks; a short first block
    {16, 1, 256, 32, 33, 0, 31, Dtype::kFloat16, 0},
    {2, 2, 2, 32, 5, 4, 0, Dtype::kFloat32, 3},
    {6, 3, 6, 64, 129, 1, 0, Dtype::kFloat32, 5},
    {9, 1, 16, 32, 1, 0, 32, Dtype::kFloat32, 0},    // a full tail: complete before its first
    {4, 2, 96, 32, 32, 0, 0, Dtype::kFloat16, 0},    // exactly a block
    {2, 1, 32, 32, 4, 4, 0, Dtype::kBFloat16, 1},    // nothing but sinks
    {1, 1, 128, 32, 61, 0, 1, Dtype::kBFloat16, 0},  // a round and a token; blocks end in rounds
    {61, 1, 64, 32, 33, 2, 0, Dtype::kBFloat16, 0},  // more heads than steps of a round
};

class CudaMomentTest : public EveryDevice {
 protected:
  static constexpr float kDecay = 0.9f;
  void SetUp() override {
    EveryDevice::SetUp();
    scalar_ = kernels::cpu::find_kernels("scalar");
  }

  /// Symmetric within the diagonal's tiles, zero from head_dim on.
  static std::vector<float> random_moments(const MomentCase& c, uint32_t seed) {
    const size_t size = moment_floats(c.head_dim);
    std::vector<float> out(static_cast<size_t>(c.kv_heads) * size, 0.0f);
    std::mt19937 random(seed);
    std::normal_distribution<float> normal(0.0f, 10.0f);
    for (int h = 0; h < c.kv_heads; ++h) {
      float* moment = out.data() + static_cast<size_t>(h) * size;
      for (int i = 0; i < c.head_dim; ++i) {
        for (int j = 0; j <= i; ++j) {
          const float x = normal(random);
          moment[moment_at(i, j)] = x;
          if (i / 16 == j / 16) moment[kernels::moment_row(j) + static_cast<size_t>(i)] = x;
        }
      }
    }
    return out;
  }
  /// Adds token t's.
  void accumulate(const MomentCase& c, FusedChunk& x, int t, std::vector<float>& moments) const {
    kernels::cpu::PackParams p;
    p.input = {x.at(t, 0), x.stride(), c.head_dim};
    p.dtype = c.dtype;
    p.tokens = 1;
    p.head_dim = c.head_dim;
    const size_t size = moment_floats(c.head_dim);
    for (int h = 0; h < c.kv_heads; ++h) {
      p.kv_head = h;
      scalar_->add_moment(p, c.heads / c.kv_heads, moments.data() + static_cast<size_t>(h) * size);
    }
  }
  static void decay(std::vector<float>& moments) {
    for (float& x : moments) x = mul32(x, kDecay);
  }
  static cuda::IngestParams params(const MomentCase& c, FusedChunk& x, const uint8_t* data) {
    const auto slice = [&](int offset) {
      return kernels::Activation{data + static_cast<size_t>(offset) * dtype_bytes(c.dtype),
                                 x.stride(), c.head_dim};
    };
    cuda::IngestParams p;
    p.queries = slice(0);
    p.keys = slice(x.key_offset());
    p.values = slice(x.value_offset());
    p.dtype = c.dtype;
    p.heads = c.heads;
    p.kv_heads = c.kv_heads;
    p.head_dim = c.head_dim;
    p.block_size = c.block_size;
    p.tokens = c.tokens;
    p.sink_tokens = c.sinks;
    p.tail_count = c.tail;
    p.layer = 5;
    p.error_feedback = 1;
    p.keep = kDecay;
    return p;
  }
  const kernels::cpu::KernelTable* scalar_ = nullptr;
};

TEST_P(CudaMomentTest, AreTheCpusOfEveryBlock) {
  under_every_order([&] {
    for (const MomentCase& c : kMomentCases) {
      FusedChunk x(c.dtype, c.tokens, c.heads, c.kv_heads, c.head_dim, c.gap, 1);
      const ptx::DeviceArray<uint8_t> data(device(), x.bytes);
      std::vector<float> moments = random_moments(c, 2), of_blocks;
      const ptx::DeviceArray<float> device_moments(device(), moments);
      int open = c.tail;
      const auto complete_if_full = [&] {
        if (open < c.block_size) return;
        of_blocks.insert(of_blocks.end(), moments.begin(), moments.end());
        decay(moments);
        open = 0;
      };
      complete_if_full();
      for (int t = c.sinks; t < c.tokens; ++t) {
        accumulate(c, x, t, moments);
        ++open;
        complete_if_full();
      }
      const ptx::DeviceArray<float> device_blocks(device(), std::max<size_t>(of_blocks.size(), 1));
      const ptx::DeviceArray<unsigned long long> error(device(),
                                                       std::vector<unsigned long long>{0});
      cuda::IngestParams p = params(c, x, data.data());
      p.moments = device_moments.data();
      p.block_moments = device_blocks.data();
      p.error = error.data();
      DeviceQueue queue(device(), 1);
      cuda::ingest(queue, p, 1);
      expect_same(c, device_moments.to_vector(), moments, "moment");
      expect_same(c, device_blocks.to_vector(), of_blocks, "moment of a block");
      EXPECT_EQ(error.to_vector()[0], 0u) << c;
      if (HasFatalFailure()) return;
    }
  });
}

// A step neither copies nor multiplies the moment of the block that it completes: the launch that
// packs it does.
TEST_P(CudaMomentTest, OneTokenOfEachOfSeveralSequences) {
  under_every_order([&] {
    for (const MomentCase& shape : kMomentCases) {
      constexpr int kSequences = 3, kLayer = 1;
      MomentCase c = shape;
      c.tokens = kSequences;
      c.sinks = 0;
      const int tails[kSequences] = {0, c.block_size - 1, c.block_size / 2};
      FusedChunk x(c.dtype, c.tokens, c.heads, c.kv_heads, c.head_dim, c.gap, 6);
      const ptx::DeviceArray<uint8_t> data(device(), x.bytes);
      const size_t tail_bytes =
          static_cast<size_t>(c.block_size * c.kv_heads * c.head_dim) * dtype_bytes(c.dtype);
      std::vector<ptx::DeviceArray<float>> device_moments;
      std::vector<ptx::DeviceArray<uint8_t>> device_tails;
      std::vector<ptx::DeviceArray<cuda::LayerState>> layers;
      std::vector<std::vector<float>> moments;
      std::vector<cuda::SequenceStep> steps(kSequences);
      const ptx::DeviceArray<unsigned long long> error(device(),
                                                       std::vector<unsigned long long>{0});
      for (int i = 0; i < kSequences; ++i) {
        moments.push_back(random_moments(c, static_cast<uint32_t>(i)));
        device_moments.emplace_back(device(), moments.back());
        device_tails.emplace_back(device(), tail_bytes);
        device_tails.emplace_back(device(), tail_bytes);
        std::vector<cuda::LayerState> states(2);
        states[kLayer].moments = device_moments.back().data();
        states[kLayer].tail_keys = device_tails[static_cast<size_t>(2 * i)].data();
        states[kLayer].tail_values = device_tails[static_cast<size_t>(2 * i + 1)].data();
        layers.emplace_back(device(), states);
        cuda::SequenceStep& step = steps[static_cast<size_t>(i)];
        step.layers = layers.back().data();
        step.tail_count = tails[i];
        step.error = error.data();
      }
      const ptx::DeviceArray<cuda::SequenceStep> device_steps(device(), steps);
      cuda::IngestParams p = params(c, x, data.data());
      p.steps = device_steps.data();
      p.layer = kLayer;
      DeviceQueue queue(device(), 1);
      cuda::ingest(queue, p, kSequences);
      for (int i = 0; i < kSequences; ++i) {
        std::vector<float>& expected = moments[static_cast<size_t>(i)];
        accumulate(c, x, i, expected);
        expect_same(c, device_moments[static_cast<size_t>(i)].to_vector(), expected, "moment");
        if (HasFatalFailure()) return;
      }
      EXPECT_EQ(error.to_vector()[0], 0u) << c;
    }
  });
}

TEST_P(CudaMomentTest, NamesQueriesThatCannotBeQuantised) {
  for (const MomentCase& c : kMomentCases) {
    for (double bad : {std::nan(""), HUGE_VAL, -32768.0}) {
      for (int channel : {0, c.head_dim / 2, c.head_dim - 1}) {
        FusedChunk x(c.dtype, c.tokens, c.heads, c.kv_heads, c.head_dim, c.gap, 4);
        const int token = c.tokens / 2, head = c.heads - 1;  // a sink's in one of them
        store_element(bad, c.dtype, x.at(token, head * c.head_dim + channel));
        const ptx::DeviceArray<uint8_t> data(device(), x.bytes);
        const ptx::DeviceArray<float> moments(device(), random_moments(c, 2));
        const ptx::DeviceArray<float> blocks(device(), 8 * moments.to_vector().size());
        const ptx::DeviceArray<unsigned long long> error(device(),
                                                         std::vector<unsigned long long>{0});
        cuda::IngestParams p = params(c, x, data.data());
        p.moments = moments.data();
        p.block_moments = blocks.data();
        p.error = error.data();
        DeviceQueue queue(device(), 1);
        cuda::ingest(queue, p, 1);
        const unsigned long long word = error.to_vector()[0];
        ASSERT_EQ(word & 0xffffffffu, 3u | static_cast<unsigned>(head) << 2 | 5u << 16)
            << c << " " << bad;
        const auto magnitude = std::bit_cast<float>(static_cast<uint32_t>(word >> 32));
        ASSERT_FALSE(magnitude <= 32752.0f) << c << " " << bad;
      }
    }
  }
}

RILLKV_INSTANTIATE_FOR_EVERY_DEVICE(CudaMomentTest);

// ---- blocks ----

class CudaFeedbackTest : public PackBlocksTest {
 protected:
  void run(const PackCase& c, uint32_t seed, Queries queries = Queries::kUsual, float decay = 1) {
    const FeedbackPacker packer(c, seed + 2, queries, decay, *scalar_);
    PackBlocksTest::run(c, seed, packer);
    if (!HasFatalFailure()) packer.check_moments();
  }
};

const PackCase kBlockCases[] = {
    // Tiles.
    {2, 128, 128, 0, 256, 2, Dtype::kBFloat16, 4, 64, 0, true},
    {1, 128, 128, 100, 200, 2, Dtype::kFloat16, 2, 64, 0, true, {2, 4, 6, 8}},  // a rest of 44
    {1, 64, 128, 127, 128, 1, Dtype::kBFloat16, 2, 64, 8, true},                // a rest of 127
    {2, 64, 128, 5, 256, 2, Dtype::kFloat16, 5, 64, 1, true, {1, 8}},           // no chunks
    {1, 128, 128, 64, 100, 1, Dtype::kBFloat16, 8, 64, 1, true, {1, 2, 3}},
    {1, 128, 128, 64, 50, 1, Dtype::kBFloat16, 5, 64, 0, false},  // short, provisional
    {2, 64, 128, 1, 0, 1, Dtype::kFloat16, 5, 64, 0, false},      // one token
    {1, 64, 128, 0, 7, 1, Dtype::kFloat16, 7, 64, 0, false, {6, 7, 8}},
    {1, 128, 128, 0, 128, 1, Dtype::kFloat16, 4, 64, 0, true, {4}},
    {1, 128, 128, 0, 128, 1, Dtype::kFloat16, 4, 64, 0, true, {3, 4}, true},  // equal channels
    // Any other shape.
    {1, 128, 128, 31, 97, 1, Dtype::kFloat32, 7, 64, 0, true},
    {3, 80, 32, 32, 70, 3, Dtype::kFloat32, 3, 24, 1, true},
    {2, 2, 32, 5, 91, 3, Dtype::kBFloat16, 8, 64, 3, true},
    {1, 256, 64, 1, 64, 1, Dtype::kFloat16, 5, 64, 0, true},
    {1, 256, 256, 3, 260, 1, Dtype::kFloat32, 4, 64, 0, true},
    {2, 96, 64, 20, 30, 1, Dtype::kFloat16, 4, 64, 0, false},
    {1, 6, 32, 0, 1, 1, Dtype::kFloat32, 6, 64, 2, false},
    {2, 64, 32, 7, 100, 3, Dtype::kBFloat16, 4, 64, 0, true, {2, 4, 6, 8}},
};

TEST_P(CudaFeedbackTest, BytesTablesAndLeftoverAreTheCpus) {
  under_every_order([&] {
    for (const PackCase& c : kBlockCases) {
      run(c, 11);
      if (HasFatalFailure()) return;
    }
  });
}

TEST_P(CudaFeedbackTest, MomentsOfEveryKind) {
  const PackCase cases[] = {
      {1, 128, 128, 0, 128, 1, Dtype::kBFloat16, 4, 64, 0, true},
      {2, 64, 128, 3, 125, 1, Dtype::kFloat16, 4, 64, 0, true},
      {2, 48, 32, 3, 61, 2, Dtype::kFloat32, 4, 48, 0, true},
  };
  for (const PackCase& c : cases) {
    for (Queries queries : {Queries::kNone, Queries::kTiny, Queries::kHuge, Queries::kOneDirection,
                            Queries::kWideRange}) {
      SCOPED_TRACE("queries " + std::to_string(static_cast<int>(queries)));
      run(c, 21, queries);
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(CudaFeedbackTest, MomentsFadeWhenTheyWereUsed) {
  run({2, 128, 128, 0, 128, 1, Dtype::kBFloat16, 4, 64, 0, true}, 5, Queries::kUsual, 0.9f);
  run({2, 64, 32, 0, 32, 1, Dtype::kFloat32, 4, 64, 0, true}, 5, Queries::kUsual, 0.75f);
  run({1, 6, 32, 0, 32, 1, Dtype::kFloat32, 4, 64, 0, true}, 5, Queries::kUsual, 0.0f);
}

RILLKV_INSTANTIATE_FOR_EVERY_DEVICE(CudaFeedbackTest);

}  // namespace
}  // namespace rillkv::test
