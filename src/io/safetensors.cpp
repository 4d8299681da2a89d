#include "rillkv/safetensors.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <optional>
#include <set>
#include <utility>

#include "rillkv/error.h"
#include "rillkv/log.h"
#include "rillkv/quotes.h"
#include "src/io/atomic_file.h"
#include "src/io/json_reader.h"
#include "src/io/safetensors_header.h"

namespace rillkv {
namespace {

namespace fs = std::filesystem;

constexpr char kSingleFile[] = "model.safetensors";
constexpr char kIndexFile[] = "model.safetensors.index.json";

constexpr std::pair<const char*, at::ScalarType> kReadable[] = {
    {"F32", at::kFloat}, {"F16", at::kHalf}, {"BF16", at::kBFloat16}};

class Mapping {
 public:
  explicit Mapping(const std::string& path) {
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    RILLKV_CHECK(fd >= 0, "cannot open ", path, ": ", std::strerror(errno));
    struct stat info {};
    int failure = ::fstat(fd, &info) == 0 ? 0 : errno;
    if (failure == 0 && !S_ISREG(info.st_mode)) failure = S_ISDIR(info.st_mode) ? EISDIR : ESPIPE;
    size_ = failure == 0 ? static_cast<size_t>(info.st_size) : 0;
    if (failure == 0 && size_ > 0) {
      // Private and writable: an in-place operation on a view copies a page instead of crashing.
      data_ = ::mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, fd, 0);
      if (data_ == MAP_FAILED) failure = errno;
    }
    ::close(fd);
    RILLKV_CHECK(failure == 0, "cannot map ", path, ": ", std::strerror(failure));
  }
  ~Mapping() {
    if (size_ > 0) ::munmap(data_, size_);
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  char* data() const { return static_cast<char*>(data_); }
  std::string_view view() const { return {data(), size_}; }

  /// Drops the whole pages inside [begin, end).
  void drop(size_t begin, size_t end) const {
    const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
    begin = (begin + page - 1) / page * page;
    // The file's last page holds nothing beyond its end.
    end = end == size_ ? end : end / page * page;
    if (begin < end) ::madvise(data() + begin, end - begin, MADV_DONTNEED);
  }

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace

struct SafetensorsFile::Impl {
  explicit Impl(const std::string& file_path) : path(file_path), mapping(file_path) {
    header = io::parse_safetensors_header(mapping.view(), path);
  }

  const io::SafetensorsEntry& entry(const std::string& name) const {
    const auto found = header.tensors.find(name);
    RILLKV_CHECK(found != header.tensors.end(), path, ": tensor ", in_quotes(name), " is missing");
    return found->second;
  }

  std::string path;
  Mapping mapping;
  io::SafetensorsHeader header;
};

SafetensorsFile::SafetensorsFile(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}

SafetensorsFile SafetensorsFile::open(const std::string& path) {
  return SafetensorsFile(std::make_shared<const Impl>(path));
}

bool SafetensorsFile::contains(const std::string& name) const {
  return impl_->header.tensors.count(name) > 0;
}

std::vector<std::string> SafetensorsFile::names() const {
  std::vector<std::string> result;
  for (const auto& item : impl_->header.tensors) result.push_back(item.first);
  return result;
}

const std::string& SafetensorsFile::path() const { return impl_->path; }

std::vector<int64_t> SafetensorsFile::shape(const std::string& name) const {
  return impl_->entry(name).shape;
}

at::Tensor SafetensorsFile::tensor(const std::string& name) const {
  const io::SafetensorsEntry& entry = impl_->entry(name);
  std::optional<at::ScalarType> type;
  for (const auto& [spelling, scalar_type] : kReadable) {
    if (entry.dtype == spelling) type = scalar_type;
  }
  RILLKV_CHECK(type, impl_->path, ": tensor ", in_quotes(name), " has dtype ",
               in_quotes(entry.dtype), "; F32, F16 and BF16 are supported");
  const auto options = at::TensorOptions(*type);
  char* data = impl_->mapping.data() + entry.begin;
  if (entry.begin % c10::elementSize(*type) != 0) {
    at::Tensor copy = at::empty(entry.shape, options);
    // memcpy may not be given the null pointer of an empty tensor.
    if (entry.end > entry.begin) std::memcpy(copy.data_ptr(), data, entry.end - entry.begin);
    return copy;
  }
  // The deleter's copy of impl_ keeps the mapping alive.
  return at::from_blob(
      data, entry.shape, [impl = impl_](void*) {}, options);
}

void SafetensorsFile::release(const std::string& name) const {
  const io::SafetensorsEntry& entry = impl_->entry(name);
  impl_->mapping.drop(entry.begin, entry.end);
}

Checkpoint Checkpoint::open(const std::string& path) {
  Checkpoint checkpoint;
  checkpoint.path_ = path;
  const fs::path folder(path);
  std::error_code ignored;
  RILLKV_CHECK(fs::exists(folder, ignored), "no such file or folder: ", path);
  const bool is_folder = fs::is_directory(folder, ignored);
  const std::string index_path = (folder / kIndexFile).string();

  if (!is_folder || fs::exists(folder / kSingleFile, ignored)) {
    checkpoint.files_.push_back(
        SafetensorsFile::open(is_folder ? (folder / kSingleFile).string() : path));
    for (const std::string& name : checkpoint.files_[0].names()) checkpoint.file_index_[name] = 0;
    return checkpoint;
  }
  RILLKV_CHECK(fs::exists(index_path, ignored), path, ": neither ", kSingleFile, " nor ",
               kIndexFile, " is there");
  checkpoint.read_index(index_path);
  return checkpoint;
}

void Checkpoint::read_index(const std::string& index_path) {
  const nlohmann::json index = io::read_json_object(index_path);
  const io::JsonReader reader(index, index_path);
  const nlohmann::json* weight_map = reader.find("weight_map");
  if (weight_map == nullptr || !weight_map->is_object()) {
    reader.fail("weight_map", "an object that maps tensors to files");
  }
  std::set<std::string> shards;
  for (const auto& [name, value] : weight_map->items()) {
    RILLKV_CHECK(value.is_string(), index_path, ": weight_map of ", in_quotes(name),
                 " must be a file name");
    const auto shard = value.get<std::string>();
    // A checkpoint must not make us read files outside its folder.
    RILLKV_CHECK(!shard.empty() && shard.find('/') == shard.npos && shard != "." && shard != "..",
                 index_path, ": weight_map of ", in_quotes(name), " names ", in_quotes(shard),
                 ", expected a file in the same folder");
    promised_[name] = shard;
    shards.insert(shard);
  }
  std::string twice;  // the first tensor that two shards hold
  size_t more = 0;
  for (const std::string& shard : shards) {
    const fs::path file = fs::path(path_) / shard;
    std::error_code ignored;
    if (!fs::exists(file, ignored)) continue;
    files_.push_back(SafetensorsFile::open(file.string()));
    for (const std::string& name : files_.back().names()) {
      promised_.erase(name);
      if (file_index_.insert_or_assign(name, files_.size() - 1).second) continue;
      if (twice.empty()) {
        twice = str_cat(in_quotes(name), " from ", in_quotes(shard));
      } else {
        ++more;
      }
    }
  }
  if (twice.empty()) return;
  log(LogLevel::kWarning,
      str_cat(path_, ": tensors that two shards hold are read from the later one: ", twice,
              more == 0 ? "" : str_cat(" and ", more, " more")));
}

const SafetensorsFile& Checkpoint::file_of(const std::string& name) const {
  const auto found = file_index_.find(name);
  if (found != file_index_.end()) return files_[found->second];
  const auto promised = promised_.find(name);
  RILLKV_CHECK(promised != promised_.end(), path_, ": tensor ", in_quotes(name), " is missing");
  const std::string& shard = promised->second;
  const bool opened = std::any_of(files_.begin(), files_.end(), [&](const SafetensorsFile& file) {
    return fs::path(file.path()).filename() == shard;
  });
  RILLKV_CHECK(opened, path_, ": shard ", in_quotes(shard), " is missing, ", kIndexFile,
               " says it holds tensor ", in_quotes(name));
  throw Error(str_cat((fs::path(path_) / shard).string(), ": tensor ", in_quotes(name),
                      " is missing, ", kIndexFile, " says it is there"));
}

bool Checkpoint::contains(const std::string& name) const {
  return file_index_.count(name) + promised_.count(name) > 0;
}

std::vector<std::string> Checkpoint::names() const {
  std::vector<std::string> result;
  for (const auto& item : file_index_) result.push_back(item.first);
  for (const auto& item : promised_) result.push_back(item.first);
  std::sort(result.begin(), result.end());
  return result;
}

at::Tensor Checkpoint::tensor(const std::string& name) const { return file_of(name).tensor(name); }

std::vector<int64_t> Checkpoint::shape(const std::string& name) const {
  return file_of(name).shape(name);
}

void Checkpoint::release(const std::string& name) const { file_of(name).release(name); }

void write_safetensors(const std::string& path, const std::map<std::string, at::Tensor>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  std::map<std::string, io::SafetensorsEntry> entries;
  uint64_t position = 0;
  for (const auto& [name, tensor] : tensors) {
    io::SafetensorsEntry entry;
    for (const auto& [spelling, type] : kReadable) {
      if (tensor.scalar_type() == type) entry.dtype = spelling;
    }
    if (tensor.scalar_type() == at::kLong) entry.dtype = "I64";
    RILLKV_CHECK(!entry.dtype.empty(), path, ": tensor ", in_quotes(name), " has dtype ",
                 tensor.scalar_type(), "; float, half, bfloat16 and int64 can be written");
    entry.shape = tensor.sizes().vec();
    entry.begin = position;
    position += tensor.nbytes();
    entry.end = position;
    entries[name] = std::move(entry);
  }
  const std::string header = io::make_safetensors_header(entries, metadata);
  io::AtomicFile file(path);
  file.write(header.data(), header.size());
  for (const auto& item : tensors) {
    const at::Tensor plain = item.second.cpu().contiguous();
    file.write(plain.const_data_ptr(), plain.nbytes());
  }
  file.commit();
}

}  // namespace rillkv
