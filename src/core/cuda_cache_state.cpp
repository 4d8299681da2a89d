#include "core/cuda_cache_state.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <bit>

#include "core/assert.h"
#include "kernels/moment_layout.h"
#include "kernels/packed_format.h"
#include "rillkv/error.h"

namespace rillkv {
namespace {

constexpr int64_t kFirstCapacity = 8;  // blocks; then it doubles

}  // namespace

CudaCacheState::CudaCacheState(const CacheGeometry& geometry, const AdaptiveLayout& layout,
                               CudaBackend& backend)
    : backend_(backend),
      layers_(geometry.layers),
      kv_heads_(geometry.kv_heads),
      sums_(geometry.heads * geometry.head_dim),
      ema_(geometry.kv_heads * geometry.head_dim),
      places_(geometry.layers) {
  const auto options = at::TensorOptions().device(backend.device());
  if (layout.distances != nullptr) {
    const auto floats = static_cast<int64_t>(kernels::moment_floats(layout.head_dim));
    moments_ = at::zeros({layers_, kv_heads_ * floats}, options.dtype(at::kFloat));
    const auto count = static_cast<int64_t>(layout.distances->size());
    distances_ = at::empty({count}, options.dtype(at::kFloat));
    backend.upload(layout.distances->data(), distances_);
  } else {
    energies_ = at::zeros({layers_, sums_ + 3 * ema_}, options.dtype(at::kFloat));
  }
  error_ = at::zeros({1}, options.dtype(at::kLong));
  const auto bytes = static_cast<int64_t>(sizeof(kernels::cuda::LayerState)) * layers_;
  states_ = at::empty({bytes}, options.dtype(at::kByte));
  ensure_blocks(kFirstCapacity);
}

void CudaCacheState::ensure_blocks(int64_t count) {
  if (count <= capacity_) return;
  const int64_t capacity = std::max(count, 2 * capacity_);
  const auto options = error_.options();
  const at::Tensor tables = at::zeros({layers_, 2, capacity, kv_heads_}, options);
  const at::Tensor clipped = at::zeros({layers_, capacity}, options);
  if (capacity_ > 0) {
    tables.slice(2, 0, capacity_).copy_(tables_);
    clipped.slice(1, 0, capacity_).copy_(clipped_);
  }
  tables_ = tables;
  clipped_ = clipped;
  capacity_ = capacity;
  states_are_old_ = true;
}

const uint8_t** CudaCacheState::table(int64_t layer, int64_t side) const {
  int64_t* words = tables_.mutable_data_ptr<int64_t>();
  return reinterpret_cast<const uint8_t**>(words + (2 * layer + side) * capacity_ * kv_heads_);
}

unsigned long long* CudaCacheState::clipped(int64_t layer, int64_t block) const {
  RILLKV_ASSERT(block < capacity_);
  int64_t* words = clipped_.mutable_data_ptr<int64_t>();
  return reinterpret_cast<unsigned long long*>(words + layer * capacity_ + block);
}

std::vector<int64_t> CudaCacheState::read_clipped(int64_t layer, int64_t first, int64_t end) const {
  std::vector<int64_t> counts(end - first);
  backend_.download({{clipped_[layer].slice(0, first, end), counts.data()}});
  return counts;
}

float* CudaCacheState::energy(int64_t layer, int64_t offset) const {
  if (!energies_.defined()) return nullptr;
  return energies_.mutable_data_ptr<float>() + layer * energies_.size(1) + offset;
}

float* CudaCacheState::moments(int64_t layer) const {
  if (!moments_.defined()) return nullptr;
  return moments_.mutable_data_ptr<float>() + layer * moments_.size(1);
}

const float* CudaCacheState::distances() const {
  return distances_.defined() ? distances_.const_data_ptr<float>() : nullptr;
}

void CudaCacheState::set_places(int64_t layer, Places places) {
  places_[layer] = std::move(places);
  states_are_old_ = true;
}

const kernels::cuda::LayerState* CudaCacheState::layer_states() {
  if (states_are_old_) {
    std::vector<kernels::cuda::LayerState> states(layers_);
    const auto bytes_of = [](const at::Tensor& x) {
      return x.defined() ? x.const_data_ptr<uint8_t>() : nullptr;
    };
    for (int64_t i = 0; i < layers_; ++i) {
      const Places& places = places_[i];
      kernels::cuda::LayerState& state = states[i];
      state.key_blocks = key_table(i);
      state.value_blocks = value_table(i);
      state.sink_keys = bytes_of(places.sink_keys);
      state.sink_values = bytes_of(places.sink_values);
      state.tail_keys = places.tail_keys.mutable_data_ptr();
      state.tail_values = places.tail_values.mutable_data_ptr();
      state.energy_sums = energy_sums(i);
      state.energy_ema = energy_ema(i);
      state.energies = energies(i);
      state.moments = moments(i);
    }
    backend_.upload(states.data(), states_);
    states_are_old_ = false;
  }
  return reinterpret_cast<const kernels::cuda::LayerState*>(states_.const_data_ptr<uint8_t>());
}

unsigned long long* CudaCacheState::error_word() const {
  return reinterpret_cast<unsigned long long*>(error_.mutable_data_ptr<int64_t>());
}

std::string CudaCacheState::describe_error(uint64_t word) {
  static constexpr const char* kWhat[] = {"numbers", "keys", "values", "queries"};
  return str_cat("expected finite ", kWhat[word & 3], " of magnitude at most ",
                 format::kMaxMagnitude, ", got ",
                 std::bit_cast<float>(static_cast<uint32_t>(word >> 32)), " in head ",
                 word >> 2 & 0x3fff);
}

void CudaCacheState::reset() {
  for (at::Tensor* statistics : {&energies_, &moments_}) {
    if (statistics->defined()) statistics->zero_();
  }
  clipped_.zero_();
  error_.zero_();
}

std::vector<at::Tensor> CudaCacheState::tensors() const {
  std::vector<at::Tensor> all = {tables_, clipped_, error_, states_};
  if (error_feedback()) {
    all.insert(all.end(), {moments_, distances_});
  } else {
    all.push_back(energies_);
  }
  return all;
}

}  // namespace rillkv
