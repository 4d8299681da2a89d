// Counts what is asked of a CUDA back end, whichever it is: bench_cuda's figures of a whole model
// mean little without.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "src/core/cuda_backend.h"

namespace rillkv::bench {

/// What the host did. Launches are the library's kernels and `linear`, outside of graphs; what else
/// LibTorch does by itself (copies within the device, policy "dense") is not seen.
struct Traffic {
  int64_t launches = 0;
  int64_t captures = 0, replays = 0;   // of graphs
  int64_t uploads = 0, downloads = 0;  // copies
  int64_t waits = 0;                   // for what is on the stream

  Traffic operator-(const Traffic& before) const {
    return {launches - before.launches, captures - before.captures,   replays - before.replays,
            uploads - before.uploads,   downloads - before.downloads, waits - before.waits};
  }
  nlohmann::ordered_json json() const {
    return {{"launches", launches}, {"graph_captures", captures}, {"graph_replays", replays},
            {"uploads", uploads},   {"downloads", downloads},     {"waits", waits}};
  }
};

class CountingBackend final : public CudaBackend {
 public:
  explicit CountingBackend(std::shared_ptr<CudaBackend> to) : to_(std::move(to)), queue_(*this) {}
  CountingBackend(const CountingBackend&) = delete;
  CountingBackend& operator=(const CountingBackend&) = delete;

  const Traffic& traffic() const { return traffic_; }

  at::Device device() const override { return to_->device(); }
  kernels::cuda::Queue& queue() override { return queue_; }
  void upload(const void* from, const at::Tensor& to) override {
    ++traffic_.uploads;
    to_->upload(from, to);
  }
  void download(const std::vector<Download>& copies) override {
    traffic_.downloads += static_cast<int64_t>(copies.size());
    ++traffic_.waits;
    to_->download(copies);
  }
  at::Tensor linear(const at::Tensor& x, const at::Tensor& weight,
                    const at::Tensor& bias) override {
    ++traffic_.launches;
    return to_->linear(x, weight, bias);
  }
  std::unique_ptr<CudaGraph> capture(const std::function<void()>& work) override {
    ++traffic_.captures;
    const int64_t launched = traffic_.launches;
    auto graph = to_->capture(work);
    traffic_.launches = launched;
    return std::make_unique<CountingGraph>(std::move(graph), traffic_);
  }
  void prepare(const std::function<void()>& work) override { to_->prepare(work); }
  uint64_t stream() const override { return to_->stream(); }
  void follow(uint64_t before, const std::vector<at::Tensor>& used) override {
    to_->follow(before, used);
  }

 private:
  class CountingQueue final : public kernels::cuda::Queue {
   public:
    explicit CountingQueue(CountingBackend& of) : of_(of) {}
    void launch(const kernels::cuda::Launch& launch) override {
      ++of_.traffic_.launches;
      of_.to_->queue().launch(launch);
    }
    int multiprocessors() const override { return of_.to_->queue().multiprocessors(); }
    int shared_memory_limit() const override { return of_.to_->queue().shared_memory_limit(); }

   private:
    CountingBackend& of_;
  };
  class CountingGraph final : public CudaGraph {
   public:
    CountingGraph(std::unique_ptr<CudaGraph> graph, Traffic& traffic)
        : graph_(std::move(graph)), traffic_(traffic) {}
    void replay() override {
      ++traffic_.replays;
      graph_->replay();
    }

   private:
    std::unique_ptr<CudaGraph> graph_;
    Traffic& traffic_;
  };

  std::shared_ptr<CudaBackend> to_;
  Traffic traffic_;
  CountingQueue queue_;
};

}  // namespace rillkv::bench
