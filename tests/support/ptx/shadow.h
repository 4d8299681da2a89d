// Race detection by happens-before, and the state of shared memory's bytes.
//
// Time is cut into epochs: one begins with every launch, block and block-wide barrier. Accesses of
// one block in different epochs are ordered; accesses of different blocks of a launch never are;
// within an epoch a thread is ordered with itself, and with lanes of its own warp through
// bar.warp.sync (Warp::known). Two unordered accesses to one byte race if one is a write, unless
// both are atomic.
#pragma once

#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

namespace rillkv::ptx {

struct Warp;
struct Block;

struct Epochs {
  uint32_t now = 1;
  uint32_t launch_begin = 1;
  uint32_t block_begin = 1;
};

/// Who last wrote a piece of memory, and who read it since.
struct Cell {
  uint32_t write_epoch = 0;  // 0: never
  uint32_t read_epoch = 0;
  uint32_t write_time = 0;  // Warp::sync_time of the writer
  uint32_t read_time = 0;   // latest of the readers
  uint32_t read_lanes = 0;  // of read_warp, in read_epoch
  uint16_t write_warp = 0;
  uint16_t read_warp = 0;
  uint16_t write_op = 0;
  uint16_t read_op = 0;
  uint8_t write_lane = 0;
  uint8_t flags = 0;
};

enum class AccessKind : uint8_t { kRead, kWrite, kAtomic };

/// Cells of a range of memory: one a 4-byte word, or one a byte for words that were ever accessed
/// in part.
class CellRange {
 public:
  void reset(size_t bytes);
  /// Checks and records an access of one lane at `offset` of the range.
  void access(Warp& warp, int lane, size_t offset, uint32_t bytes, AccessKind kind,
              bool shared);

 private:
  Cell* split(size_t word);

  struct FreeDeleter {
    void operator()(Cell* cells) const;
  };
  size_t words_ = 0;
  std::unique_ptr<Cell[], FreeDeleter> cells_;
  std::unique_ptr<Cell[], FreeDeleter> byte_cells_;  // 4 a word, made when first needed
};

/// Shared memory of a block: races, bytes nobody wrote, and destinations of copies under way.
class SharedShadow {
 public:
  enum ByteState : uint8_t { kUnwritten = 0, kWritten = 1, kPending = 2 };

  void reset(size_t bytes);  // at the start of a block
  void access(Warp& warp, int lane, uint32_t offset, uint32_t bytes, AccessKind kind);
  /// A cp.async will write here some time before its wait.
  void begin_copy(Warp& warp, int lane, uint32_t offset, uint32_t bytes);
  void finish_copy(Warp& warp, int lane, uint32_t offset, uint32_t bytes);

 private:
  CellRange cells_;
  std::vector<uint8_t> state_;
};

/// Registered buffers, by the address of their first byte.
class GlobalShadow {
 public:
  void access(Warp& warp, int lane, const char* begin, size_t size, const char* address,
              uint32_t bytes, AccessKind kind);

 private:
  std::unordered_map<const char*, CellRange> ranges_;
  const char* last_begin_ = nullptr;
  CellRange* last_ = nullptr;
};

}  // namespace rillkv::ptx
