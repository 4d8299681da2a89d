// rillkv_ingest_*: rotation, tail, maxima, squares and energies, and the word of what cannot be
// quantised, against tests/cuda/ingest_oracle.h.

#include "tests/cuda/ingest_oracle.h"

namespace rillkv::test {
namespace {

namespace cuda = kernels::cuda;

struct Case {
  int heads, kv_heads, head_dim, block_size, tokens, sinks, tail;
  Dtype dtype;
  bool rotate, seen;
  int gap;  // elements between a token's values and the next token's queries
};
std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << c.heads << "/" << c.kv_heads << "/" << c.head_dim << ", " << c.tokens << " tokens, "
             << c.sinks << " sinks, tail " << c.tail << " of " << c.block_size << ", "
             << dtype_name(c.dtype) << ", gap " << c.gap;
}

constexpr Case kCases[] = {
    {4, 1, 128, 32, 70, 3, 0, Dtype::kBFloat16, true, false, 0},   // two blocks and a rest
    {8, 2, 64, 128, 130, 0, 100, Dtype::kFloat16, true, true, 8},  // one block, from the tail
    {3, 1, 80, 32, 40, 0, 31, Dtype::kBFloat16, false, true, 1},   // a head_dim that is no power
    {16, 1, 256, 32, 33, 0, 31, Dtype::kFloat16, true, true, 0},
    {2, 2, 2, 32, 5, 4, 0, Dtype::kFloat32, true, false, 3},
    {6, 3, 6, 64, 129, 1, 0, Dtype::kFloat32, false, false, 5},
    {9, 1, 16, 32, 1, 0, 32, Dtype::kFloat32, true, true, 0},   // a full tail
    {4, 2, 96, 32, 32, 0, 0, Dtype::kFloat16, false, true, 0},  // exactly a block
    {2, 1, 32, 32, 4, 4, 0, Dtype::kBFloat16, true, false, 1},  // nothing but sinks
};

class CudaIngestTest : public EveryDevice {
 protected:
  /// A chunk on the device with everything that ingest writes.
  struct Chunk {
    Chunk(ptx::Device& device, const Case& c, FusedChunk& x)
        : data(device, x.bytes),
          rotated(device, values_bytes(c, c.tokens)),
          tail_keys(device, values_bytes(c, c.block_size)),
          tail_values(device, values_bytes(c, c.block_size)),
          sums(device, std::vector<float>(static_cast<size_t>(c.heads * c.head_dim), 0.0f)),
          ema(device, std::vector<float>(static_cast<size_t>(c.kv_heads * c.head_dim), 0.0f)),
          energies(device,
                   static_cast<size_t>(std::max(1, blocks_of(c)) * c.kv_heads * c.head_dim)),
          preview(device, std::vector<float>(static_cast<size_t>(c.kv_heads * c.head_dim), -1.0f)),
          key_absmax(device,
                     std::vector<float>(static_cast<size_t>(c.kv_heads * c.head_dim), 0.0f)),
          value_absmax(device,
                       std::vector<float>(static_cast<size_t>(c.kv_heads * c.head_dim), 0.0f)),
          error(device, std::vector<unsigned long long>{0}) {}
    ptx::DeviceArray<uint8_t> data, rotated, tail_keys, tail_values;
    ptx::DeviceArray<float> sums, ema, energies, preview, key_absmax, value_absmax;
    ptx::DeviceArray<unsigned long long> error;
  };
  static size_t values_bytes(const Case& c, int tokens) {
    return static_cast<size_t>(tokens * c.kv_heads * c.head_dim) * dtype_bytes(c.dtype);
  }
  static int blocks_of(const Case& c) {
    return (c.tail + std::max(0, c.tokens - c.sinks)) / c.block_size;
  }
  static kernels::Activation slice(const Case& c, FusedChunk& x, const uint8_t* data, int offset) {
    return {data + static_cast<size_t>(offset) * dtype_bytes(c.dtype), x.stride(), c.head_dim};
  }
  static cuda::IngestParams params(const Case& c, FusedChunk& x, const Chunk& chunk) {
    cuda::IngestParams p;
    p.queries = slice(c, x, chunk.data.data(), 0);
    p.keys = slice(c, x, chunk.data.data(), x.key_offset());
    p.values = slice(c, x, chunk.data.data(), x.value_offset());
    p.rotated = {chunk.rotated.data(), int64_t{c.kv_heads} * c.head_dim, c.head_dim};
    p.dtype = c.dtype;
    p.heads = c.heads;
    p.kv_heads = c.kv_heads;
    p.head_dim = c.head_dim;
    p.block_size = c.block_size;
    p.tokens = c.tokens;
    p.sink_tokens = c.sinks;
    p.tail_count = c.tail;
    p.rotate_values = c.rotate;
    p.error = chunk.error.data();
    p.layer = 5;
    p.seen = c.seen;
    p.keep = 0.9f;
    p.take = 0.1f;
    p.energy_sums = chunk.sums.data();
    p.energy_ema = chunk.ema.data();
    p.energies = chunk.energies.data();
    p.preview = chunk.preview.data();
    return p;
  }
  /// Whether rows of an array [rows, kv_heads, D] hold expect(row, head, channel) bit for bit.
  template <typename Expect>
  void expect_rows(const Case& c, const ptx::DeviceArray<uint8_t>& got, int first, int count,
                   const Expect& expect, const char* what) {
    const auto bytes = got.to_vector();
    const size_t size = dtype_bytes(c.dtype);
    for (int t = first; t < first + count; ++t) {
      for (int h = 0; h < c.kv_heads; ++h) {
        for (int d = 0; d < c.head_dim; ++d) {
          uint8_t expected[4];
          store_element(static_cast<double>(expect(t - first, h, d)), c.dtype, expected);
          const auto at = static_cast<size_t>((t * c.kv_heads + h) * c.head_dim + d) * size;
          ASSERT_EQ(std::memcmp(bytes.data() + at, expected, size), 0)
              << c << ": " << what << " " << t << " " << h << " " << d;
        }
      }
    }
  }
  /// Energies of a history that is not this chunk's.
  static EnergyOracle oracle(const Case& c, uint32_t seed) {
    EnergyOracle energy{c.heads, c.kv_heads, c.head_dim, 0.9f, 0.1f, {}, {}};
    std::mt19937 random(seed);
    std::uniform_real_distribution<float> uniform(0.0f, 50.0f);
    energy.sums.resize(static_cast<size_t>(c.heads * c.head_dim));
    energy.ema.resize(static_cast<size_t>(c.kv_heads * c.head_dim));
    for (float& x : energy.sums) x = c.tail > 0 ? uniform(random) : 0.0f;
    for (float& x : energy.ema) x = uniform(random);
    energy.tokens = c.tail;
    energy.seen = c.seen;
    return energy;
  }
  void upload(const ptx::DeviceArray<float>& to, const std::vector<float>& from) {
    device().upload(to.data(), from.data(), from.size() * sizeof(float));
  }
};

TEST_P(CudaIngestTest, EnergiesRotationAndTail) {
  under_every_order([&] {
    for (const Case& c : kCases) {
      FusedChunk x(c.dtype, c.tokens, c.heads, c.kv_heads, c.head_dim, c.gap, 1);
      Chunk chunk(device(), c, x);
      EnergyOracle energy = oracle(c, 2);
      upload(chunk.sums, energy.sums);
      upload(chunk.ema, energy.ema);
      cuda::IngestParams p = params(c, x, chunk);
      const int kept = c.tokens - c.sinks;
      const bool fits = c.tail + kept <= c.block_size;
      if (fits) {
        p.tail_keys = chunk.tail_keys.data();
        p.tail_values = chunk.tail_values.data();
      }
      DeviceQueue queue(device(), 1);
      cuda::ingest(queue, p, 1);

      std::vector<float> energies;
      const auto seal_if_full = [&] {
        if (energy.tokens < c.block_size) return;
        const auto sealed = energy.seal();
        energies.insert(energies.end(), sealed.begin(), sealed.end());
      };
      seal_if_full();
      for (int t = c.sinks; t < c.tokens; ++t) {
        energy.accumulate(x, t);
        seal_if_full();
      }
      expect_same(c, chunk.sums.to_vector(), energy.sums, "sums");
      expect_same(c, chunk.ema.to_vector(), energy.ema, "ema");
      expect_same(c, chunk.energies.to_vector(), energies, "energies");
      const std::vector<float> untouched(energy.ema.size(), -1.0f);
      expect_same(c, chunk.preview.to_vector(), energy.tokens > 0 ? energy.preview() : untouched,
                  "preview");
      const auto value = [&](int t, int h, int d) {
        return stored_values(x, t, h, c.rotate)[static_cast<size_t>(d)];
      };
      expect_rows(c, chunk.rotated, 0, c.tokens, value, "rotated");
      if (fits) {
        expect_rows(
            c, chunk.tail_keys, c.tail, kept,
            [&](int t, int h, int d) { return x.key(c.sinks + t, h, d); }, "tail of keys");
        expect_rows(
            c, chunk.tail_values, c.tail, kept,
            [&](int t, int h, int d) { return value(c.sinks + t, h, d); }, "tail of values");
      }
      EXPECT_EQ(chunk.error.to_vector()[0], 0u) << c;
      if (HasFatalFailure()) return;
    }
  });
}

TEST_P(CudaIngestTest, LargestMagnitudesAfterTheSinks) {
  under_every_order([&] {
    for (const Case& c : kCases) {
      FusedChunk x(c.dtype, c.tokens, c.heads, c.kv_heads, c.head_dim, c.gap, 3);
      // A NaN among the sinks is none of the maxima's; one after them is.
      const bool nan = c.tokens > c.sinks && !c.rotate;
      if (nan) store_element(std::nan(""), c.dtype, x.at(c.tokens - 1, x.value_offset() + 1));
      if (c.sinks > 0) store_element(30000.0, c.dtype, x.at(0, x.key_offset()));
      Chunk chunk(device(), c, x);
      cuda::IngestParams p = params(c, x, chunk);
      p.energy_sums = p.energy_ema = p.energies = p.preview = nullptr;
      p.key_absmax = chunk.key_absmax.data();
      p.value_absmax = chunk.value_absmax.data();
      DeviceQueue queue(device(), 1);
      cuda::ingest(queue, p, 1);
      std::vector<float> keys(static_cast<size_t>(c.kv_heads * c.head_dim), 0.0f), values = keys;
      const auto raise = [](float& most, float value) {
        if (std::isnan(value) || std::isnan(most)) {
          const uint32_t canonical = 0x7fc00000u;
          std::memcpy(&most, &canonical, 4);
        } else {
          most = std::max(most, std::fabs(value));
        }
      };
      for (int t = c.sinks; t < c.tokens; ++t) {
        for (int h = 0; h < c.kv_heads; ++h) {
          const auto row = stored_values(x, t, h, c.rotate);
          for (int d = 0; d < c.head_dim; ++d) {
            const auto i = static_cast<size_t>(h * c.head_dim + d);
            raise(keys[i], x.key(t, h, d));
            raise(values[i], row[static_cast<size_t>(d)]);
          }
        }
      }
      expect_same(c, chunk.key_absmax.to_vector(), keys, "keys");
      expect_same(c, chunk.value_absmax.to_vector(), values, "values");
      EXPECT_EQ(chunk.error.to_vector()[0] != 0, nan) << c;
      if (HasFatalFailure()) return;
    }
  });
}

TEST_P(CudaIngestTest, NamesWhatCannotBeQuantised) {
  enum Side { kKeys = 1, kValues = 2, kQueries = 3 };
  under_every_order([&] {
    for (const Case& c : kCases) {
      for (int side : {kKeys, kValues, kQueries}) {
        for (double bad : {std::nan(""), HUGE_VAL, -32768.0, 32752.0}) {
          if (bad == 32752.0 && (c.dtype == Dtype::kBFloat16 || c.rotate)) continue;
          FusedChunk x(c.dtype, c.tokens, c.heads, c.kv_heads, c.head_dim, c.gap, 4);
          const int heads = side == kQueries ? c.heads : c.kv_heads;
          const int head = heads - 1, token = c.tokens / 2, channel = c.head_dim - 1;
          const int offset = side == kKeys     ? x.key_offset()
                             : side == kValues ? x.value_offset()
                                               : 0;
          // Rotated, a value weighs 1 / sqrt(D) in each channel.
          const double in =
              side == kValues && c.rotate && std::isfinite(bad) ? bad * std::sqrt(c.head_dim) : bad;
          store_element(in, c.dtype, x.at(token, offset + head * c.head_dim + channel));
          Chunk chunk(device(), c, x);
          cuda::IngestParams p = params(c, x, chunk);
          DeviceQueue queue(device(), 1);
          cuda::ingest(queue, p, 1);
          const unsigned long long word = chunk.error.to_vector()[0];
          if (bad == 32752.0) {
            ASSERT_EQ(word, 0u) << c << " " << side;
            continue;
          }
          ASSERT_EQ(word & 3, static_cast<unsigned>(side)) << c << " " << bad;
          ASSERT_EQ(word >> 2 & 0x3fff, static_cast<unsigned>(head)) << c << " " << bad;
          ASSERT_EQ(word >> 16 & 0xffff, 5u) << c << " " << bad;
          const auto bits = static_cast<uint32_t>(word >> 32);
          float magnitude = 0;
          std::memcpy(&magnitude, &bits, 4);
          ASSERT_FALSE(magnitude <= 32752.0f) << c << " " << side << " " << bad;
          ASSERT_TRUE(!std::isnan(bad) || std::isnan(magnitude)) << c << " " << side;
        }
        // What policy "ema" does not look at.
        if (side != kQueries) continue;
        FusedChunk x(c.dtype, c.tokens, c.heads, c.kv_heads, c.head_dim, c.gap, 4);
        store_element(std::nan(""), c.dtype, x.at(0, 0));
        Chunk chunk(device(), c, x);
        cuda::IngestParams p = params(c, x, chunk);
        p.energy_sums = nullptr;
        DeviceQueue queue(device(), 1);
        cuda::ingest(queue, p, 1);
        ASSERT_EQ(chunk.error.to_vector()[0], 0u) << c;
      }
    }
  });
}

// The second of two violations does not replace the first that was found.
TEST_P(CudaIngestTest, KeepsTheFirstViolation) {
  const Case c = kCases[0];
  FusedChunk x(c.dtype, c.tokens, c.heads, c.kv_heads, c.head_dim, c.gap, 4);
  store_element(std::nan(""), c.dtype, x.at(1, x.key_offset()));
  Chunk chunk(device(), c, x);
  const unsigned long long before = 77;
  device().upload(chunk.error.data(), &before, sizeof before);
  DeviceQueue queue(device(), 1);
  cuda::ingest(queue, params(c, x, chunk), 1);
  EXPECT_EQ(chunk.error.to_vector()[0], before);
}

TEST_P(CudaIngestTest, OneTokenOfEachOfSeveralSequences) {
  under_every_order([&] {
    for (const Case& shape : kCases) {
      constexpr int kSequences = 3, kLayer = 1;
      Case c = shape;
      c.tokens = kSequences;
      c.sinks = 0;
      const int tails[kSequences] = {0, c.block_size - 1, c.block_size / 2};
      const int blocks[kSequences] = {0, 2, 0};
      FusedChunk x(c.dtype, c.tokens, c.heads, c.kv_heads, c.head_dim, c.gap, 6);
      // The second sequence's query cannot be quantised.
      store_element(std::nan(""), c.dtype, x.at(2, 1));
      Chunk batch(device(), c, x);
      std::vector<Chunk> of_sequence;
      std::vector<EnergyOracle> energy;
      std::vector<ptx::DeviceArray<cuda::LayerState>> layers;
      std::vector<cuda::SequenceStep> steps(kSequences);
      for (int i = 0; i < kSequences; ++i) {
        c.tail = tails[i];
        c.seen = blocks[i] > 0;
        of_sequence.emplace_back(device(), c, x);
        energy.push_back(oracle(c, static_cast<uint32_t>(i)));
        upload(of_sequence.back().sums, energy.back().sums);
        upload(of_sequence.back().ema, energy.back().ema);
        std::vector<cuda::LayerState> states(2);
        cuda::LayerState& layer = states[kLayer];
        layer.tail_keys = of_sequence.back().tail_keys.data();
        layer.tail_values = of_sequence.back().tail_values.data();
        layer.energy_sums = of_sequence.back().sums.data();
        layer.energy_ema = of_sequence.back().ema.data();
        layer.energies = of_sequence.back().energies.data();
        layers.emplace_back(device(), states);
        steps[static_cast<size_t>(i)].layers = layers.back().data();
        steps[static_cast<size_t>(i)].error = of_sequence.back().error.data();
        steps[static_cast<size_t>(i)].tail_count = tails[i];
        steps[static_cast<size_t>(i)].block_count = blocks[i];
      }
      ptx::DeviceArray<cuda::SequenceStep> device_steps(device(), steps);
      cuda::IngestParams p = params(c, x, batch);
      p.steps = device_steps.data();
      p.layer = kLayer;
      p.error = nullptr;
      p.energy_sums = p.energy_ema = p.energies = p.preview = nullptr;
      if (c.gap != 0) p.rotated = {};
      DeviceQueue queue(device(), 1);
      cuda::ingest(queue, p, kSequences);
      for (int i = 0; i < kSequences; ++i) {
        const Chunk& one = of_sequence[static_cast<size_t>(i)];
        EnergyOracle& expected = energy[static_cast<size_t>(i)];
        c.tail = tails[i];
        expected.accumulate(x, i);
        if (i != 2) {
          if (expected.tokens == c.block_size) {
            expect_same(c, one.energies.to_vector(), expected.seal(), "energies");
          }
          expect_same(c, one.sums.to_vector(), expected.sums, "sums");
          expect_same(c, one.ema.to_vector(), expected.ema, "ema");
        }
        expect_rows(
            c, one.tail_keys, tails[i], 1, [&](int, int h, int d) { return x.key(i, h, d); },
            "tail of keys");
        const auto value = [&](int t, int h, int d) {
          return stored_values(x, t, h, c.rotate)[static_cast<size_t>(d)];
        };
        expect_rows(
            c, one.tail_values, tails[i], 1, [&](int, int h, int d) { return value(i, h, d); },
            "tail of values");
        EXPECT_EQ(one.error.to_vector()[0] & 0xffffffffu, i == 2 ? 3u | kLayer << 16 : 0u) << c;
        if (HasFatalFailure()) return;
      }
      if (c.gap == 0) {
        expect_rows(
            c, batch.rotated, 0, kSequences,
            [&](int t, int h, int d) {
              return stored_values(x, t, h, c.rotate)[static_cast<size_t>(d)];
            },
            "rotated");
      }
    }
  });
}

TEST_P(CudaIngestTest, RefusesRotationsThatAreNoPowerOfTwo) {
  DeviceQueue queue(device(), 1);
  for (int head_dim : {80, 512}) {
    cuda::IngestParams p;
    p.heads = p.kv_heads = p.tokens = 1;
    p.head_dim = head_dim;
    p.rotate_values = 1;
    EXPECT_THROW(cuda::ingest(queue, p, 1), std::invalid_argument) << head_dim;
  }
}

RILLKV_INSTANTIATE_FOR_EVERY_DEVICE(CudaIngestTest);

}  // namespace
}  // namespace rillkv::test
