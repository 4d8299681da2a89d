// Blocks of policy "trellis" on the device against kernels/cpu's scalar table, which has its own
// tests: everything that rillkv_pack_trellis_* writes.
#include <string>

#include "tests/cuda/feedback_packer.h"

namespace rillkv::test {
namespace {

const std::vector<int> kWidths = {1, 2, 3, 4, 5, 6, 7};

class TrellisPacker final : public FeedbackPacker {
 public:
  TrellisPacker(const PackCase& c, int wide_pairs, uint32_t seed, Queries queries, float decay,
                const kernels::cpu::KernelTable& scalar)
      : FeedbackPacker(c, seed, queries, decay, scalar), wide_pairs_(wide_pairs) {}

  std::vector<uint8_t> pack_values(const PackCase& c, const kernels::cpu::PackParams& params,
                                   const kernels::cpu::KernelTable& scalar,
                                   int64_t&) const override {
    GuardedBuffer one(format::trellis_value_bytes(c.head_dim, c.block_size, c.bits, wide_pairs_));
    scalar.pack_trellis_values(params, c.bits, wide_pairs_, one.data());
    const auto bytes = one.bytes();
    return {bytes.begin(), bytes.end()};
  }
  void set(ptx::Device& device, cuda::PackParams& p) const override {
    FeedbackPacker::set(device, p);
    p.trellis = 1;
    p.wide_pairs = wide_pairs_;
  }

 protected:
  std::vector<uint8_t> code(const kernels::cpu::PackParams& params,
                            const kernels::FeedbackPlan& plan, const float* spread,
                            const float* energy, int increments, uint8_t* widths,
                            void* workspace) const override {
    const int D = c_.head_dim;
    if (c_.classes == kWidths) {
      kernels::cpu::allocate_trellis_widths(spread, energy, D, increments, widths);
    } else {  // every channel has one width
      for (int p = 0; p < D / 2; ++p) {
        widths[p] = format::pair_widths(c_.classes[0], c_.classes[0]);
      }
    }
    GuardedBuffer one(format::trellis_key_bytes(D, c_.block_size, format::width_sum(widths, D)));
    const kernels::cpu::TrellisKeys head = {params, plan, widths, workspace, one.data()};
    scalar_.pack_trellis_keys(&head, 1);
    const auto bytes = one.bytes();
    return {bytes.begin(), bytes.end()};
  }

 private:
  const int wide_pairs_;
};

/// Of PackCase: group_size counts for nothing.
struct TrellisCase {
  PackCase pack;
  int wide_pairs;
};

class CudaTrellisTest : public PackBlocksTest {
 protected:
  void run(const TrellisCase& c, uint32_t seed, Queries queries = Queries::kUsual,
           float decay = 1) {
    SCOPED_TRACE(std::to_string(c.wide_pairs) + " wide pairs");
    const TrellisPacker packer(c.pack, c.wide_pairs, seed + 2, queries, decay, *scalar_);
    PackBlocksTest::run(c.pack, seed, packer);
    if (!HasFatalFailure()) packer.check_moments();
  }
};

const TrellisCase kCases[] = {
    // Tiles.
    {{2, 128, 128, 0, 256, 2, Dtype::kBFloat16, 4, 64, 0, true, kWidths}, 40},
    {{1, 128, 128, 100, 200, 2, Dtype::kFloat16, 2, 64, 0, true, kWidths}, 0},  // a rest of 44
    {{1, 64, 128, 127, 128, 1, Dtype::kBFloat16, 3, 64, 8, true, kWidths}, 32},
    {{2, 64, 128, 5, 256, 2, Dtype::kFloat16, 5, 64, 1, true, kWidths}, 20},     // no chunks
    {{1, 128, 128, 64, 50, 1, Dtype::kBFloat16, 6, 64, 0, false, kWidths}, 63},  // short
    {{2, 64, 128, 1, 0, 1, Dtype::kFloat16, 1, 64, 0, false, kWidths}, 1},       // one token
    {{1, 64, 128, 0, 2, 1, Dtype::kFloat16, 7, 64, 0, false, kWidths}, 0},
    {{1, 64, 128, 0, 33, 1, Dtype::kBFloat16, 4, 64, 0, false, kWidths}, 8},
    {{1, 128, 128, 0, 128, 1, Dtype::kFloat16, 4, 64, 0, true, kWidths, true},
     9},  // equal channels
    // Any other shape.
    {{1, 128, 128, 31, 97, 1, Dtype::kFloat32, 7, 64, 0, true, kWidths}, 0},
    {{3, 80, 32, 32, 70, 3, Dtype::kFloat32, 3, 24, 1, true, kWidths}, 7},
    {{2, 2, 32, 5, 91, 3, Dtype::kBFloat16, 6, 64, 3, true, kWidths}, 1},
    {{1, 256, 64, 1, 64, 1, Dtype::kFloat16, 5, 64, 0, true, kWidths}, 100},
    {{1, 256, 256, 3, 260, 1, Dtype::kFloat32, 4, 64, 0, true, kWidths}, 128},
    {{2, 96, 64, 20, 30, 1, Dtype::kFloat16, 4, 64, 0, false, kWidths}, 5},
    {{1, 6, 32, 0, 1, 1, Dtype::kFloat32, 6, 64, 2, false, kWidths}, 2},
    {{2, 64, 192, 7, 200, 1, Dtype::kBFloat16, 1, 64, 0, true, kWidths}, 16},
};

TEST_P(CudaTrellisTest, BytesTablesAndLeftoverAreTheCpus) {
  under_every_order([&] {
    for (const TrellisCase& c : kCases) {
      run(c, 11);
      if (HasFatalFailure()) return;
    }
  });
}

// Of every width's range search, and of every width of values.
TEST_P(CudaTrellisTest, EveryWidth) {
  for (int width = 1; width <= format::kMaxTrellisWidth; ++width) {
    for (Dtype dtype : {Dtype::kBFloat16, Dtype::kFloat32}) {
      const int wide = width == format::kMaxTrellisWidth ? 0 : 4 * width;
      run({{1, 64, 128, 1, 127, 1, dtype, width, 64, 0, true, {width}}, wide},
          30 + static_cast<uint32_t>(width));
      if (HasFatalFailure()) return;
    }
  }
}

// Paths of equal error: all errors are small dyadic numbers, since steps are powers of two. Keys of
// 3 bits are a scalar quantiser's levels at the first step that is tried, which no other betters,
// and so are nearly all values (3.75 (k + 0.5), with 15 the largest magnitude).
TEST_P(CudaTrellisTest, TheFirstOfEqualPathsWins) {
  for (Dtype dtype : {Dtype::kFloat16, Dtype::kFloat32}) {
    PackCase c = {1, 64, 128, 0, 128, 1, dtype, 3, 64, 0, true, {3}};
    c.keys = {0, 1, 2, 3, 4, 5, 6, 7};
    c.values = {15, 1.875, -1.875, 5.625, -5.625, 9.375, -9.375, 13.125, -13.125, 0};
    run({c, 0}, 40, Queries::kNone);
    if (HasFatalFailure()) return;
  }
}

TEST_P(CudaTrellisTest, MomentsOfEveryKind) {
  const TrellisCase cases[] = {
      {{1, 64, 128, 3, 125, 1, Dtype::kFloat16, 4, 64, 0, true, kWidths}, 20},
      {{2, 48, 32, 3, 61, 2, Dtype::kFloat32, 4, 48, 0, true, kWidths}, 0},
  };
  for (const TrellisCase& c : cases) {
    for (Queries queries : {Queries::kNone, Queries::kTiny, Queries::kHuge, Queries::kOneDirection,
                            Queries::kWideRange}) {
      SCOPED_TRACE("queries " + std::to_string(static_cast<int>(queries)));
      run(c, 21, queries, 0.9f);
      if (HasFatalFailure()) return;
    }
  }
}

RILLKV_INSTANTIATE_FOR_EVERY_DEVICE(CudaTrellisTest);

}  // namespace
}  // namespace rillkv::test
