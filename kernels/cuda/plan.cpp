// Launch plans of everything but attention (attention_plan.cpp): which entry, grid and shared
// memory. Portable C++: the same plans run on a GPU and on the PTX executor.
#include <cmath>
#include <sstream>
#include <stdexcept>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/shared_layout.h"
#include "kernels/cuda/submit.h"

namespace rillkv::kernels::cuda {
namespace {

int blocks_of(const BlockPackParams& p) { return (p.tokens + p.block_size - 1) / p.block_size; }

std::string describe_input(int tokens, int heads, int head_dim, Dtype dtype) {
  std::ostringstream out;
  out << "input [" << tokens << ", " << heads << ", " << head_dim << "] " << dtype_name(dtype);
  return out.str();
}

std::string describe(const BlockPackParams& p, int kv_heads) {
  return describe_input(p.tokens, kv_heads, p.head_dim, p.dtype) + ", blocks of " +
         std::to_string(p.block_size);
}

}  // namespace

void pack_channels_symmetric(Queue& queue, const PackChannelsSymmetricParams& params,
                             int kv_heads) {
  const ChannelPackShared shared(nullptr, params.block.head_dim, params.block.block_size);
  submit(queue, "rillkv_pack_channels_symmetric", kv_heads, blocks_of(params.block), 1,
         kPackThreads, shared.bytes, params, [&] { return describe(params.block, kv_heads); });
}

void pack_sinks(Queue& queue, const PackSinksParams& params, int kv_heads) {
  const BlockPackParams& block = params.block;
  if (params.first_row < 0 || params.first_row + block.tokens > block.block_size) {
    throw std::invalid_argument("pack_sinks: rows " + std::to_string(params.first_row) + " + " +
                                std::to_string(block.tokens) + " exceed the block's " +
                                std::to_string(block.block_size));
  }
  submit(queue, "rillkv_pack_sinks", kv_heads, 1, (block.tokens + kPackRows - 1) / kPackRows,
         kPackThreads, TokenPackShared(block.head_dim).bytes(kPackRows), params,
         [&] { return describe(block, kv_heads); });
}

namespace {
void rotate(Queue& queue, const char* entry, const RotateParams& params, size_t shared_bytes) {
  const int warps = kRotateThreads / 32;
  submit(queue, entry, (params.tokens * params.heads + warps - 1) / warps, 1, 1, kRotateThreads,
         shared_bytes, params, [&] {
           return describe_input(params.tokens, params.heads, params.head_dim, params.dtype);
         });
}
}  // namespace

void rope(Queue& queue, const RotateParams& params) { rotate(queue, "rillkv_rope", params, 0); }

void hadamard(Queue& queue, RotateParams params) {
  if (params.head_dim <= 0 || (params.head_dim & (params.head_dim - 1)) != 0) {
    throw std::invalid_argument("hadamard: head_dim must be a power of two, got " +
                                std::to_string(params.head_dim));
  }
  params.hadamard_factor =
      static_cast<float>(1.0 / std::sqrt(static_cast<double>(params.head_dim)));
  rotate(queue, "rillkv_hadamard", params,
         sizeof(float) * static_cast<size_t>(params.head_dim) * (kRotateThreads / 32));
}

void dequantise(Queue& queue, const DequantiseParams& params, int kv_heads) {
  submit(queue, "rillkv_dequantise", kv_heads, 1, 1, kPackThreads,
         sizeof(uint32_t) * static_cast<size_t>(params.head_dim + 1), params, [&] {
           return "block [" + std::to_string(params.tokens) + ", " +
                  std::to_string(params.head_dim) + "] of " + std::to_string(kv_heads) +
                  " kv heads";
         });
}

}  // namespace rillkv::kernels::cuda
