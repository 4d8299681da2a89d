// Decode attention in steps mode: counts, tables, tails and rotations come from device memory, and
// the launches are the same for every token. Against naive attention in double, as
// cuda_attention_test.cpp.
#include <algorithm>
#include <limits>

#include "tests/cuda/device_scenario.h"

namespace rillkv::test {
namespace {

namespace cuda = kernels::cuda;

/// Keeps launches, to run them as often as a CUDA graph would.
class Graph final : public cuda::Queue {
 public:
  Graph(ptx::Device& device, int multiprocessors)
      : multiprocessors_(multiprocessors), shared_memory_limit_(device.shared_memory_limit()) {}
  void launch(const cuda::Launch& launch) override {
    const auto* bytes = static_cast<const uint8_t*>(launch.params);
    params_.emplace_back(bytes, bytes + launch.params_bytes);
    launches_.push_back(launch);
  }
  int multiprocessors() const override { return multiprocessors_; }
  int shared_memory_limit() const override { return shared_memory_limit_; }
  const std::vector<cuda::Launch>& launches() const { return launches_; }
  void replay(ptx::Device& device) const {
    for (size_t i = 0; i < launches_.size(); ++i) {
      const cuda::Launch& launch = launches_[i];
      device.launch({launch.entry,
                     {launch.grid[0], launch.grid[1], launch.grid[2]},
                     {launch.threads, 1, 1},
                     launch.shared_bytes,
                     params_[i].data(),
                     params_[i].size()});
    }
  }

 private:
  int multiprocessors_, shared_memory_limit_;
  std::vector<cuda::Launch> launches_;
  std::vector<std::vector<uint8_t>> params_;
};

constexpr int kLayers = 3, kLayer = 1;

/// One token of a sequence as steps mode finds it: a Scenario of one query whose chunk, the new
/// token, has been appended to the tail. Unused rows of the tail are NaN.
class SteppedScenario {
 public:
  SteppedScenario(ptx::Device& device, const Shape& shape)
      : device_(device), scenario_(shape), on_device_(device, scenario_) {
    const cuda::AttentionParams& p = on_device_.params();
    const kernels::cpu::AttentionParams host = scenario_.params();
    cuda::LayerState layer;
    layer.key_blocks = p.prefix.keys;
    layer.value_blocks = p.prefix.values;
    layer.sink_keys = p.prefix.sink_keys;
    layer.sink_values = p.prefix.sink_values;
    layer.tail_keys = tail(host.tail.keys, host.chunk.keys, host);
    layer.tail_values = tail(host.tail.values, host.chunk.values, host);
    step_.block_rotations = p.prefix.rotations;
    step_.tail_cos = rotations(host.tail.cos, host.chunk.cos, host);
    step_.tail_sin = rotations(host.tail.sin, host.chunk.sin, host);
    std::vector<cuda::LayerState> layers(kLayers);  // the others' pointers are null
    layers[kLayer] = layer;
    layers_ = std::make_unique<ptx::DeviceArray<cuda::LayerState>>(device, layers);
    step_.layers = layers_->data();
    step_.block_count = shape.blocks;
    step_.tail_count = shape.tail;
    step_.length = static_cast<int32_t>(host.first_query_index);
  }
  Scenario& scenario() { return scenario_; }
  const cuda::AttentionParams& params() const { return on_device_.params(); }
  const cuda::SequenceStep& step() const { return step_; }

 private:
  uint8_t* keep(const std::vector<uint8_t>& bytes) {
    arrays_.emplace_back(device_, bytes);
    return arrays_.back().data();
  }
  void* tail(const kernels::Activation& tail, const kernels::Activation& chunk,
             const kernels::AttentionParams& p) {
    const auto copy = [&](const kernels::Activation& x, int tokens) {
      return DeviceActivation::copy_of(device_, x, p.dtype, tokens, p.kv_heads, p.head_dim).bytes();
    };
    std::vector<uint8_t> bytes = copy(tail, p.tail.count);
    const std::vector<uint8_t> last = copy(chunk, 1);
    bytes.insert(bytes.end(), last.begin(), last.end());
    bytes.resize(last.size() * static_cast<size_t>(p.block_size), 0xff);
    return keep(bytes);
  }
  float* rotations(const float* tail, const float* chunk, const kernels::AttentionParams& p) {
    const int pairs = p.head_dim / 2;
    std::vector<float> angles(static_cast<size_t>(p.block_size * pairs),
                              std::numeric_limits<float>::quiet_NaN());
    std::copy(tail, tail + p.tail.count * pairs, angles.begin());
    std::copy(chunk, chunk + pairs, angles.begin() + p.tail.count * pairs);
    const auto* bytes = reinterpret_cast<const uint8_t*>(angles.data());
    return reinterpret_cast<float*>(keep({bytes, bytes + angles.size() * sizeof(float)}));
  }

  ptx::Device& device_;
  Scenario scenario_;
  DeviceScenario on_device_;
  cuda::SequenceStep step_;
  std::vector<ptx::DeviceArray<uint8_t>> arrays_;
  std::unique_ptr<ptx::DeviceArray<cuda::LayerState>> layers_;
};

/// A batch of sequences that differ in blocks and tail, and the memory that their launches know.
class Batch {
 public:
  Batch(ptx::Device& device, const Shape& shape, int count)
      : device_(device),
        shape_(shape),
        count_(count),
        row_bytes_(static_cast<size_t>(shape.heads * shape.head_dim) * dtype_bytes(shape.dtype)),
        steps_(device, static_cast<size_t>(count)),
        queries_(device, row_bytes_ * static_cast<size_t>(count)),
        out_(device, row_bytes_ * static_cast<size_t>(count)) {}

  struct Length {
    int blocks, tail;
  };
  /// The next token: sequences of these lengths with contents of their own.
  void set(const std::vector<Length>& lengths) {
    // The launches keep pointers to what does not change, as the first sequence has it.
    if (first_ == nullptr && !sequences_.empty()) first_ = std::move(sequences_[0]);
    sequences_.clear();
    std::vector<cuda::SequenceStep> steps;
    std::vector<uint8_t> queries;
    for (const Length& length : lengths) {
      Shape shape = shape_;
      shape.blocks = length.blocks;
      shape.tail = length.tail;
      shape.queries = 1;
      shape.seed = ++seed_;
      sequences_.push_back(std::make_unique<SteppedScenario>(device_, shape));
      steps.push_back(sequences_.back()->step());
      const auto bytes =
          DeviceActivation::copy_of(device_, sequences_.back()->scenario().params().queries,
                                    shape.dtype, 1, shape.heads, shape.head_dim)
              .bytes();
      queries.insert(queries.end(), bytes.begin(), bytes.end());
    }
    device_.upload(steps_.data(), steps.data(), steps.size() * sizeof(steps[0]));
    device_.upload(queries_.data(), queries.data(), queries.size());
  }
  /// What attend_steps is told: planned for so many blocks.
  cuda::AttentionParams shape_for(int planned_blocks) const {
    cuda::AttentionParams p = sequences_[0]->params();
    const int64_t stride = int64_t{p.heads} * p.head_dim;
    p.queries = {queries_.data(), stride, p.head_dim};
    p.out = {out_.data(), stride, p.head_dim};
    p.prefix.block_count = planned_blocks;
    p.prefix.keys = p.prefix.values = nullptr;  // what must come from the steps
    p.prefix.rotations = nullptr;
    p.prefix.sink_keys = p.prefix.sink_values = nullptr;
    p.tail = p.chunk = {};
    p.query_cos = p.query_sin = nullptr;
    p.first_query_index = -1;
    return p;
  }
  const cuda::SequenceStep* steps() const { return steps_.data(); }
  int count() const { return count_; }
  void expect_right() {
    const std::vector<uint8_t> out = out_.to_vector();
    for (size_t i = 0; i < sequences_.size(); ++i) {
      Scenario& scenario = sequences_[i]->scenario();
      const Shape& shape = scenario.shape();
      const auto* at = out.data() + i * row_bytes_;
      for (int h = 0; h < shape.heads; ++h) {
        for (int c = 0; c < shape.head_dim; ++c, at += dtype_bytes(shape.dtype)) {
          std::memcpy(scenario.out().at(0, h, c), at, dtype_bytes(shape.dtype));
        }
      }
      const double error = scenario.error(), tolerance = device_tolerance(scenario, false);
      EXPECT_TRUE(error <= tolerance)
          << "sequence " << i << ": error " << error << " > " << tolerance << ": " << shape;
    }
    device_.upload(out_.data(), std::vector<uint8_t>(out.size(), 0xff).data(), out.size());
  }

 private:
  ptx::Device& device_;
  Shape shape_;
  int count_;
  uint32_t seed_ = 500;
  size_t row_bytes_;
  ptx::DeviceArray<cuda::SequenceStep> steps_;
  ptx::DeviceArray<uint8_t> queries_, out_;
  std::unique_ptr<SteppedScenario> first_;
  std::vector<std::unique_ptr<SteppedScenario>> sequences_;
};

class CudaStepsTest : public EveryDevice {
 protected:
  /// Launches planned for `planned_blocks`, run for every token in turn.
  void check(const Shape& shape, int planned_blocks, int multiprocessors,
             const std::vector<std::vector<Batch::Length>>& tokens) {
    Batch batch(device(), shape, static_cast<int>(tokens[0].size()));
    batch.set(tokens[0]);
    Graph graph(device(), multiprocessors);
    const cuda::AttentionParams p = batch.shape_for(planned_blocks);
    ASSERT_TRUE(cuda::attend_steps_takes(graph, p));
    const size_t bytes = cuda::attend_steps_workspace_bytes(graph, p, batch.count());
    const ptx::DeviceArray<uint8_t> workspace(device(), bytes);
    cuda::attend_steps(graph, p, batch.steps(), batch.count(), kLayer, workspace.data(), bytes);
    splits_ = static_cast<int>(graph.launches()[0].grid[0]);
    for (size_t token = 0; token < tokens.size(); ++token) {
      SCOPED_TRACE("token " + std::to_string(token));
      if (token > 0) batch.set(tokens[token]);
      graph.replay(device());
      batch.expect_right();
    }
  }
  int splits_ = 0;  // of the last plan, times the tiles of rows
};

// The same launches for other tokens: longer, shorter and without blocks, in every fast path.
TEST_P(CudaStepsTest, OneGraphForEveryLength) {
  under_every_order([&] {
    for (int head_dim : {64, 128}) {
      for (Dtype dtype : {Dtype::kBFloat16, Dtype::kFloat16}) {
        const Shape shape = {.heads = 6,
                             .kv_heads = 2,
                             .head_dim = head_dim,
                             .dtype = dtype,
                             .value_groups = head_dim / 64,
                             .rotate_output = true};
        check(shape, 2, 12, {{{2, 37}, {0, 0}, {1, 127}}, {{3, 0}, {2, 126}, {0, 5}}});
        EXPECT_GT(splits_, 1);
      }
    }
  });
}

TEST_P(CudaStepsTest, EveryTailAndNoBlocks) {
  for (int tail : {0, 1, 30, 31, 32, 63, 64, 126, 127}) {
    check({.heads = 2, .dtype = Dtype::kBFloat16}, 1, 8, {{{0, tail}, {1, tail}}});
  }
}

// More sequences than parameters have room for, of one query head each and of many.
TEST_P(CudaStepsTest, ManySequences) {
  std::vector<Batch::Length> lengths;
  for (int i = 0; i < 11; ++i) lengths.push_back({i % 3, (i * 29) % 128});
  check({.heads = 1, .dtype = Dtype::kFloat16, .rotate_output = true}, 2, 132, {lengths});
  check({.heads = 20, .dtype = Dtype::kFloat16}, 2, 132, {{{2, 9}, {0, 127}}});
}

// Sinks of more than one tile, none at all, and 16-bit ones.
TEST_P(CudaStepsTest, Sinks) {
  for (int sinks : {0, 1, 129}) {
    check({.heads = 2, .dtype = Dtype::kBFloat16, .sink_capacity = sinks, .sinks = sinks}, 2, 16,
          {{{2, 3}, {0, 0}}});
  }
  check({.heads = 2, .head_dim = 128, .dtype = Dtype::kFloat16, .sink_bits = 16}, 1, 16,
        {{{1, 3}, {0, 0}}});
}

TEST_P(CudaStepsTest, EmaLayout) {
  for (int head_dim : {64, 128}) {
    check({.heads = 2,
           .kv_heads = 2,
           .head_dim = head_dim,
           .dtype = Dtype::kFloat16,
           .ema = true,
           .key_widths = {2, 4, 8}},
          1, 16, {{{2, 3}, {0, 0}}, {{1, 99}, {3, 1}}});
  }
}

// One graph over trellis blocks, over splits and without any block, in every entry.
TEST_P(CudaStepsTest, TrellisLayout) {
  under_every_order([&] {
    for (int head_dim : {64, 128}) {
      for (Dtype dtype : {Dtype::kBFloat16, Dtype::kFloat16}) {
        const Shape shape = {.heads = 6,
                             .kv_heads = 2,
                             .head_dim = head_dim,
                             .dtype = dtype,
                             .trellis = true,
                             .key_widths = {3, 4, 4, 5},
                             .value_width = 4,
                             .value_wide_pairs = 5 * head_dim / 16,
                             .rotate_output = true};
        check(shape, 2, 12, {{{2, 37}, {0, 0}, {1, 127}}, {{3, 0}, {2, 126}, {0, 5}}});
        EXPECT_GT(splits_, 1);
      }
    }
  });
  // 2, 4 and 8 warps merge.
  for (int planned : {10, 30, 100}) {
    const Shape shape = {.heads = 2,
                         .dtype = Dtype::kBFloat16,
                         .trellis = true,
                         .key_widths = {4},
                         .value_wide_pairs = 20,
                         .rotate_output = true};
    check(shape, planned, 132, {{{planned == 100 ? 40 : planned, 77}, {3, 0}}});
    EXPECT_GT(splits_, 8);
  }
}

// As many splits as there may be, more than most sequences have tiles: 2, 4 and 8 warps merge.
TEST_P(CudaStepsTest, ManySplits) {
  for (int planned : {10, 30, 100}) {
    const Shape shape = {
        .heads = 2, .dtype = Dtype::kBFloat16, .key_widths = {4}, .rotate_output = true};
    check(shape, planned, 132, {{{planned == 100 ? 40 : planned, 77}, {3, 0}}});
    EXPECT_GT(splits_, 8);
  }
}

TEST_P(CudaStepsTest, RefusesWhatNoFastPathTakes) {
  Graph graph(device(), 8);
  cuda::AttentionParams p;
  p.heads = p.kv_heads = 2;
  p.head_dim = 64;
  p.dtype = Dtype::kBFloat16;
  p.prefix.value_groups = 1;
  EXPECT_TRUE(cuda::attend_steps_takes(graph, p));
  const size_t bytes = cuda::attend_steps_workspace_bytes(graph, p, 3);
  EXPECT_GT(bytes, 0u);
  alignas(16) uint8_t workspace[16];  // not written
  const auto refuse = [&](auto change, size_t workspace_bytes) {
    cuda::AttentionParams changed = p;
    change(changed);
    EXPECT_THROW(cuda::attend_steps(graph, changed, nullptr, 3, 0, workspace, workspace_bytes),
                 std::invalid_argument);
  };
  refuse([](auto&) {}, bytes - 1);
  refuse([](auto& x) { x.dtype = Dtype::kFloat32; }, bytes);
  refuse([](auto& x) { x.head_dim = 80; }, bytes);
  refuse([](auto& x) { x.block_size = 64; }, bytes);
  refuse([](auto& x) { x.prefix.value_groups = 4; }, bytes);
  refuse([](auto& x) { x.heads = 66; }, bytes);
  EXPECT_TRUE(graph.launches().empty());
}

RILLKV_INSTANTIATE_FOR_EVERY_DEVICE(CudaStepsTest);

}  // namespace
}  // namespace rillkv::test
