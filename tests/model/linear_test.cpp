// Packed linear layers over threads, and beside Torch's own in the same threads.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "core/linear_runner.h"
#include "core/parallel.h"
#include "kernels/cpu/kernels.h"
#include "rillkv/linear.h"

namespace rillkv {
namespace {

using kernels::cpu::find_kernels;
using kernels::cpu::KernelTable;

struct Layer {
  Layer(int64_t rows, int64_t in, int64_t out) {
    at::manual_seed(static_cast<uint64_t>(rows * 31 + in * 7 + out));
    x = at::randn({rows, in}).to(at::kBFloat16);
    weight = at::randn({out, in}).to(at::kBFloat16);
    const at::Tensor x64 = x.to(at::kDouble), w64 = weight.to(at::kDouble);
    exact = x64.matmul(w64.t());
    // As in tests/kernels/linear_test.cpp: `in` roundings of partial sums, then one to bf16.
    const double steps = static_cast<double>(in) * std::ldexp(1.0, -24);
    allowed = x64.abs().matmul(w64.abs().t()) * steps;
    allowed = allowed + (exact.abs() + allowed) * std::ldexp(1.0, -8);
  }

  bool accepts(const at::Tensor& y) const {
    return ((y.to(at::kDouble) - exact).abs() <= allowed).all().item<bool>();
  }

  at::Tensor x, weight;       // bf16 [rows, in], [out, in]
  at::Tensor exact, allowed;  // f64 [rows, out]
};

at::Tensor pack(const KernelTable& isa, const at::Tensor& weight) {
  const int64_t panels = linear_panels(weight.size(0));
  at::Tensor packed =
      at::empty({panels, weight.size(1) * kernels::cpu::kLinearPanel}, at::kBFloat16);
  isa.pack_linear(weight.const_data_ptr(), weight.size(0), weight.size(1), 0, panels,
                  packed.mutable_data_ptr());
  return packed;
}

std::vector<const KernelTable*> tables() {
  std::vector<const KernelTable*> found;
  for (const char* name : {"avx512", "amx_plain", "amx"}) {
    const KernelTable* isa = find_kernels(name);
    if (isa != nullptr && isa->linear != nullptr) found.push_back(isa);
  }
  return found;
}

// Whatever the number of threads makes of runs of panels and of rows, the result has the same bits.
TEST(PackedLinear, ThreadsShareTheWork) {
  const int before = at::get_num_threads();
  for (const KernelTable* isa : tables()) {
    for (const Layer& layer : {Layer(300, 64, 33), Layer(97, 1024, 70), Layer(40, 34, 600),
                               Layer(1, 576, 100), Layer(7, 640, 40)}) {
      SCOPED_TRACE(isa->name);
      SCOPED_TRACE(layer.x.size(0));
      const at::Tensor packed = pack(*isa, layer.weight);
      at::Tensor first;
      for (const int threads : {1, 2, 3, 16}) {
        at::set_num_threads(threads);
        const at::Tensor y = run_linear(*isa, layer.x, packed, {}, layer.weight.size(0));
        EXPECT_TRUE(layer.accepts(y)) << threads << " threads";
        if (!first.defined()) first = y;
        EXPECT_TRUE(at::equal(first, y)) << threads << " threads";
      }
    }
  }
  at::set_num_threads(before);
}

TEST(PackedLinear, EqualsThePlainLayer) {
  for (const Layer& layer : {Layer(1, 576, 100), Layer(3, 64, 33), Layer(70, 576, 96)}) {
    const LinearImpl plain(layer.weight, at::Tensor());
    LinearImpl packed(layer.weight, at::Tensor());
    EXPECT_EQ(packed.pack(), multiplies_bfloat16());
    EXPECT_TRUE(layer.accepts(plain.forward(layer.x)));
    EXPECT_TRUE(layer.accepts(packed.forward(layer.x)));
    // In fp32 without the last rounding, which the bound allows for: closer still.
    EXPECT_TRUE(layer.accepts(packed.forward(layer.x, true)));
  }
}

// Both sides configure the same thread's tile unit, where there is one: Torch (oneDNN) keeps what
// it has loaded, ours loads and releases once a call.
TEST(PackedLinear, TorchAndWeTakeTurnsInTheSameThreads) {
  const KernelTable* isa = find_kernels("amx");
  const bool hardware = isa != nullptr;
  if (!hardware) isa = find_kernels("amx_plain");
  if (isa == nullptr) GTEST_SKIP() << "this machine or build lacks AVX-512";
  const char* what = hardware ? "hardware"
                              : "plain C++: two users of one tile unit were not tested, this "
                                "machine has none";
  RecordProperty("tiles", what);
  std::printf("tiles: %s\n", what);

  // Torch's tiles get other shapes than ours from rows and outputs that are no multiple of 16.
  const Layer wide(64, 576, 96), odd(37, 130, 41);
  const at::Tensor wide_packed = pack(*isa, wide.weight), odd_packed = pack(*isa, odd.weight);
  const auto take_turns = [&] {
    for (int round = 0; round < 4; ++round) {
      EXPECT_TRUE(wide.accepts(at::linear(wide.x, wide.weight))) << "Torch's linear";
      EXPECT_TRUE(wide.accepts(run_linear(*isa, wide.x, wide_packed, {}, 96))) << "ours";
      EXPECT_TRUE(odd.accepts(at::matmul(odd.x, odd.weight.t()))) << "Torch's matmul";
      EXPECT_TRUE(odd.accepts(run_linear(*isa, odd.x, odd_packed, {}, 41))) << "ours";
      EXPECT_TRUE(odd.accepts(at::linear(odd.x, odd.weight))) << "Torch's linear";
      EXPECT_TRUE(wide.accepts(run_linear(*isa, wide.x, wide_packed, {}, 96))) << "ours";
    }
  };
  take_turns();                                                // each side over its own threads
  parallel_tasks(8, [&](int64_t) { take_turns(); });           // both within our threads
  at::parallel_for(0, 8, 1, [&](int64_t begin, int64_t end) {  // both within Torch's
    for (int64_t i = begin; i < end; ++i) take_turns();
  });
}

}  // namespace
}  // namespace rillkv
