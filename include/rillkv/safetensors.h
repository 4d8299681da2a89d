// Weights from safetensors files, memory-mapped.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace rillkv {

/// One memory-mapped file. Cheap to copy (copies share the mapping); all members are const and safe
/// to call from several threads. Opening checks the whole header before a byte of data is touched.
/// A file that another process truncates while it is mapped ends the program (SIGBUS), as with any
/// memory mapping.
class SafetensorsFile {
 public:
  /// Throws Error, naming file and tensor, if the file is missing, truncated or contradicts itself.
  static SafetensorsFile open(const std::string& path);

  bool contains(const std::string& name) const;
  /// Sorted.
  std::vector<std::string> names() const;
  const std::string& path() const;

  /// A view of the mapping (no copy; float32, float16 or bfloat16) that keeps it alive. Writing to
  /// it changes private copies of the pages, never the file. Data that is not aligned to its
  /// element size (older writers) is copied. Throws Error for a missing tensor or another dtype.
  at::Tensor tensor(const std::string& name) const;

  /// Shape without touching the data. Throws Error for a missing tensor.
  std::vector<int64_t> shape(const std::string& name) const;

  /// Gives the pages that hold only this tensor back to the system: for weights that were copied
  /// elsewhere (repacked, moved to a device). Views stay valid; what was written to them is lost
  /// and a read fetches the file's bytes again.
  void release(const std::string& name) const;

 private:
  struct Impl;
  explicit SafetensorsFile(std::shared_ptr<const Impl> impl);
  std::shared_ptr<const Impl> impl_;
};

/// A checkpoint: `model.safetensors`, or the shards that `model.safetensors.index.json` lists. What
/// the shards hold counts, as in transformers: a tensor that the index omits or puts into another
/// shard is there, and of two shards with the same tensor the later one by name has it (which is
/// warned of). A shard or tensor that only the index knows is an error of whoever asks for it.
/// Copies share the mappings; const and safe to use from several threads.
class Checkpoint {
 public:
  /// `path`: a folder, or one .safetensors file. Opens every shard that is there. Throws Error
  /// naming what is wrong.
  static Checkpoint open(const std::string& path);

  /// Whether a file holds the tensor, or the index says that one should.
  bool contains(const std::string& name) const;
  /// Sorted; every tensor that `contains` knows.
  std::vector<std::string> names() const;

  /// As in SafetensorsFile. Throws Error naming the shard where it is missing or lacks the tensor.
  at::Tensor tensor(const std::string& name) const;
  std::vector<int64_t> shape(const std::string& name) const;
  void release(const std::string& name) const;

 private:
  const SafetensorsFile& file_of(const std::string& name) const;
  void read_index(const std::string& index_path);

  std::string path_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, size_t> file_index_;     // tensor -> its file
  std::map<std::string, std::string> promised_;  // tensor that no file holds -> its file's name
};

/// Writes float32, float16, bfloat16 or int64 tensors (any device and strides) to one file, which
/// appears only when it is complete. Throws Error if it cannot be written.
void write_safetensors(const std::string& path, const std::map<std::string, at::Tensor>& tensors,
                       const std::map<std::string, std::string>& metadata = {});

}  // namespace rillkv
