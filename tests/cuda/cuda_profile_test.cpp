// Bank conflicts and sectors of the fast attention kernels, as the executor counts them: what the
// layouts in tile_fill.cuh promise.
#include "tests/cuda/device_scenario.h"

namespace rillkv::test {
namespace {

struct Profile {
  uint64_t conflicts = 0;  // shared-memory wavefronts above the minimum
  uint64_t excess = 0;     // global sectors above the minimum
  uint64_t sectors = 0;
  std::string worst;  // sites with any of either
};

Profile profile_of(const Shape& shape) {
  const auto device = make_executor(0, true);
  DeviceQueue queue(*device, 1);
  Scenario scenario(shape);
  attend_on_device(*device, queue, {&scenario});
  Profile profile;
  for (const ptx::SiteProfile& site : device->reports().at(0).sites) {
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
  return profile;
}

Shape shape_of(int head_dim, int queries, bool ema) {
  return {.heads = 4,
          .kv_heads = 1,
          .head_dim = head_dim,
          .dtype = Dtype::kBFloat16,
          .ema = ema,
          .key_widths = ema ? std::vector<int>{4, 8} : std::vector<int>{1, 2, 3, 4, 5, 6, 7, 8},
          .value_groups = head_dim / 64,
          .rotate_output = true,
          .blocks = 3,
          .tail = 64,
          .queries = queries,
          .seed = 5};
}

TEST(CudaProfileTest, NoBankConflictsAndNoWastedSectors) {
  for (bool ema : {false, true}) {
    for (int head_dim : {64, 128}) {
      for (int queries : {2, 64}) {
        const Shape shape = shape_of(head_dim, queries, ema);
        const Profile profile = profile_of(shape);
        // The scales of two value groups lie in the same banks: two loads a warp and tile.
        const int ctas = queries == 2 ? 1 : 2;
        const int expected = !ema && head_dim == 128 ? 2 * 8 * shape.blocks * ctas : 0;
        EXPECT_EQ(profile.conflicts, static_cast<uint64_t>(expected)) << profile.worst;
        EXPECT_EQ(profile.excess, 0u) << profile.worst;
        EXPECT_GT(profile.sectors, 0u);
      }
    }
  }
}

}  // namespace
}  // namespace rillkv::test
