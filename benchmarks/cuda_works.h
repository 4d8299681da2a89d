// What bench_cuda times besides attention: the launches that take a chunk or a decoded token into
// the cache, and a model's own kernels, each on random inputs, with a plain reference for its
// result.
//
// The references are for mistakes in what is launched here (a stride, a pointer, a count): that the
// kernels' bytes and sums are exactly the CPU's is what the tests of tests/cuda look at.
#pragma once

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "benchmarks/attention_case.h"
#include "kernels/cuda/ingest.h"
#include "kernels/cuda/model_ops.h"
#include "kernels/packed_format.h"
#include "src/core/cuda_backend.h"
#include "src/core/cuda_runner.h"
#include "src/core/kernel_views.h"

namespace rillkv::bench {

/// One call that is timed.
struct Work {
  std::string group;  // what --only names
  std::string name;
  std::function<void(kernels::cuda::Queue&)> run;
  /// |result - reference| / |reference| of the first run; wrong if it is not <= allowed.
  std::function<double()> error;
  double allowed = 0;
  double expected_s = 0;  // by the model; 0: it says nothing
  double bytes = 0;       // read and written, at least
};

/// Device memory that lives as long as what was made of it.
class DeviceMemory {
 public:
  explicit DeviceMemory(at::Device device) : device_(device) {}
  at::Tensor keep(const at::Tensor& x) {
    kept_.push_back(x.to(device_).contiguous());
    return kept_.back();
  }
  at::Tensor zeros(at::IntArrayRef sizes, at::ScalarType type) {
    kept_.push_back(at::zeros(sizes, at::TensorOptions().dtype(type).device(device_)));
    return kept_.back();
  }
  /// Structs and pointers as they are in memory.
  template <typename T>
  T* up(const std::vector<T>& values) {
    const auto bytes = static_cast<int64_t>(values.size() * sizeof(T));
    return static_cast<T*>(
        keep(at::from_blob(const_cast<void*>(static_cast<const void*>(values.data())), {bytes},
                           at::TensorOptions().dtype(at::kByte))
                 .clone())
            .mutable_data_ptr());
  }
  at::Device device() const { return device_; }

 private:
  at::Device device_;
  std::vector<at::Tensor> kept_;
};

inline at::Tensor random_bf16(at::IntArrayRef sizes, uint64_t seed) {
  at::Generator generator = at::detail::createCPUGenerator(seed);
  return at::randn(sizes, generator, at::TensorOptions(at::kFloat)).to(at::kBFloat16);
}

inline double difference(const at::Tensor& found, const at::Tensor& expected) {
  const at::Tensor exact = expected.cpu().to(at::kDouble);
  return ((found.cpu().to(at::kDouble) - exact).norm() / exact.norm()).item<double>();
}

inline std::string name_of(const Shape& s) {
  return std::to_string(s.heads) + "/" + std::to_string(s.kv_heads) + "/" +
         std::to_string(s.head_dim);
}

/// x [.., D] times the Walsh-Hadamard matrix over sqrt(D), in double.
inline at::Tensor hadamard_reference(const at::Tensor& x) {
  at::Tensor matrix = at::ones({1, 1}, at::kDouble);
  const at::Tensor two = at::tensor({1.0, 1.0, 1.0, -1.0}, at::kDouble).view({2, 2});
  while (matrix.size(0) < x.size(-1)) matrix = at::kron(two, matrix);
  return at::matmul(x.cpu().to(at::kDouble), matrix) / std::sqrt(static_cast<double>(x.size(-1)));
}

/// Queries, keys, and values there and back.
inline double ingest_bytes(const Shape& s, int tokens) {
  return 2.0 * tokens * (s.heads + 3 * s.kv_heads) * s.head_dim;
}

/// A chunk of `tokens` that starts at a block's first token.
inline Work ingest_work(const Shape& s, int tokens, at::Device device) {
  using namespace kernels::cuda;
  auto memory = std::make_shared<DeviceMemory>(device);
  const at::Tensor q = memory->keep(random_bf16({tokens, s.heads, s.head_dim}, 1));
  const at::Tensor k = memory->keep(random_bf16({tokens, s.kv_heads, s.head_dim}, 2));
  const at::Tensor v = memory->keep(random_bf16({tokens, s.kv_heads, s.head_dim}, 3));
  const at::Tensor rotated = memory->zeros(v.sizes(), at::kBFloat16);
  IngestParams p = ingest_params(q, k, v, 128, /*rotates_values=*/true);
  p.rotated = {rotated.mutable_data_ptr(), rotated.stride(0), rotated.stride(1)};
  const at::Tensor error = memory->zeros({1}, at::kLong);
  p.error = static_cast<unsigned long long*>(error.mutable_data_ptr());
  p.keep = 0.9f;
  p.take = 0.1f;
  const auto floats = [&](at::IntArrayRef sizes) {
    return memory->zeros(sizes, at::kFloat).mutable_data_ptr<float>();
  };
  p.energy_sums = floats({s.heads, s.head_dim});
  p.energy_ema = floats({s.kv_heads, s.head_dim});
  const at::Tensor energies =
      memory->zeros({tokens / p.block_size + 1, s.kv_heads, s.head_dim}, at::kFloat);
  p.energies = energies.mutable_data_ptr<float>();
  Work work;
  work.group = "ingest";
  work.name = "ingest " + std::to_string(tokens) + " tokens, " + name_of(s);
  work.run = [p, memory](Queue& queue) { ingest(queue, p, 1); };
  work.error = [=] {
    if (error.cpu().item<int64_t>() != 0) return std::nan("");
    double worst = difference(rotated, hadamard_reference(v));
    if (tokens >= 128) {  // of the first block, with no EMA before it
      const at::Tensor squares = q.cpu().to(at::kDouble).slice(0, 0, 128).square();
      const at::Tensor mean = squares.view({128, s.kv_heads, s.heads / s.kv_heads, s.head_dim})
                                  .mean(at::IntArrayRef({0, 2}));
      worst = std::max(worst, difference(energies[0], mean));
    }
    return worst;
  };
  work.allowed = 4e-3;  // bf16's rounding of rotated values, 2^-9 relative each
  work.bytes = ingest_bytes(s, tokens);
  return work;
}

/// Every block of a chunk of `tokens`, both sides, all kv heads.
inline Work pack_work(const Shape& s, int tokens, at::Device device) {
  using namespace kernels::cuda;
  auto memory = std::make_shared<DeviceMemory>(device);
  const Mix& mix = mixes()[0];
  const int D = s.head_dim;
  const at::Tensor k = memory->keep(random_bf16({tokens, s.kv_heads, D}, 5));
  const at::Tensor v = memory->keep(random_bf16({tokens, s.kv_heads, D}, 6));
  kernels::cuda::PackParams p;
  p.keys = activation(k);
  p.values = activation(v);
  p.tail_keys = memory->zeros({128, s.kv_heads, D}, at::kBFloat16).mutable_data_ptr();
  p.tail_values = memory->zeros({128, s.kv_heads, D}, at::kBFloat16).mutable_data_ptr();
  p.dtype = Dtype::kBFloat16;
  p.kv_heads = s.kv_heads;
  p.head_dim = D;
  p.tokens = tokens;
  p.blocks = tokens / 128;
  p.class_count = static_cast<int>(mix.classes.size());
  for (size_t i = 0; i < mix.classes.size(); ++i) p.classes[i] = mix.classes[i];
  const int spacing = mix.classes.size() > 1 ? mix.classes[1] - mix.classes[0] : 1;
  p.increments = static_cast<int>((mix.key_bits - mix.classes[0]) * D / 2 / spacing + 1e-6);
  // Two channels a pair.
  const int widths = 2 * (mix.classes[0] * D / 2 + p.increments * spacing);
  p.key_bytes = static_cast<int32_t>(format::channel_block_bytes(D, 128, false, widths));
  p.value_groups = format::value_groups(D, 64);
  p.value_bits = mix.value_bits;
  p.value_bytes =
      static_cast<int32_t>(format::token_block_bytes(128, D, p.value_groups, false, p.value_bits));
  std::vector<at::Tensor> storage;
  for (int b = 0; b < p.blocks; ++b) {
    storage.push_back(memory->zeros({s.kv_heads * (p.key_bytes + p.value_bytes)}, at::kByte));
    p.storage[b] = storage.back().mutable_data_ptr<uint8_t>();
  }
  const auto table = [&] {
    return static_cast<const uint8_t**>(
        memory->zeros({p.blocks, s.kv_heads}, at::kLong).mutable_data_ptr());
  };
  p.key_table = table();
  p.value_table = table();
  p.energies =
      memory->keep(at::ones({p.blocks, s.kv_heads, D}, at::kFloat)).const_data_ptr<float>();
  p.clipped =
      static_cast<unsigned long long*>(memory->zeros({p.blocks}, at::kLong).mutable_data_ptr());
  Work work;
  work.group = "pack";
  work.name = "pack " + std::to_string(tokens) + " tokens, " + name_of(s);
  work.run = [p, memory](Queue& queue) { pack(queue, p); };
  work.error = [=] {
    double worst = 0;
    for (int b = 0; b < p.blocks; ++b) {
      const at::Tensor bytes = storage[static_cast<size_t>(b)].cpu();
      for (int h = 0; h < s.kv_heads; ++h) {
        at::Tensor keys = at::empty({128, D}, at::kFloat), values = at::empty_like(keys);
        const uint8_t* at_keys = bytes.const_data_ptr<uint8_t>() + int64_t{h} * p.key_bytes;
        const uint8_t* at_values = bytes.const_data_ptr<uint8_t>() +
                                   int64_t{s.kv_heads} * p.key_bytes + int64_t{h} * p.value_bytes;
        cpu::unpack_channels(at_keys, 128, 128, D, false, keys.data_ptr<float>());
        cpu::unpack_tokens(at_values, 128, 128, D, p.value_groups, false, p.value_bits,
                           values.data_ptr<float>());
        const auto rows = [&](const at::Tensor& x) {
          return x.slice(0, 128 * b, 128 * (b + 1)).select(1, h);
        };
        const double here = std::max(difference(keys, rows(k)), difference(values, rows(v)));
        if (!(here <= worst)) worst = here;  // NaN stays
      }
    }
    return worst;
  };
  // 4 bits over some 5 standard deviations: steps of a third, errors of a tenth of one.
  work.allowed = 0.15;
  work.bytes =
      4.0 * tokens * s.kv_heads * D + 1.0 * p.blocks * s.kv_heads * (p.key_bytes + p.value_bytes);
  return work;
}

inline Work norm_work(int rows, int columns, at::Device device) {
  using namespace kernels::cuda;
  auto memory = std::make_shared<DeviceMemory>(device);
  const at::Tensor begin = random_bf16({rows, columns}, 7), x = memory->keep(begin.clone());
  const at::Tensor delta = memory->keep(random_bf16({rows, columns}, 8));
  const at::Tensor weight = memory->keep(random_bf16({columns}, 9));
  const at::Tensor out = memory->zeros({rows, columns}, at::kBFloat16);
  NormParams p;
  p.x = x.mutable_data_ptr();
  p.delta = delta.const_data_ptr();
  p.weight = weight.const_data_ptr();
  p.out = out.mutable_data_ptr();
  p.rows = rows;
  p.columns = columns;
  p.epsilon = 1e-5f;
  p.dtype = Dtype::kBFloat16;
  Work work;
  work.group = "rms_norm";
  work.name = "rms_norm [" + std::to_string(rows) + ", " + std::to_string(columns) + "]";
  work.run = [p, memory](Queue& queue) { rms_norm(queue, p); };
  work.error = [=] {
    const at::Tensor sum = begin.to(at::kDouble) + delta.cpu().to(at::kDouble);
    return difference(
        out, sum * (sum.square().mean(1, true) + 1e-5).rsqrt() * weight.cpu().to(at::kDouble));
  };
  work.allowed = 8e-3;  // of x + delta and of the result, each rounded to bf16
  work.bytes = 8.0 * rows * columns + 2.0 * columns;
  return work;
}

inline Work gate_work(int rows, int columns, at::Device device) {
  using namespace kernels::cuda;
  auto memory = std::make_shared<DeviceMemory>(device);
  const at::Tensor both = memory->keep(random_bf16({rows, 2 * columns}, 10));
  const at::Tensor out = memory->zeros({rows, columns}, at::kBFloat16);
  GateParams p;
  p.gate_up = both.const_data_ptr();
  p.out = out.mutable_data_ptr();
  p.rows = rows;
  p.columns = columns;
  p.dtype = Dtype::kBFloat16;
  Work work;
  work.group = "gate";
  work.name = "gate [" + std::to_string(rows) + ", " + std::to_string(columns) + "]";
  work.run = [p, memory](Queue& queue) { gate(queue, p); };
  work.error = [=] {
    const at::Tensor exact = both.cpu().to(at::kDouble);
    return difference(out, at::silu(exact.slice(1, 0, columns)) * exact.slice(1, columns));
  };
  work.allowed = 4e-3;
  work.bytes = 6.0 * rows * columns;
  return work;
}

inline Work embed_work(int rows, int vocabulary, int columns, at::Device device) {
  using namespace kernels::cuda;
  auto memory = std::make_shared<DeviceMemory>(device);
  const at::Tensor table = memory->keep(random_bf16({vocabulary, columns}, 11));
  std::vector<int32_t> ids;
  for (int i = 0; i < rows; ++i) ids.push_back((i * 7919 + 13) % vocabulary);
  const at::Tensor out = memory->zeros({rows, columns}, at::kBFloat16);
  EmbedParams p;
  p.table = table.const_data_ptr();
  p.ids = memory->up(ids);
  p.out = out.mutable_data_ptr();
  p.rows = rows;
  p.columns = columns;
  Work work;
  work.group = "embed";
  work.name = "embed " + std::to_string(rows) + " of [" + std::to_string(vocabulary) + ", " +
              std::to_string(columns) + "]";
  work.run = [p, memory](Queue& queue) { embed(queue, p); };
  work.error = [=] {
    const at::Tensor index = at::tensor(std::vector<int64_t>(ids.begin(), ids.end()), at::kLong);
    return difference(out, table.cpu().index_select(0, index));
  };
  work.bytes = 4.0 * rows * columns;  // exact: nothing is allowed
  return work;
}

/// Of `count` sequences at different places; see SequenceStep.
inline Work begin_pass_work(const Shape& s, int count, at::Device device) {
  using namespace kernels::cuda;
  auto memory = std::make_shared<DeviceMemory>(device);
  const int64_t half = s.head_dim / 2;
  const at::Tensor inverse = at::pow(10000.0, -at::arange(half, at::kDouble) / half);
  const auto angles = [&](int64_t position) { return inverse * static_cast<double>(position); };
  const auto rotation = [&](int64_t position) {
    return at::cat({at::cos(angles(position)), at::sin(angles(position))}).to(at::kFloat);
  };
  const at::Tensor in_block = inverse.unsqueeze(1) * at::arange(128, at::kDouble);
  BeginPassParams p;
  p.head_dim = s.head_dim;
  p.in_block_cos = memory->keep(at::cos(in_block).to(at::kFloat)).const_data_ptr<float>();
  p.in_block_sin = memory->keep(at::sin(in_block).to(at::kFloat)).const_data_ptr<float>();
  const at::Tensor steps = memory->zeros({count, int64_t{sizeof(SequenceStep)}}, at::kByte);
  const at::Tensor ids_out = memory->zeros({count}, at::kInt);
  p.steps = static_cast<SequenceStep*>(steps.mutable_data_ptr());
  p.ids_out = ids_out.mutable_data_ptr<int32_t>();
  std::vector<SequenceStep> values;
  std::vector<int32_t> ids;
  std::vector<at::Tensor> cosines, expected;
  for (int i = 0; i < count; ++i) {
    SequenceStep step;
    const int64_t first = 8 + int64_t{128} * (i % 3);  // of the open block
    step.block_count = i % 3;
    step.tail_count = (17 * i) % 128;
    step.length = static_cast<int32_t>(first) + step.tail_count;
    std::vector<const float*> rotations;
    for (int b = 0; b <= step.block_count; ++b) {
      rotations.push_back(memory->keep(rotation(8 + int64_t{128} * b)).const_data_ptr<float>());
    }
    step.block_rotations = memory->up(rotations);
    cosines.push_back(memory->zeros({128, half}, at::kFloat));
    step.tail_cos = cosines.back().mutable_data_ptr<float>();
    step.tail_sin = memory->zeros({128, half}, at::kFloat).mutable_data_ptr<float>();
    expected.push_back(at::cos(angles(first + step.tail_count)));
    values.push_back(step);
    ids.push_back(i + 5);
  }
  Work work;
  work.group = "begin_pass";
  work.name = "begin_pass of " + std::to_string(count) + ", head_dim " + std::to_string(s.head_dim);
  work.run = [=](Queue& queue) { begin_pass(queue, p, values.data(), ids.data(), count); };
  work.error = [=] {
    const at::Tensor found = steps.cpu();
    if (std::memcmp(found.const_data_ptr(), values.data(), values.size() * sizeof(SequenceStep)) !=
            0 ||
        ids_out.cpu()[count - 1].item<int32_t>() != ids.back()) {
      return std::nan("");
    }
    double worst = 0;
    for (size_t i = 0; i < values.size(); ++i) {
      const double here = difference(cosines[i][values[i].tail_count], expected[i]);
      if (!(here <= worst)) worst = here;
    }
    return memory != nullptr ? worst : 0;
  };
  work.allowed = 1e-5;  // fp32 products of angles' cosines below 1
  return work;
}

}  // namespace rillkv::bench
