// Runs a few lines of PTX on arrays: what the tests of single instructions are written with.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#include "tests/support/ptx/executor.h"

namespace rillkv::ptx {

inline const char* const kPtxHeader = ".version 8.0\n.target sm_80\n.address_size 64\n";

/// The PTX type of registers and memory that hold a C++ type.
template <typename T>
std::string ptx_type() {
  if (std::is_same_v<T, float>) return "f32";
  if (std::is_same_v<T, double>) return "f64";
  return "b" + std::to_string(8 * sizeof(T));
}

/// An entry `name` with pointer parameters p0 .. p<count-1>, loaded into %p0 ..., the thread's
/// index in the grid in %i (32 bits) and the scratch registers %r, %rd, %rs, %f, %pr 0 to 19.
inline std::string entry_text(const std::string& name, int pointers, const std::string& body,
                              const std::string& declarations = "") {
  std::string params;
  std::string loads;
  for (int i = 0; i < pointers; ++i) {
    const std::string n = std::to_string(i);
    params += i > 0 ? ", " : "";
    params += ".param .u64 p";
    params += n;
    loads += "ld.param.u64 %p" + n;
    loads += ", [p" + n + "];\n";
  }
  return std::string(kPtxHeader) + declarations + "\n.visible .entry " + name + "(" + params +
         ")\n{\n.reg .b64 %p<8>; .reg .b32 %i; .reg .b32 %r<20>; .reg .b64 %rd<20>;\n"
         ".reg .b16 %rs<20>; .reg .f32 %f<20>; .reg .f64 %fd<20>; .reg .pred %pr<20>;\n" +
         loads +
         "mov.u32 %r18, %ctaid.x; mov.u32 %r19, %ntid.x; mov.u32 %i, %tid.x;\n"
         "mad.lo.s32 %i, %r18, %r19, %i;\n" +
         body + "\nret;\n}\n";
}

/// Runs `lines` once a row: %a, %b and %c hold the row's inputs (registers of A, B and C), and %d
/// (of D) becomes the result.
template <typename D, typename A, typename B = uint32_t, typename C = uint32_t>
std::vector<D> run_rows(const std::string& lines, const std::vector<A>& a,
                        const std::vector<B>& b = {}, const std::vector<C>& c = {}) {
  const auto declare = [](const char* name, const std::string& type) {
    return ".reg ." + type + " " + name + ";\n";
  };
  const auto address = [](const char* pointer, size_t size) {
    return "mul.wide.u32 %rd1, %i, " + std::to_string(size) + "; add.s64 %rd1, %rd1, " + pointer +
           ";\n";
  };
  std::string body = declare("%a", ptx_type<A>()) + declare("%b", ptx_type<B>()) +
                     declare("%c", ptx_type<C>()) + declare("%d", ptx_type<D>());
  body +=
      "ld.param.u64 %rd0, [p4]; ld.global.u32 %r0, [%rd0]; setp.ge.u32 %pr0, %i, %r0;\n@%pr0 "
      "ret;\n";
  body += address("%p0", sizeof(A)) + "ld.global." + ptx_type<A>() + " %a, [%rd1];\n";
  if (!b.empty())
    body += address("%p1", sizeof(B)) + "ld.global." + ptx_type<B>() + " %b, [%rd1];\n";
  if (!c.empty())
    body += address("%p2", sizeof(C)) + "ld.global." + ptx_type<C>() + " %c, [%rd1];\n";
  body += lines + "\n" + address("%p3", sizeof(D)) + "st.global." + ptx_type<D>() + " [%rd1], %d;";
  const Module module = Module::parse(entry_text("rows", 5, body));
  DeviceBuffer<A> da(a);
  DeviceBuffer<B> db(b);
  DeviceBuffer<C> dc(c);
  DeviceBuffer<D> dd(a.size());
  DeviceBuffer<uint32_t> count(std::vector<uint32_t>{static_cast<uint32_t>(a.size())});
  const uint32_t threads = 96;
  Launcher(module, "rows")
      .grid({static_cast<uint32_t>((a.size() + threads - 1) / threads)})
      .block({threads})
      .seed(5)
      .run(da.data(), db.data(), dc.data(), dd.data(), count.data());
  return dd.to_vector();
}

/// Random bits, mixed with the values where arithmetic goes wrong first.
template <typename T>
std::vector<T> interesting_integers(size_t count, uint64_t seed) {
  std::mt19937_64 random(seed);
  const T edges[] = {T(0),
                     T(1),
                     T(-1),
                     T(T(1) << (8 * sizeof(T) - 1)),
                     T(~(T(1) << (8 * sizeof(T) - 1))),
                     T(2),
                     T(31),
                     T(32),
                     T(33),
                     T(255)};
  std::vector<T> values(count);
  for (T& v : values) {
    const uint64_t bits = random();
    v = bits % 3 == 0 ? edges[(bits >> 8) % std::size(edges)] : static_cast<T>(bits >> 13);
  }
  return values;
}

}  // namespace rillkv::ptx
