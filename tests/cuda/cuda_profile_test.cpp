// Bank conflicts and sectors of the fast attention kernels, as the executor counts them: what the
// layouts in tile_fill.cuh, fill_channels.cuh and fill_tokens.cuh promise.
#include <string>

#include "kernels/cuda/attention_costs.h"
#include "kernels/cuda/ingest.h"
#include "kernels/packed_format.h"
#include "tests/cuda/device_scenario.h"
#include "tests/cuda/pack_scenario.h"

namespace rillkv::test {
namespace {

namespace format = rillkv::format;

struct Profile {
  uint64_t conflicts = 0;  // shared-memory wavefronts above the minimum
  uint64_t excess = 0;     // global sectors above the minimum
  uint64_t sectors = 0;
  std::string worst;  // sites with any of either
};

Profile sum_of(const std::vector<ptx::Report>& reports) {
  Profile profile;
  for (const ptx::Report& report : reports) {
    for (const ptx::SiteProfile& site : report.sites) {
      const uint64_t conflicts = site.wavefronts - site.min_wavefronts;
      const uint64_t excess = site.sectors - site.min_sectors;
      profile.conflicts += conflicts;
      profile.excess += excess;
      profile.sectors += site.sectors;
      if (conflicts + excess > 0) {
        profile.worst += site.source + ": " + std::to_string(site.executions) + " executions, " +
                         std::to_string(conflicts) + " conflicts, " + std::to_string(excess) +
                         " of " + std::to_string(site.sectors) + " sectors too many\n";
      }
    }
  }
  return profile;
}

/// Of the attention kernel. None of its accesses may take more than it must, but for decode's to
/// shared memory: lanes that share a token read four planes, which lie where they lie. What that
/// costs is counted (ATileCostsWhatTheModelSays) and less than it costs to issue instructions.
void expect_no_waste(const Shape& shape) {
  const auto device = make_executor(0, true);
  DeviceQueue queue(*device, 1);
  Scenario scenario(shape);
  attend_on_device(*device, queue, {&scenario});
  const Profile profile = sum_of({device->reports().at(0)});
  const bool decode = queue.entries().at(0).find("decode") != std::string::npos;
  if (!decode) {
    EXPECT_EQ(profile.conflicts, 0u) << shape << profile.worst;
  }
  EXPECT_EQ(profile.excess, 0u) << shape << profile.worst;
  EXPECT_GT(profile.sectors, 0u);
}

Shape shape_of(int head_dim, int queries, bool ema, Dtype dtype) {
  return {.heads = 4,
          .kv_heads = 1,
          .head_dim = head_dim,
          .dtype = dtype,
          .ema = ema,
          .key_widths = ema ? std::vector<int>{4, 8} : std::vector<int>{1, 2, 3, 4, 5, 6, 7, 8},
          .value_groups = head_dim / 64,
          .rotate_output = true,
          .blocks = 3,
          .tail = 64,
          .queries = queries,
          .seed = 5};
}

TEST(CudaProfileTest, AttentionHasNoBankConflictsAndWastesNoSectors) {
  for (Dtype dtype : {Dtype::kBFloat16, Dtype::kFloat16}) {
    for (bool ema : {false, true}) {
      for (int head_dim : {64, 128}) {
        for (int queries : {2, 64}) {
          expect_no_waste(shape_of(head_dim, queries, ema, dtype));
        }
      }
    }
  }
}

// Widths of policy "ema" are two, whatever they are, one of them for single channels: planes of
// each kind begin at even and odd places.
TEST(CudaProfileTest, ChannelsOfAnyTwoWidthsHaveNoBankConflicts) {
  for (int a = 2; a <= 8; ++a) {
    for (int b = 2; b <= a; ++b) {
      Shape shape = shape_of(64, 64, true, Dtype::kFloat16);
      shape.key_widths = {a, b};
      expect_no_waste(shape);
    }
  }
}

TEST(CudaProfileTest, ValuesOfAnyWidthHaveNoBankConflicts) {
  for (int head_dim : {64, 128}) {
    for (int groups = 1; groups <= head_dim / 64; ++groups) {
      for (int bits = 2; bits <= 8; ++bits) {
        Shape shape = shape_of(head_dim, 64, false, Dtype::kFloat16);
        shape.value_bits = bits;
        shape.value_groups = groups;
        expect_no_waste(shape);
      }
    }
  }
}

/// Of widths 1 .. 7, and with so many wide pairs of values.
Shape trellis_shape_of(int head_dim, int queries, Dtype dtype, int value_width, int wide_pairs) {
  Shape shape = shape_of(head_dim, queries, false, dtype);
  shape.trellis = true;
  shape.key_widths.pop_back();
  shape.value_width = value_width;
  shape.value_wide_pairs = wide_pairs;
  return shape;
}

TEST(CudaProfileTest, PrefillOverTrellisBlocksHasNoBankConflictsAndWastesNoSectors) {
  for (int head_dim : {64, 128}) {
    expect_no_waste(trellis_shape_of(head_dim, 64, Dtype::kBFloat16, 4, head_dim / 4));
    for (int width = 1; width <= 7; ++width) {
      const int wide = width < 7 ? head_dim / 2 - 9 : 0;
      expect_no_waste(trellis_shape_of(head_dim, 64, Dtype::kFloat16, width, wide));
    }
  }
}

/// One launch packs two blocks of one kv head, from an empty tail; `instructions`: of its warps;
/// `bit_planes`: that its key blocks have.
Profile profile_of_pack(int head_dim, Dtype dtype, uint64_t& instructions, uint64_t& bit_planes) {
  const auto device = make_executor(0, true);
  DeviceQueue queue(*device, 1);
  const PackScenario scenario(*device, dtype, head_dim, 128, 2);
  kernels::cuda::pack(queue, scenario.params());
  instructions = device->reports().at(0).warp_instructions;
  bit_planes = 0;
  for (const auto& block : scenario.storage()) {
    const std::vector<uint8_t> bytes = block.to_vector();
    for (int c = 0; c < head_dim; ++c) {
      bit_planes += static_cast<uint64_t>(format::bit_planes(format::channel_width(
          bytes.data() + format::channel_widths_offset(head_dim, false), c, head_dim)));
    }
  }
  return sum_of(device->reports());
}

TEST(CudaProfileTest, PackHasNoBankConflictsAndWastesNoSectors) {
  for (Dtype dtype : {Dtype::kBFloat16, Dtype::kFloat16}) {
    for (int head_dim : {64, 128}) {
      uint64_t instructions = 0, bit_planes = 0;
      const Profile profile = profile_of_pack(head_dim, dtype, instructions, bit_planes);
      RecordProperty("warp_instructions_" + std::to_string(head_dim), std::to_string(instructions));
      EXPECT_EQ(profile.conflicts, 0u) << profile.worst;
      // A key channel's bit plane is half a sector, whose other half another warp writes.
      EXPECT_LE(profile.excess, bit_planes / 2) << profile.worst;
      EXPECT_GT(profile.sectors, 0u);
    }
  }
}

/// True of what ptxas makes part of the instructions that use it: copies of registers and of their
/// halves, signs of fp16, addresses' spaces.
bool folded(const std::string& opcode) {
  return opcode.starts_with("mov.") || opcode.starts_with("neg.f16") || opcode.starts_with("cvta.");
}

/// Of a CTA of the attention kernel for a tile of this shape: 24 blocks less 8, in as many CTAs.
struct TileCost {
  double instructions = 0;  // of warps, without what ptxas folds
  double wavefronts = 0;    // of shared memory
};
TileCost cost_of_tile(Shape shape) {
  TileCost cost;
  for (int blocks : {24, 8}) {
    shape.blocks = blocks;
    const auto device = make_executor(0, true);
    DeviceQueue queue(*device, 1);
    Scenario scenario(shape);
    attend_on_device(*device, queue, {&scenario});
    const double weight = (blocks == 24 ? 1.0 : -1.0) / 16;
    const ptx::Report& report = device->reports().at(0);
    for (const auto& [name, count] : report.opcodes) {
      if (!folded(name)) cost.instructions += weight * static_cast<double>(count);
    }
    for (const ptx::SiteProfile& site : report.sites) {
      cost.wavefronts += weight * static_cast<double>(site.wavefronts);
    }
  }
  return cost;
}

/// That of this shape is what the performance model counts; another nvcc may emit a few more or
/// less.
void expect_cost(const Shape& shape, bool prefill) {
  const TileCost cost = cost_of_tile(shape);
  const double instructions =
      kernels::cuda::instructions_a_tile(shape.head_dim, prefill, shape.trellis);
  EXPECT_NEAR(cost.instructions, instructions, 0.05 * instructions) << prefill << " " << shape;
  const double wavefronts =
      kernels::cuda::wavefronts_a_tile(shape.head_dim, prefill, shape.trellis);
  EXPECT_NEAR(cost.wavefronts, wavefronts, 0.05 * wavefronts) << prefill << " " << shape;
}

// A tile of 128 packed tokens, for one CTA: preset balanced, whose widths are 4 or 5 bits for most
// channels.
TEST(CudaProfileTest, ATileCostsWhatTheModelSays) {
  for (int head_dim : {64, 128}) {
    for (bool prefill : {false, true}) {
      Shape shape = shape_of(head_dim, prefill ? 32 : 2, false, Dtype::kBFloat16);
      shape.key_widths = {4, 4, 4, 5};
      shape.equal_shares = true;
      expect_cost(shape, prefill);
    }
  }
}

// The same of preset balanced-trellis: keys of 4.0625 bits, values of 4.625.
TEST(CudaProfileTest, ATrellisTileCostsWhatTheModelSays) {
  for (int head_dim : {64, 128}) {
    for (bool prefill : {false, true}) {
      Shape shape =
          trellis_shape_of(head_dim, prefill ? 32 : 2, Dtype::kBFloat16, 4, head_dim / 2 * 5 / 8);
      shape.key_widths = std::vector<int>(16, 4);
      shape.key_widths[0] = 5;
      shape.equal_shares = true;
      expect_cost(shape, prefill);
    }
  }
}

}  // namespace
}  // namespace rillkv::test
