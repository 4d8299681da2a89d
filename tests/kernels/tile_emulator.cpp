// Encodings and meaning: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2,
// "Intel AMX". All are VEX instructions of map 0F38:
//
//   prefix  opcode  mod.reg.rm
//   none    49      memory        ldtilecfg          none  49  11.000.000  tilerelease
//   F2      49      11.T.000      tilezero T
//   F2      4B      memory, T     tileloadd T        66    4B  memory, T   tileloaddt1 T
//   F3      4B      memory, T     tilestored T
//   F3      5C      11.C.A, B     tdpbf16ps C A B    F2    5E  11.C.A, B   tdpbssd C A B
#include "tests/kernels/tile_emulator.h"

#include <signal.h>
#include <ucontext.h>
#include <unistd.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>

namespace rillkv::test {
namespace {

struct Tile {
  int rows = 0, row_bytes = 0;
  uint32_t words[16][16] = {};
};
thread_local bool configured = false;
thread_local Tile tiles[8];
thread_local int64_t count = 0;

/// Async-signal-safe, unlike a failed expectation.
[[noreturn]] void refuse(const char* why) {
  constexpr char kPrefix[] = "tile emulator: ";
  static_cast<void>(!write(2, kPrefix, sizeof kPrefix - 1));
  static_cast<void>(!write(2, why, std::strlen(why)));
  static_cast<void>(!write(2, "\n", 1));
  _exit(132);
}

struct Instruction {
  int prefix;  // 0 none, 1 = 66, 2 = F3, 3 = F2
  int opcode, mod, reg, rm, vvvv;
  uint8_t* memory;     // of the operand without the index, if mod < 3
  size_t index;        // register times scale: a tile's stride
  const uint8_t* end;  // of the instruction
};

#if defined(__x86_64__)
/// The register that encoding number `n` names.
uint64_t value_of(const ucontext_t& context, int n) {
  constexpr int kOrder[] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                            REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
  return static_cast<uint64_t>(context.uc_mcontext.gregs[kOrder[n]]);
}

int32_t displacement(const uint8_t* p) {
  int32_t x = 0;
  std::memcpy(&x, p, sizeof x);
  return x;
}

/// False if it is no VEX instruction of map 0F38 that AMX could be.
bool decode(const ucontext_t& context, Instruction& out) {
  const auto* p = reinterpret_cast<const uint8_t*>(context.uc_mcontext.gregs[REG_RIP]);
  if (p[0] != 0xc4 || (p[1] & 0x1f) != 2 || (p[2] & 0x84) != 0) return false;  // W = L = 0
  const int high_index = (p[1] & 0x40) != 0 ? 0 : 8, high_base = (p[1] & 0x20) != 0 ? 0 : 8;
  out.prefix = p[2] & 3;
  out.vvvv = ~(p[2] >> 3) & 15;
  out.opcode = p[3];
  const int modrm = p[4];
  out.mod = modrm >> 6;
  out.reg = modrm >> 3 & 7;
  out.rm = modrm & 7;
  out.memory = nullptr;
  out.index = 0;
  p += 5;
  if (out.opcode != 0x49 && out.opcode != 0x4b && out.opcode != 0x5c && out.opcode != 0x5e)
    return false;
  if (out.mod < 3) {
    uint64_t address = 0;
    bool relative = false, no_base = false;
    if (out.rm == 4) {
      const int sib = *p++, index = (sib >> 3 & 7) + high_index, base = sib & 7;
      if (index != 4) out.index = static_cast<size_t>(value_of(context, index) << (sib >> 6));
      no_base = base == 5 && out.mod == 0;
      if (!no_base) address = value_of(context, base + high_base);
    } else if (out.rm == 5 && out.mod == 0) {
      relative = no_base = true;
    } else {
      address = value_of(context, out.rm + high_base);
    }
    if (out.mod == 1) {
      address += static_cast<uint64_t>(static_cast<int64_t>(static_cast<int8_t>(*p++)));
    } else if (out.mod == 2 || no_base) {
      address += static_cast<uint64_t>(static_cast<int64_t>(displacement(p)));
      p += 4;
    }
    if (relative) address += reinterpret_cast<uint64_t>(p);
    out.memory = reinterpret_cast<uint8_t*>(address);
  }
  out.end = p;
  return true;
}

float number(uint32_t bits) {  // subnormal operands count as zero
  if ((bits & 0x7f800000u) == 0) bits &= 0x80000000u;
  float x = 0;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

/// Shapes of C += A B: C is M x N dwords, A is M x K, B is K x N.
void check_shapes(const Tile& c, const Tile& a, const Tile& b) {
  if (a.rows != c.rows || b.row_bytes != c.row_bytes || a.row_bytes != 4 * b.rows) {
    refuse("a product of tiles whose shapes do not fit");
  }
}

void multiply_bfloat16(Tile& c, const Tile& a, const Tile& b) {
  check_shapes(c, a, b);
  for (int m = 0; m < c.rows; ++m) {
    float even[16] = {}, odd[16] = {};
    for (int k = 0; k < b.rows; ++k) {
      const float x = number(a.words[m][k] << 16), y = number(a.words[m][k] & 0xffff0000u);
      for (int n = 0; n < 16; ++n) {
        even[n] += x * number(b.words[k][n] << 16);
        odd[n] += y * number(b.words[k][n] & 0xffff0000u);
      }
    }
    for (int n = 0; n < c.row_bytes / 4; ++n) {
      float sum = 0;
      std::memcpy(&sum, &c.words[m][n], sizeof sum);
      sum = sum + even[n] + odd[n];
      std::memcpy(&c.words[m][n], &sum, sizeof sum);
    }
  }
}

void multiply_bytes(Tile& c, const Tile& a, const Tile& b) {
  check_shapes(c, a, b);
  const auto byte = [](uint32_t word, int i) {
    return static_cast<int32_t>(static_cast<int8_t>(word >> 8 * i));
  };
  for (int m = 0; m < c.rows; ++m) {
    for (int n = 0; n < c.row_bytes / 4; ++n) {
      for (int k = 0; k < b.rows; ++k) {
        for (int i = 0; i < 4; ++i) {
          c.words[m][n] += static_cast<uint32_t>(byte(a.words[m][k], i) * byte(b.words[k][n], i));
        }
      }
    }
  }
}

void configure(const uint8_t* at) {
  if (at[0] != 1) refuse("a configuration of another palette than 1");
  configured = true;
  for (int t = 0; t < 8; ++t) {
    uint16_t bytes = 0;
    std::memcpy(&bytes, at + 16 + 2 * t, sizeof bytes);
    tiles[t] = {};
    tiles[t].row_bytes = bytes;
    tiles[t].rows = at[48 + t];
    if (bytes > 64 || bytes % 4 != 0 || tiles[t].rows > 16) refuse("a tile larger than 16 x 64");
  }
}

void load(Tile& tile, const uint8_t* from, size_t stride) {
  std::memset(tile.words, 0, sizeof tile.words);
  for (int r = 0; r < tile.rows; ++r) {
    std::memcpy(tile.words[r], from + static_cast<size_t>(r) * stride,
                static_cast<size_t>(tile.row_bytes));
  }
}

void store(const Tile& tile, uint8_t* to, size_t stride) {
  for (int r = 0; r < tile.rows; ++r) {
    std::memcpy(to + static_cast<size_t>(r) * stride, tile.words[r],
                static_cast<size_t>(tile.row_bytes));
  }
}

/// False if it is no instruction of the tile unit.
bool execute(const Instruction& i) {
  const bool memory = i.mod < 3;
  if (i.opcode == 0x49 && i.prefix == 0 && memory && i.reg == 0) {
    configure(i.memory + i.index);
    return true;
  }
  if (i.opcode == 0x49 && i.prefix == 0 && !memory && i.reg == 0 && i.rm == 0) {
    configured = false;
    return true;
  }
  if (!configured) refuse("a tile instruction without a configuration");
  Tile& tile = tiles[i.reg];
  if (i.opcode == 0x49 && i.prefix == 3 && !memory && i.rm == 0) {
    std::memset(tile.words, 0, sizeof tile.words);
  } else if (i.opcode == 0x4b && (i.prefix == 3 || i.prefix == 1) && memory) {
    load(tile, i.memory, i.index);
  } else if (i.opcode == 0x4b && i.prefix == 2 && memory) {
    store(tile, i.memory, i.index);
  } else if (i.opcode == 0x5c && i.prefix == 2 && !memory && i.vvvv < 8) {
    multiply_bfloat16(tile, tiles[i.rm], tiles[i.vvvv]);
  } else if (i.opcode == 0x5e && i.prefix == 3 && !memory && i.vvvv < 8) {
    multiply_bytes(tile, tiles[i.rm], tiles[i.vvvv]);
  } else {
    return false;
  }
  return true;
}

void handle(int /*signal*/, siginfo_t* /*info*/, void* context) {
  auto& state = *static_cast<ucontext_t*>(context);
  Instruction instruction{};
  if (!decode(state, instruction) || !execute(instruction)) {
    struct sigaction by_default = {};
    by_default.sa_handler = SIG_DFL;
    sigaction(SIGILL, &by_default, nullptr);  // and the instruction faults again
    return;
  }
  ++count;
  state.uc_mcontext.gregs[REG_RIP] = reinterpret_cast<greg_t>(instruction.end);
}

void install() {
  struct sigaction action = {};
  action.sa_sigaction = handle;
  // SA_NODEFER: a fault inside the handler ends the process instead of hanging it.
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  sigemptyset(&action.sa_mask);
  if (sigaction(SIGILL, &action, nullptr) != 0) refuse("no handler for SIGILL");
}
#else
void install() { refuse("written for x86-64"); }
#endif

}  // namespace

void emulate_tiles() {
  static const bool installed = (install(), true);
  static_cast<void>(installed);
}

int64_t emulated_tile_instructions() { return count; }

}  // namespace rillkv::test
