// Kernels broken on purpose must not pass: each mutant wraps the real kernels of an instruction set
// in one mistake that has been made before, and the comparison that every attention test uses has
// to see it. (Broken packers: pack_test.cpp.)
#include <algorithm>
#include <memory>
#include <vector>

#include "kernels/cpu/kernels.h"
#include "kernels/packed_format.h"
#include "tests/kernels/attention_scenario.h"

namespace rillkv::test {
namespace {

using kernels::cpu::AttentionParams;
using kernels::cpu::AttentionTask;
using Attend = void (*)(const AttentionParams&, const AttentionTask&, void*);

const KernelTable* original = nullptr;  // what the mutants wrap

/// The first tiles and the rest added up as if both had the same maximum: an online softmax that
/// forgets to rescale.
void without_rescale(const AttentionParams& p, const AttentionTask& task, void* workspace) {
  const int rows = (task.query_end - task.query_begin) * p.heads / p.kv_heads;
  const size_t floats = static_cast<size_t>(rows * (p.head_dim + 2));
  std::vector<float> partials(2 * floats);
  AttentionTask part = task;
  part.tile_end = 2;
  part.partial = partials.data();
  original->attend(p, part, workspace);
  part.tile_begin = 2;
  part.tile_end = task.tile_end;
  part.partial += floats;
  original->attend(p, part, workspace);
  for (int r = 0; r < 2 * rows; ++r) partials[static_cast<size_t>(r * (p.head_dim + 2))] = 0;
  kernels::cpu::merge_partials(p, task.kv_head, task.query_begin, task.query_end, partials.data(),
                               2);
}

/// Every other channel of a pair rotates the other way.
void with_swapped_pairs(const AttentionParams& p, const AttentionTask& task, void* workspace) {
  std::vector<float> sines(p.query_sin, p.query_sin + p.query_count * (p.head_dim / 2));
  for (float& x : sines) x = -x;
  AttentionParams wrong = p;
  wrong.query_sin = sines.data();
  original->attend(wrong, task, workspace);
}

/// Key codes of 3, 5, 6 and 7 bits without the planes below the first.
void without_low_planes(const AttentionParams& p, const AttentionTask& task, void* workspace) {
  const int D = p.head_dim;
  const size_t count = static_cast<size_t>(p.prefix.block_count * p.kv_heads);
  std::vector<std::unique_ptr<GuardedBuffer>> copies;
  std::vector<const uint8_t*> keys;
  for (size_t i = 0; i < count; ++i) {
    const uint8_t* from = p.prefix.keys[i];
    const uint8_t* widths = from + format::channel_widths_offset(D, p.prefix.keys_symmetric);
    int sum = 0, nibbles = 0;
    for (int c = 0; c < D; ++c) {
      const int width = format::channel_width(widths, c, D);
      sum += width;
      nibbles += format::nibble_planes(width);
    }
    const size_t bytes = format::channel_block_bytes(D, p.block_size, p.prefix.keys_symmetric, sum);
    copies.push_back(std::make_unique<GuardedBuffer>(bytes));
    uint8_t* to = copies.back()->data();
    std::copy(from, from + bytes, to);
    const size_t low = format::channel_codes_offset(D, p.prefix.keys_symmetric) +
                       static_cast<size_t>(nibbles) * format::plane_bytes(p.block_size, 4);
    std::fill(to + low, to + bytes, uint8_t{0});
    keys.push_back(to);
  }
  AttentionParams wrong = p;
  wrong.prefix.keys = keys.data();
  original->attend(wrong, task, workspace);
}

/// Each block's rotation is its neighbour's.
void with_shifted_blocks(const AttentionParams& p, const AttentionTask& task, void* workspace) {
  AttentionParams wrong = p;
  std::vector<const float*> rotations(p.prefix.rotations,
                                      p.prefix.rotations + p.prefix.block_count);
  std::rotate(rotations.begin(), rotations.begin() + 1, rotations.end());
  wrong.prefix.rotations = rotations.data();
  original->attend(wrong, task, workspace);
}

/// The later half of the tail is not attended to. (A single token may weigh less than the
/// tolerance.)
void without_half_the_tail(const AttentionParams& p, const AttentionTask& task, void* workspace) {
  AttentionParams wrong = p;
  wrong.tail.count /= 2;
  original->attend(wrong, task, workspace);
}

struct Mutant {
  const char* name;
  Attend attend;
};
constexpr Mutant kMutants[] = {{"no rescale", without_rescale},
                               {"swapped pairs", with_swapped_pairs},
                               {"no low planes", without_low_planes},
                               {"shifted blocks", with_shifted_blocks},
                               {"half the tail dropped", without_half_the_tail}};

class BrokenKernels : public EveryIsa {};

TEST_P(BrokenKernels, AreCaught) {
  original = &isa();
  for (Dtype dtype : kDtypes) {
    for (int queries : {1, 40}) {
      for (int head_dim : {64, 128}) {
        const Shape shape = {.head_dim = head_dim,
                             .dtype = dtype,
                             .key_widths = {3, 5, 6, 7},
                             .rotate_output = true,
                             .blocks = 2,
                             .tail = 20,
                             .queries = queries,
                             .seed = 300};
        Scenario right(shape);
        ASSERT_TRUE(attend_whole(isa(), right));
        ASSERT_TRUE(right.error() <= right.tolerance(isa().name)) << right.shape();
        for (const Mutant& mutant : kMutants) {
          KernelTable table = isa();
          table.attend = mutant.attend;
          Scenario scenario(shape);
          EXPECT_TRUE(attend_whole(table, scenario));
          EXPECT_FALSE(scenario.error() <= scenario.tolerance(isa().name))
              << mutant.name << " passes for " << isa().name << ": " << shape;
        }
      }
    }
  }
}

RILLKV_INSTANTIATE_FOR_EVERY_ARITHMETIC(BrokenKernels);

}  // namespace
}  // namespace rillkv::test
