// What a packed layer asks of its device, and in which order: a chunk is measured whole, attends,
// and is divided into sinks and blocks.
#include "core/packed_layer_cache.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "core/cpu_rotation_table.h"
#include "core/huge_page_arena.h"
#include "rillkv/error.h"

namespace rillkv {
namespace {

using ::testing::ElementsAre;

constexpr int64_t kHeads = 2, kDim = 16;

/// The CPU's, and a line for every call.
class RecordingDevice final : public BlockDevice {
 public:
  RecordingDevice(std::unique_ptr<BlockDevice> device, std::vector<std::string>& calls)
      : device_(std::move(device)), calls_(calls) {}

  Measured measure(const Chunk& chunk, const at::Tensor& energy_sums) override {
    std::string line = str_cat("measure ", chunk.q.size(0), ": sinks ", chunk.sinks.count());
    int64_t next = chunk.sinks.end;
    for (const Span& span : chunk.blocks) {
      EXPECT_EQ(span.begin, next);
      next = span.end;
      line += str_cat(" block ", span.count());
    }
    EXPECT_EQ(next, chunk.q.size(0));
    calls_.push_back(line);
    return device_->measure(chunk, energy_sums);
  }
  void seal_sinks(const at::Tensor& keys, const at::Tensor& values, int64_t first) override {
    calls_.push_back(str_cat("sinks ", keys.size(0), " from ", first));
    device_->seal_sinks(keys, values, first);
  }
  std::shared_ptr<SealedBlock> seal(const OpenBlock& open) override {
    calls_.push_back(
        str_cat(open.keep ? "seal " : "provisional ", open.keys.size(0), " as ", open.index));
    return device_->seal(open);
  }
  void attend(const kernels::AttentionParams& params) override {
    calls_.push_back(str_cat("attend ", params.query_count, " to ", params.prefix.sink_count, "+",
                             params.prefix.block_count, "+", params.tail.count, "+",
                             params.chunk.count));
    device_->attend(params);
  }
  void settle(const std::vector<std::shared_ptr<SealedBlock>>& blocks) override {
    device_->settle(blocks);
  }
  const PackedSinks& sinks() const override { return device_->sinks(); }
  void reset() override { device_->reset(); }

 private:
  std::unique_ptr<BlockDevice> device_;
  std::vector<std::string>& calls_;
};

class PackedLayer : public ::testing::Test {
 protected:
  PackedLayerCache make(const char* preset, CacheProtocol protocol) {
    CompressionConfig config = CompressionConfig::preset(preset);
    config.set("block_size=32");  // 8 sinks
    const Quantizer quantizer(QuantizerOptions{kHeads, kDim, config});
    return {geometry_,
            quantizer,
            at::kFloat,
            protocol,
            rotations_,
            at::kCPU,
            std::make_unique<RecordingDevice>(make_cpu_block_device(quantizer, rotations_, memory_),
                                              calls_)};
  }
  /// What a chunk of so many tokens makes the layer do.
  std::vector<std::string> calls_of(PackedLayerCache& layer, int64_t tokens) {
    calls_.clear();
    const at::Tensor x = at::ones({tokens, kHeads, kDim});
    layer.attend(x, x, x);
    return calls_;
  }

 private:
  const CacheGeometry geometry_{1, kHeads, kHeads, kDim, std::vector<double>(kDim / 2, 0.1)};
  CpuRotationTable rotations_{geometry_.inverse_frequencies, 8, 32};
  HugePageArena memory_;
  std::vector<std::string> calls_;
};

TEST_F(PackedLayer, AChunkGoesDownOnce) {
  for (const char* preset : {"balanced", "seed"}) {
    PackedLayerCache layer = make(preset, CacheProtocol::kPrefill);
    EXPECT_THAT(calls_of(layer, 5),
                ElementsAre("measure 5: sinks 5", "attend 5 to 0+0+0+5", "sinks 5 from 0"));
    EXPECT_THAT(calls_of(layer, 10), ElementsAre("measure 10: sinks 3 block 7",
                                                 "attend 10 to 5+0+0+10", "sinks 3 from 5"));
    EXPECT_THAT(calls_of(layer, 1),
                ElementsAre("measure 1: sinks 0 block 1", "attend 1 to 8+0+7+1"));
    EXPECT_THAT(calls_of(layer, 60),
                ElementsAre("measure 60: sinks 0 block 24 block 32 block 4",
                            "attend 60 to 8+0+8+60", "seal 32 as 0", "seal 32 as 1"));
    EXPECT_THAT(calls_of(layer, 28), ElementsAre("measure 28: sinks 0 block 28",
                                                 "attend 28 to 8+2+4+28", "seal 32 as 2"));
    EXPECT_EQ(layer.length(), 104);
    EXPECT_EQ(layer.blocks().size(), 3u);
  }
}

TEST_F(PackedLayer, UnderStressAChunkIsAppendedBeforeItAttends) {
  for (const char* preset : {"balanced", "seed"}) {
    PackedLayerCache layer = make(preset, CacheProtocol::kStress);
    EXPECT_THAT(calls_of(layer, 45),
                ElementsAre("measure 45: sinks 8 block 32 block 5", "sinks 8 from 0",
                            "seal 32 as 0", "provisional 5 as 1", "attend 45 to 8+2+0+0"));
    EXPECT_THAT(calls_of(layer, 27), ElementsAre("measure 27: sinks 0 block 27", "seal 32 as 1",
                                                 "attend 27 to 8+2+0+0"));
  }
}

}  // namespace
}  // namespace rillkv
