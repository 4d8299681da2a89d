// What a template may cost, and how it fails. A checkpoint's template is a program that a stranger
// wrote: it may loop, recurse and double its texts, but only so far.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <string>
#include <utility>

#include "rillkv/error.h"

namespace rillkv::io::jinja {

/// What goes wrong in a template. Template puts file and line in front and makes it an Error.
struct Failure : std::exception {
  explicit Failure(std::string text) : message(std::move(text)) {}
  const char* what() const noexcept override { return message.c_str(); }
  std::string message;
};

template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  throw Failure{str_cat(parts...)};
}

/// Of a template's own text: the largest known one is 17 KB.
constexpr size_t kMaxTemplateBytes = size_t{1} << 20;
/// Of expressions and blocks inside one another, and of operators in a row ("a + b + ...").
constexpr int kMaxSyntaxDepth = 200;
/// Of evaluation: syntax times macros that call themselves; some 2 KB of stack each.
constexpr int kMaxCallDepth = 700;
/// Of lists in lists.
constexpr int kMaxValueDepth = 100;
/// Of any one text, the output included.
constexpr size_t kMaxTextBytes = size_t{64} << 20;
/// Of any one list.
constexpr size_t kMaxItems = 1'000'000;
/// A unit is a node of syntax visited, a quarter of a list element or 16 bytes of text made or
/// looked through: a few seconds and a few hundred megabytes in all.
constexpr int64_t kMaxSteps = 20'000'000;

/// Counts down what a template may still do.
class Budget {
 public:
  void steps(size_t count) {
    if (count > left_) fail("the template takes more than ", kMaxSteps, " steps");
    left_ -= count;
  }
  /// Before `bytes` of text are made or looked through.
  void text(size_t bytes) {
    if (bytes > kMaxTextBytes) fail("the template makes a text of over ", kMaxTextBytes, " bytes");
    steps(1 + bytes / 16);
  }
  /// Before a list of `count` elements is made.
  void items(size_t count) {
    if (count > kMaxItems) fail("the template makes a list of over ", kMaxItems, " elements");
    steps(4 * count);
  }

 private:
  size_t left_ = kMaxSteps;
};

/// Counts nesting while it lives.
class Nesting {
 public:
  Nesting(int& depth, int most) : depth_(depth) {
    if (depth_ >= most) fail("nested deeper than ", most, " levels");
    ++depth_;
  }
  ~Nesting() { --depth_; }
  Nesting(const Nesting&) = delete;
  Nesting& operator=(const Nesting&) = delete;

 private:
  int& depth_;
};

}  // namespace rillkv::io::jinja
