// Attention of few query rows over several sealed blocks: the kernels that read the codes without a
// tile, at the shapes they exist for and next to them.
#include "kernels/cpu/kernels.h"
#include "tests/kernels/attention_scenario.h"

namespace rillkv::test {
namespace {

class DecodeTest : public EveryIsa {
 protected:
  void check(Shape shape) {
    shape.dtype = Dtype::kBFloat16;
    Scenario scenario(shape);
    // One task over everything, then three whose partial results are merged.
    for (const std::vector<int>& cuts : {std::vector<int>{}, std::vector<int>{2, 3}}) {
      EXPECT_TRUE(attend_in_parts(isa(), scenario, {}, cuts)) << scenario.shape();
      const double error = scenario.error(), tolerance = scenario.tolerance(isa().name);
      EXPECT_TRUE(error <= tolerance)
          << isa().name << ": error " << error << " > " << tolerance << ": " << scenario.shape();
    }
  }
};

TEST_P(DecodeTest, RowsThatShareAHead) {
  for (int head_dim : {64, 128}) {
    for (int group = 1; group <= 9; ++group) {
      check({.heads = 2 * group,
             .kv_heads = 2,
             .head_dim = head_dim,
             .value_groups = head_dim / 64,
             .rotate_output = true,
             .blocks = 4,
             .queries = 1,
             .seed = 200});
    }
  }
  for (int queries : {2, 3, 4}) {
    check({.heads = 6, .kv_heads = 3, .blocks = 4, .queries = queries, .seed = 201});
  }
}

TEST_P(DecodeTest, EveryWidthAlone) {
  for (int head_dim : {64, 128}) {
    for (int width = 1; width <= 8; ++width) {
      check({.heads = 2,
             .kv_heads = 1,
             .head_dim = head_dim,
             .key_widths = {width},
             .value_bits = std::max(2, width),
             .blocks = 3,
             .queries = 1,
             .seed = 210});
    }
  }
}

// Widths that differ within a pair are legal in the format though no policy makes them there.
TEST_P(DecodeTest, PairsOfMixedWidths) {
  for (int head_dim : {64, 128}) {
    check({.head_dim = head_dim, .mixed_pairs = true, .blocks = 3, .queries = 1, .seed = 220});
  }
}

TEST_P(DecodeTest, ShapesWithoutAKernelOfTheirOwn) {
  check({.head_dim = 64, .value_groups = 2, .blocks = 3, .queries = 1, .seed = 230});
  check({.head_dim = 128, .value_groups = 4, .blocks = 3, .queries = 1, .seed = 231});
  check({.head_dim = 96, .blocks = 3, .queries = 1, .seed = 232});
  check({.head_dim = 128, .block_size = 64, .blocks = 3, .queries = 1, .seed = 233});
}

// The last query sees the whole provisional block, the others do not.
TEST_P(DecodeTest, ProvisionalBlock) {
  for (int provisional : {1, 127, 128}) {
    check({.blocks = 3, .queries = 1, .provisional = provisional, .seed = 240});
  }
  check({.blocks = 3, .queries = 2, .provisional = 128, .seed = 241});
}

RILLKV_INSTANTIATE_FOR_EVERY_ARITHMETIC(DecodeTest);

}  // namespace
}  // namespace rillkv::test
