#include "core/rotation_table.h"

#include <cmath>

namespace rillkv {

RotationTable::RotationTable(std::vector<double> inverse_frequencies, int64_t sinks,
                             int64_t block_size)
    : inverse_frequencies_(std::move(inverse_frequencies)),
      pairs_(static_cast<int64_t>(inverse_frequencies_.size())),
      sinks_(sinks),
      block_size_(block_size),
      in_block_cos_(pairs_ * block_size),
      in_block_sin_(pairs_ * block_size) {
  for (int64_t p = 0; p < pairs_; ++p) {
    for (int64_t j = 0; j < block_size; ++j) {
      const double angle = static_cast<double>(j) * inverse_frequencies_[p];
      in_block_cos_[p * block_size + j] = static_cast<float>(std::cos(angle));
      in_block_sin_[p * block_size + j] = static_cast<float>(std::sin(angle));
    }
  }
  for (int64_t position = 0; position < sinks; ++position)
    append_row(position, sink_cos_, sink_sin_);
}

void RotationTable::append_row(int64_t position, std::vector<float>& cos,
                               std::vector<float>& sin) const {
  for (double frequency : inverse_frequencies_) {
    const double angle = static_cast<double>(position) * frequency;
    cos.push_back(static_cast<float>(std::cos(angle)));
    sin.push_back(static_cast<float>(std::sin(angle)));
  }
}

kernels::Rotations RotationTable::in_block() const {
  return {in_block_cos_.data(), in_block_sin_.data()};
}

const float* const* RotationTable::blocks(int64_t count) {
  for (int64_t n = static_cast<int64_t>(blocks_.size()); n < count; ++n) {
    auto block = std::make_unique<float[]>(2 * pairs_);
    for (int64_t p = 0; p < pairs_; ++p) {
      const double angle = static_cast<double>(sinks_ + n * block_size_) * inverse_frequencies_[p];
      block[p] = static_cast<float>(std::cos(angle));
      block[pairs_ + p] = static_cast<float>(std::sin(angle));
    }
    block_pointers_.push_back(block.get());
    blocks_.push_back(std::move(block));
  }
  return block_pointers_.data();
}

RotationTable::Rows RotationTable::rows(int64_t first, int64_t count) {
  int64_t have = static_cast<int64_t>(row_cos_.size()) / pairs_;
  if (first < first_row_ || first > first_row_ + have) {
    row_cos_.clear();
    row_sin_.clear();
    first_row_ = first;
    have = 0;
  } else if (first - first_row_ > block_size_ + count) {  // forget what has been sealed
    const int64_t gone = (first - first_row_) * pairs_;
    row_cos_.erase(row_cos_.begin(), row_cos_.begin() + gone);
    row_sin_.erase(row_sin_.begin(), row_sin_.begin() + gone);
    have -= first - first_row_;
    first_row_ = first;
  }
  for (int64_t position = first_row_ + have; position < first + count; ++position) {
    append_row(position, row_cos_, row_sin_);
  }
  const int64_t offset = (first - first_row_) * pairs_;
  return {row_cos_.data() + offset, row_sin_.data() + offset};
}

}  // namespace rillkv
