// A chunk for rillkv_ingest_* and rillkv_pack_*, and what ingest must leave behind, written down
// once more in plain C++.
#pragma once

#include <bit>
#include <cmath>
#include <random>

#include "kernels/cuda/ingest.h"
#include "tests/cuda/device_fixture.h"

namespace rillkv::test {

// fp32 operations without contraction, whatever this file is compiled with: a double holds a
// product of two floats exactly, and rounding a sum or a quotient twice changes nothing at 53 >= 2
// * 24 + 2 bits.
inline float add32(float a, float b) {
  return static_cast<float>(static_cast<double>(a) + static_cast<double>(b));
}
inline float mul32(float a, float b) {
  return static_cast<float>(static_cast<double>(a) * static_cast<double>(b));
}
inline float div32(float a, float b) {
  return static_cast<float>(static_cast<double>(a) / static_cast<double>(b));
}

/// Queries, keys and values as slices of one tensor, a token's row being [q | k | v | gap].
struct FusedChunk {
  Dtype dtype;
  int tokens, heads, kv_heads, head_dim, gap;
  std::vector<uint8_t> bytes;

  FusedChunk(Dtype dtype, int tokens, int heads, int kv_heads, int head_dim, int gap, uint32_t seed)
      : dtype(dtype),
        tokens(tokens),
        heads(heads),
        kv_heads(kv_heads),
        head_dim(head_dim),
        gap(gap),
        bytes(static_cast<size_t>(tokens * stride()) * dtype_bytes(dtype), 0xff) {
    std::mt19937 random(seed);
    std::normal_distribution<double> normal(0.0, 1.0);
    for (int t = 0; t < tokens; ++t) {
      for (int i = 0; i < (heads + 2 * kv_heads) * head_dim; ++i) {
        // Channels of different scales, and one that is constant.
        const double value = i % 7 == 3 ? 1.25 : normal(random) * (1 + i % 5);
        store_element(value, dtype, at(t, i));
      }
    }
  }
  int stride() const { return (heads + 2 * kv_heads) * head_dim + gap; }
  int key_offset() const { return heads * head_dim; }
  int value_offset() const { return (heads + kv_heads) * head_dim; }
  uint8_t* at(int t, int i) {
    return bytes.data() + static_cast<size_t>(t * stride() + i) * dtype_bytes(dtype);
  }
  float get(int t, int i) { return static_cast<float>(load_element(dtype, at(t, i))); }
  float query(int t, int h, int c) { return get(t, h * head_dim + c); }
  float key(int t, int h, int c) { return get(t, key_offset() + h * head_dim + c); }
  float value(int t, int h, int c) { return get(t, value_offset() + h * head_dim + c); }
};

/// The values of a token and head as stored.
inline std::vector<float> stored_values(FusedChunk& x, int t, int h, bool rotate) {
  const int D = x.head_dim;
  std::vector<float> row(static_cast<size_t>(D));
  for (int c = 0; c < D; ++c) row[static_cast<size_t>(c)] = x.value(t, h, c);
  if (!rotate) return row;
  for (int span = 1; span < D; span *= 2) {
    for (int i = 0; i < D; ++i) {
      if ((i & span) != 0) continue;
      const auto low = static_cast<size_t>(i), high = static_cast<size_t>(i + span);
      const float a = row[low], b = row[high];
      row[low] = add32(a, b);
      row[high] = add32(a, -b);
    }
  }
  const auto factor = static_cast<float>(1.0 / std::sqrt(static_cast<double>(D)));
  for (float& y : row) {
    uint8_t stored[4];
    store_element(static_cast<double>(mul32(y, factor)), x.dtype, stored);
    y = static_cast<float>(load_element(x.dtype, stored));
  }
  return row;
}

/// Query energies as include/rillkv/query_energy.h defines them, one token at a time.
struct EnergyOracle {
  int heads, kv_heads, head_dim;
  float keep, take;
  std::vector<float> sums, ema;
  int tokens = 0;
  bool seen = false;

  void accumulate(FusedChunk& x, int t) {
    for (int h = 0; h < heads; ++h) {
      for (int c = 0; c < head_dim; ++c) {
        const float q = x.query(t, h, c);
        float& sum = sums[static_cast<size_t>(h * head_dim + c)];
        sum = add32(sum, mul32(q, q));
      }
    }
    ++tokens;
  }
  std::vector<float> preview() const {
    const int group = heads / kv_heads;
    std::vector<float> out(ema.size());
    for (int h = 0; h < kv_heads; ++h) {
      for (int c = 0; c < head_dim; ++c) {
        float sum = 0;
        for (int g = 0; g < group; ++g) {
          sum = add32(sum, sums[static_cast<size_t>((h * group + g) * head_dim + c)]);
        }
        const float now = div32(sum, static_cast<float>(tokens * group));
        const auto i = static_cast<size_t>(h * head_dim + c);
        out[i] = seen ? add32(mul32(keep, ema[i]), mul32(take, now)) : now;
      }
    }
    return out;
  }
  std::vector<float> seal() {
    ema = preview();
    std::fill(sums.begin(), sums.end(), 0.0f);
    tokens = 0;
    seen = true;
    return ema;
  }
};

/// The first numbers of `got` are `expected`, bit for bit. c: what to say it was about.
template <class Case>
void expect_same(const Case& c, const std::vector<float>& got, const std::vector<float>& expected,
                 const char* what) {
  ASSERT_LE(expected.size(), got.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    ASSERT_EQ(std::bit_cast<uint32_t>(got[i]), std::bit_cast<uint32_t>(expected[i]))
        << c << ": " << what << " " << i << ": " << got[i] << ", not " << expected[i];
  }
}

}  // namespace rillkv::test
