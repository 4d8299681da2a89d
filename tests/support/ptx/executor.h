// Runs the PTX that nvcc emits on the CPU, and watches it: the way this project tests its CUDA
// kernels where no GPU is. README.md beside this file says how it works and what it cannot see.
//
//   const ptx::Module module = ptx::Module::load(path_of_ptx);
//   ptx::DeviceBuffer<float> x(input), y(count);
//   ptx::Launcher(module, "scale_kernel").grid({blocks}).block({128}).seed(7).run(params);
//
// `run` throws ptx::Fault if the kernel raced, left its buffers, read uninitialised shared memory,
// diverged at a barrier or did anything else listed in `Finding::Kind`.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace rillkv::ptx {

struct Dim3 {
  uint32_t x = 1;
  uint32_t y = 1;
  uint32_t z = 1;
  uint64_t count() const { return uint64_t{1} * x * y * z; }
};

/// PTX that cannot be run: a syntax error, an instruction the executor does not implement (named in
/// the message), an unknown entry, arguments that do not match its parameters.
class ModuleError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Something a kernel did wrong, told with the PTX instruction and, where nvcc was given
/// -lineinfo, the line of the .cu file.
struct Finding {
  enum class Kind {
    kRace,                 // two threads, at least one write, no synchronisation between
    kUninitialised,        // read of shared memory that nobody wrote
    kPendingCopy,          // access to the destination of a cp.async before its wait_group
    kOutOfBounds,          // outside every registered buffer, or outside the shared memory
    kMisaligned,           // address not a multiple of the access's size
    kDivergentBarrier,     // threads of a block wait at different barriers, or some have exited
    kDivergentCollective,  // lanes named in a warp instruction's mask do not arrive
    kBadLane,              // shuffle reads a lane outside the mask, lane not in its own mask
    kTrap,                 // trap, failed device assert
    kRunaway,              // more instructions than Launcher::instruction_limit
  };
  Kind kind;
  std::string message;
  uint64_t count = 1;  // how often the same pair of instructions did it
};

/// What one memory instruction cost on the hardware's terms (Launcher::profile).
struct SiteProfile {
  std::string source;       // "file.cu:120 ld.shared.v4.f32"
  bool shared = false;      // shared memory, otherwise global
  uint64_t executions = 0;  // warp instructions
  uint64_t wavefronts = 0;  // shared: passes over the 32 banks; min_wavefronts is conflict-free
  uint64_t min_wavefronts = 0;
  uint64_t sectors = 0;  // global: 32-byte sectors touched; min_sectors covers the bytes asked for
  uint64_t min_sectors = 0;
};

struct Report {
  std::vector<Finding> findings;
  std::vector<SiteProfile> sites;  // empty unless profiled; in program order
  uint64_t warp_instructions = 0;
  std::map<std::string, uint64_t> opcodes;  // warp instructions by name, if profiled
  bool completed = false;                   // false: a finding stopped the launch

  bool has(Finding::Kind kind) const;
  uint64_t bank_conflicts() const;  // wavefronts above the minimum, all sites
  uint64_t excess_sectors() const;  // sectors above the minimum, all sites
  /// One line a finding and a profiled site.
  std::string to_string() const;
};

/// Thrown by Launcher::run: the message lists the findings.
class Fault : public std::runtime_error {
 public:
  explicit Fault(Report found) : std::runtime_error(found.to_string()), report(std::move(found)) {}
  Report report;
};

struct ModuleData;  // parsed module: parser.h
struct Program;     // decoded entry: program.h

/// A parsed PTX file. Copies share the parsed text. Immutable, so one may serve several threads.
class Module {
 public:
  /// Reads and parses a file; files are cached by path. Throws ModuleError.
  static Module load(const std::string& path);
  /// `name` stands for the file in messages.
  static Module parse(const std::string& text, const std::string& name = "ptx");

  std::vector<std::string> entries() const;
  bool has_entry(const std::string& name) const;
  /// Decodes an entry once; throws ModuleError naming the first unsupported instruction.
  std::shared_ptr<const Program> program(const std::string& entry) const;

 private:
  std::shared_ptr<ModuleData> data_;
};

// ---- memory the kernels may touch ----

/// Registers host memory as device memory: outside these ranges every access is out of bounds.
/// Ranges must not overlap. Not thread-safe: one thread runs launches at a time.
void register_memory(const void* begin, size_t bytes, bool writable = true);
void unregister_memory(const void* begin);

/// Allocates `bytes` (0 is allowed) 256-byte aligned, between guard zones that belong to no
/// buffer, filled with 0xFF (NaN in every float format), and registers them.
void* allocate_device_memory(size_t bytes);
/// Aborts with a message if host code overwrote a guard zone: kernels are stopped before they can.
void free_device_memory(void* begin);

/// An array of T in (simulated) device memory. Contents start as 0xFF unless given.
template <typename T>
class DeviceBuffer {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  explicit DeviceBuffer(size_t count)
      : count_(count), data_(static_cast<T*>(allocate_device_memory(count * sizeof(T)))) {}
  explicit DeviceBuffer(const std::vector<T>& values) : DeviceBuffer(values.size()) {
    if (count_ > 0) std::memcpy(data_, values.data(), count_ * sizeof(T));
  }
  DeviceBuffer(DeviceBuffer&& other) noexcept
      : count_(std::exchange(other.count_, 0)), data_(std::exchange(other.data_, nullptr)) {}
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    std::swap(count_, other.count_);
    std::swap(data_, other.data_);
    return *this;
  }
  ~DeviceBuffer() {
    if (data_ != nullptr) free_device_memory(data_);
  }

  T* data() { return data_; }
  const T* data() const { return data_; }
  size_t size() const { return count_; }
  T& operator[](size_t i) { return data_[i]; }
  const T& operator[](size_t i) const { return data_[i]; }
  std::vector<T> to_vector() const { return std::vector<T>(data_, data_ + count_); }

 private:
  size_t count_;
  T* data_;
};

// ---- launching ----

/// One launch of an entry. Setters return *this; a Launcher may run several times.
class Launcher {
 public:
  Launcher(Module module, std::string entry);

  Launcher& grid(Dim3 grid);    // default 1 x 1 x 1
  Launcher& block(Dim3 block);  // default 1 x 1 x 1; at most 1024 threads
  /// Dynamic shared memory in bytes, beside the entry's static arrays.
  Launcher& shared(size_t bytes);
  /// Seed 0 runs blocks in order and each warp as far as it gets; any other seed shuffles blocks
  /// and interleaves warps at random instructions.
  Launcher& seed(uint64_t seed);
  /// Collects bank conflicts and sectors in Report::sites (about twice as slow). Default off.
  Launcher& profile(bool on = true);
  /// Race and initialisation checks. Default on.
  Launcher& check(bool on);
  /// Warp instructions after which a launch counts as runaway. Default 2e9.
  Launcher& instruction_limit(uint64_t limit);

  /// Runs with one argument a .param, each of the parameter's exact size. Throws Fault if there
  /// are findings, ModuleError if the arguments do not fit.
  template <typename... Args>
  Report run(const Args&... args) const {
    return checked(collect(args...));
  }
  /// Like run, for an entry with a single (struct) parameter of `bytes` bytes.
  Report run_raw(const void* params, size_t bytes) const {
    return checked(collect_raw({{params, bytes}}));
  }
  /// Like run, but returns the findings instead of throwing.
  template <typename... Args>
  Report collect(const Args&... args) const {
    static_assert((std::is_trivially_copyable_v<Args> && ...));
    return collect_raw({{&args, sizeof(Args)}...});
  }
  Report collect_raw(const std::vector<std::pair<const void*, size_t>>& args) const;

 private:
  static Report checked(Report report);

  Module module_;
  std::string entry_;
  Dim3 grid_;
  Dim3 block_;
  size_t shared_bytes_ = 0;
  uint64_t seed_ = 0;
  bool profile_ = false;
  bool check_ = true;
  uint64_t instruction_limit_ = 2'000'000'000;
};

}  // namespace rillkv::ptx
