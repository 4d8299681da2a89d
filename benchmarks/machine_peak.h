// What this machine can do at most, measured: the denominators of the benchmarks' shares.
#pragma once

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "benchmarks/clock.h"
#include "core/huge_page_arena.h"
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/rates.h"

namespace rillkv::bench {

struct MachinePeak {
  double fp32_flops = 0;  // multiply-adds x 2, all threads
  double bf16_flops = 0;  // 0 without vdpbf16ps
  double tile_flops = 0;  // bf16 in the tile unit; 0 without one
  double read_bytes = 0;  // bytes a second from memory, all threads

  /// Of an arithmetic as kernel tables name it.
  double flops(const std::string& arithmetic) const {
    return arithmetic == "amx-bf16" ? tile_flops : arithmetic == "bf16" ? bf16_flops : fp32_flops;
  }
};

#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) inline void fp32_rounds_avx2(int64_t rounds) {
  __m256 sums[12];
  for (__m256& sum : sums) sum = _mm256_set1_ps(1.0f);
  const __m256 x = _mm256_set1_ps(0.5f);
  for (int64_t i = 0; i < rounds; ++i) {
    for (__m256& sum : sums) {
      sum = _mm256_fmadd_ps(x, x, sum);
      asm volatile("" : "+x"(sum));
    }
  }
}

__attribute__((target("avx2"))) inline int64_t read_all(const uint8_t* p, size_t bytes) {
  __m256i sums[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(),
                     _mm256_setzero_si256()};
  for (size_t i = 0; i + 128 <= bytes; i += 128) {
    _mm_prefetch(reinterpret_cast<const char*>(p + i + 4096), _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char*>(p + i + 4160), _MM_HINT_T0);
    for (size_t k = 0; k < 4; ++k) {
      sums[k] = _mm256_xor_si256(
          sums[k], _mm256_load_si256(reinterpret_cast<const __m256i*>(p + i + 32 * k)));
    }
  }
  const __m256i sum =
      _mm256_xor_si256(_mm256_xor_si256(sums[0], sums[1]), _mm256_xor_si256(sums[2], sums[3]));
  return _mm256_extract_epi64(sum, 0) ^ _mm256_extract_epi64(sum, 1) ^
         _mm256_extract_epi64(sum, 2) ^ _mm256_extract_epi64(sum, 3);
}
#endif

/// Best of several runs on all of Torch's threads; 0 where an instruction is missing.
inline MachinePeak measure_machine() {
  MachinePeak peak;
#if defined(__x86_64__)
  const int threads = at::get_num_threads();
  const auto flops = [&](auto&& rounds_of, double flops_a_round) {
    constexpr int64_t kRounds = 4'000'000;
    double best = 1e30;
    for (int run = 0; run < 3; ++run) {
      const double begin = seconds();
      at::parallel_for(0, threads, 1, [&](int64_t, int64_t) { rounds_of(kRounds); });
      best = std::min(best, seconds() - begin);
    }
    return flops_a_round * static_cast<double>(kRounds) * threads / best;
  };
  const bool avx512 = kernels::cpu::find_kernels("avx512") != nullptr;
  const bool avx2 = kernels::cpu::find_kernels("avx2") != nullptr;
  if (avx512) {
    using namespace kernels::cpu;
    peak.fp32_flops = flops(avx512::fp32_rounds, avx512::kFp32RoundFlops);
    peak.bf16_flops = flops(avx512::bf16_rounds, avx512::kBf16RoundFlops);
    if (find_kernels("amx") != nullptr) {
      peak.tile_flops = flops(amx::tile_rounds, amx::kTileRoundFlops);
    }
  } else if (avx2) {
    peak.fp32_flops = flops(fp32_rounds_avx2, 12 * 8 * 2);
  }
  if (avx2) {
    const size_t bytes = size_t{256} << 20;
    HugePageArena arena;
    at::Tensor memory = arena.take({static_cast<int64_t>(bytes + 8192)}, at::kByte).fill_(1);
    const uint8_t* begin_of = memory.const_data_ptr<uint8_t>();
    double best = 1e30;
    std::atomic<int64_t> sink{0};
    for (int run = 0; run < 5; ++run) {
      const double begin = seconds();
      at::parallel_for(0, threads, 1, [&](int64_t i, int64_t) {
        const size_t share = bytes / static_cast<size_t>(threads) / 64 * 64;
        sink += read_all(begin_of + static_cast<size_t>(i) * share, share);
      });
      best = std::min(best, seconds() - begin);
    }
    peak.read_bytes = static_cast<double>(bytes) / best;
  }
#endif
  return peak;
}

/// Evicts everything else from the caches.
class CacheFlush {
 public:
  CacheFlush() : memory_(size_t{96} << 20, 1) {}
  void operator()() {
    const size_t share = memory_.size() / static_cast<size_t>(at::get_num_threads());
    at::parallel_for(0, at::get_num_threads(), 1, [&](int64_t i, int64_t) {
      uint8_t* p = memory_.data() + static_cast<size_t>(i) * share;
      for (size_t k = 0; k + 64 <= share; k += 64) p[k] = static_cast<uint8_t>(p[k] + 1);
    });
  }

 private:
  std::vector<uint8_t> memory_;
};

}  // namespace rillkv::bench
