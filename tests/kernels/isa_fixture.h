// One test body for every instruction set, buffers that notice overruns, and seeded input.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/cpu/kernels.h"
#include "kernels/params.h"
#include "tests/kernels/tile_emulator.h"
#include "tests/reference/half.h"

namespace rillkv::test {

using kernels::Dtype;
using kernels::cpu::KernelTable;

inline const char* dtype_name(Dtype dtype) {
  return dtype == Dtype::kFloat32 ? "float32" : dtype == Dtype::kBFloat16 ? "bfloat16" : "float16";
}

inline constexpr Dtype kDtypes[] = {Dtype::kFloat32, Dtype::kBFloat16, Dtype::kFloat16};
/// Of keys and values of sinks: codes, and 16 for sinks as they are.
inline constexpr int kSinkBits[] = {2, 3, 4, 5, 6, 7, 8, 16};
inline constexpr const char* kIsaNames[] = {"scalar", "avx2", "avx512", "amx_plain", "amx"};
/// Both arithmetics of an instruction set that leaves the choice to the chip's profile.
inline constexpr const char* kArithmeticNames[] = {"scalar",      "avx2",      "avx512_bf16",
                                                   "avx512_fp32", "amx_plain", "amx"};

/// A table that this machine can run, with the tile unit emulated where it is all that is missing;
/// null if more is.
inline const KernelTable* runnable_kernels(const std::string& name) {
  const KernelTable* table = kernels::cpu::find_kernels(name.c_str());
  if (table == nullptr && name == "amx" && kernels::cpu::find_kernels("amx_plain") != nullptr) {
    emulate_tiles();
    table = kernels::cpu::kernels_unchecked("amx");
  }
  return table;
}

inline std::vector<const KernelTable*> available_kernels() {
  std::vector<const KernelTable*> tables;
  for (const char* name : kIsaNames) {
    if (const KernelTable* table = runnable_kernels(name)) tables.push_back(table);
  }
  return tables;
}

/// Parameterised by the table's name; skipped where the machine lacks the instruction set.
class EveryIsa : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const std::string name = GetParam();
    table_ = runnable_kernels(name);
    if (table_ == nullptr) GTEST_SKIP() << "this machine or build lacks " << name;
    if (name == "amx_plain") RecordProperty("tiles", "plain C++");
    if (name == "amx") {
      RecordProperty("tiles", kernels::cpu::find_kernels("amx") ? "hardware" : "emulated");
    }
  }
  const KernelTable& isa() const { return *table_; }
  /// Another table for what follows: one that was broken on purpose.
  void use(const KernelTable& table) { table_ = &table; }

 private:
  const KernelTable* table_ = nullptr;
};

inline std::string isa_name(const testing::TestParamInfo<const char*>& info) { return info.param; }

#define RILLKV_INSTANTIATE_FOR_EVERY_ISA(fixture)                                      \
  INSTANTIATE_TEST_SUITE_P(Isa, fixture, testing::ValuesIn(::rillkv::test::kIsaNames), \
                           ::rillkv::test::isa_name)
/// For kernels whose arithmetic the chip's profile chooses.
#define RILLKV_INSTANTIATE_FOR_EVERY_ARITHMETIC(fixture)                                      \
  INSTANTIATE_TEST_SUITE_P(Isa, fixture, testing::ValuesIn(::rillkv::test::kArithmeticNames), \
                           ::rillkv::test::isa_name)

/// `bytes` bytes, 64-byte aligned (plus `shift`), between guards that must stay as they are.
class GuardedBuffer {
 public:
  explicit GuardedBuffer(size_t bytes, uint8_t fill = 0xcd, size_t shift = 0)
      : bytes_(bytes), storage_(bytes + shift + 3 * kGuard, kPattern) {
    const auto address = reinterpret_cast<uintptr_t>(storage_.data());
    begin_ = kGuard + (kAlign - (address + kGuard) % kAlign) % kAlign + shift;
    std::fill_n(data(), bytes_, fill);
  }
  GuardedBuffer(const GuardedBuffer&) = delete;
  GuardedBuffer& operator=(const GuardedBuffer&) = delete;

  uint8_t* data() { return storage_.data() + begin_; }
  const uint8_t* data() const { return storage_.data() + begin_; }
  template <typename T>
  T* as() {
    return reinterpret_cast<T*>(data());
  }
  size_t size() const { return bytes_; }
  std::vector<uint8_t> bytes() const { return {data(), data() + bytes_}; }

  /// True if nothing outside the buffer was written.
  bool intact() const {
    for (size_t i = 0; i < storage_.size(); ++i) {
      const bool inside = i >= begin_ && i < begin_ + bytes_;
      if (!inside && storage_[i] != kPattern) return false;
    }
    return true;
  }

 private:
  static constexpr size_t kGuard = 128, kAlign = 64;
  static constexpr uint8_t kPattern = 0xa7;
  size_t bytes_;
  std::vector<uint8_t> storage_;
  size_t begin_ = 0;
};

/// One element in a model's dtype: rounds to nearest even.
inline void store_element(double x, Dtype dtype, void* at) {
  if (dtype == Dtype::kFloat32) {
    const auto value = static_cast<float>(x);
    std::memcpy(at, &value, sizeof value);
  } else if (dtype == Dtype::kFloat16) {
    const uint16_t bits = reference::half_round(x, reference::Direction::kNearest);
    std::memcpy(at, &bits, sizeof bits);
  } else {
    const auto rounded = static_cast<float>(reference::bfloat16_round(x));  // exact
    uint32_t bits = 0;
    std::memcpy(&bits, &rounded, sizeof bits);
    const auto top = static_cast<uint16_t>(bits >> 16);
    std::memcpy(at, &top, sizeof top);
  }
}

inline double load_element(Dtype dtype, const void* at) {
  if (dtype == Dtype::kFloat32) {
    float value = 0;
    std::memcpy(&value, at, sizeof value);
    return static_cast<double>(value);
  }
  uint16_t bits = 0;
  std::memcpy(&bits, at, sizeof bits);
  return dtype == Dtype::kFloat16 ? reference::half_value(bits) : reference::bfloat16_value(bits);
}

inline size_t dtype_bytes(Dtype dtype) { return dtype == Dtype::kFloat32 ? 4 : 2; }

/// An activation [tokens, heads, head_dim] with gaps between heads and tokens that hold NaN, in
/// memory that is aligned to the element only.
class ActivationBuffer {
 public:
  ActivationBuffer(Dtype dtype, int tokens, int heads, int head_dim)
      : dtype_(dtype),
        tokens_(tokens),
        heads_(heads),
        head_dim_(head_dim),
        head_stride_(head_dim + 3),
        token_stride_(heads * head_stride_ + 5),
        memory_(static_cast<size_t>(tokens * token_stride_) * dtype_bytes(dtype), 0xff,
                dtype_bytes(dtype)) {}

  void* at(int t, int h, int c) {
    return memory_.data() +
           static_cast<size_t>(t * token_stride_ + h * head_stride_ + c) * dtype_bytes(dtype_);
  }
  double get(int t, int h, int c) { return load_element(dtype_, at(t, h, c)); }
  void set(int t, int h, int c, double x) { store_element(x, dtype_, at(t, h, c)); }

  /// value(t, h, c) for every element.
  void fill(const std::function<double(int, int, int)>& value) {
    for (int t = 0; t < tokens_; ++t) {
      for (int h = 0; h < heads_; ++h) {
        for (int c = 0; c < head_dim_; ++c) set(t, h, c, value(t, h, c));
      }
    }
  }
  void fill_normal(uint32_t seed, double deviation = 1.0) {
    std::mt19937 random(seed);
    std::normal_distribution<double> normal(0.0, deviation);
    fill([&](int, int, int) { return normal(random); });
  }

  kernels::Activation activation() { return {memory_.data(), token_stride_, head_stride_}; }
  kernels::MutableActivation mutable_activation() {
    return {memory_.data(), token_stride_, head_stride_};
  }
  kernels::cpu::PackParams pack_params(int kv_head, int block_size) {
    kernels::cpu::PackParams params;
    params.input = activation();
    params.dtype = dtype_;
    params.kv_head = kv_head;
    params.tokens = tokens_;
    params.block_size = block_size;
    params.head_dim = head_dim_;
    return params;
  }

  /// The channel c of one head over all tokens, and the row of one token, as the kernels see them.
  std::vector<float> channel(int h, int c) {
    std::vector<float> x;
    for (int t = 0; t < tokens_; ++t) x.push_back(static_cast<float>(get(t, h, c)));
    return x;
  }
  std::vector<float> row(int t, int h) {
    std::vector<float> x;
    for (int c = 0; c < head_dim_; ++c) x.push_back(static_cast<float>(get(t, h, c)));
    return x;
  }

  /// True if neither the gaps nor the memory around has been written to.
  bool gaps_intact() {
    std::vector<bool> used(memory_.size(), false);
    for (int t = 0; t < tokens_; ++t) {
      for (int h = 0; h < heads_; ++h) {
        const auto begin = static_cast<size_t>(static_cast<uint8_t*>(at(t, h, 0)) - memory_.data());
        for (size_t b = 0; b < static_cast<size_t>(head_dim_) * dtype_bytes(dtype_); ++b) {
          used[begin + b] = true;
        }
      }
    }
    for (size_t i = 0; i < used.size(); ++i) {
      if (!used[i] && memory_.data()[i] != 0xff) return false;
    }
    return memory_.intact();
  }

  Dtype dtype() const { return dtype_; }
  int tokens() const { return tokens_; }
  int heads() const { return heads_; }
  int head_dim() const { return head_dim_; }
  std::vector<uint8_t> bytes() const { return memory_.bytes(); }

 private:
  Dtype dtype_;
  int tokens_, heads_, head_dim_, head_stride_, token_stride_;
  GuardedBuffer memory_;
};

/// First difference of two byte strings, for messages; -1 if they are equal.
inline int64_t first_difference(const std::vector<uint8_t>& a, const std::vector<uint8_t>& b) {
  const size_t count = std::min(a.size(), b.size());
  for (size_t i = 0; i < count; ++i) {
    if (a[i] != b[i]) return static_cast<int64_t>(i);
  }
  return a.size() == b.size() ? -1 : static_cast<int64_t>(count);
}

/// Widths as the format stores them.
inline std::vector<uint8_t> stored_widths(const std::vector<int>& widths) {
  const size_t half = widths.size() / 2;
  std::vector<uint8_t> stored(half);
  for (size_t p = 0; p < half; ++p) {
    stored[p] = static_cast<uint8_t>(widths[p] | widths[p + half] << 4);
  }
  return stored;
}

}  // namespace rillkv::test
