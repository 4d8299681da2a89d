#include "core/cpu_quota.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <sstream>
#include <string_view>
#include <vector>

namespace rillkv {
namespace {

/// Where control groups are visible: the group `group` and those below it, as folders of `folder`.
struct Mount {
  bool v2 = false;
  std::string group;
  std::string folder;
};

std::optional<int64_t> to_number(std::string_view text) {
  int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

bool has_item(const std::string& list, std::string_view wanted) {
  std::istringstream items(list);
  for (std::string item; std::getline(items, item, ',');) {
    if (item == wanted) return true;
  }
  return false;
}

/// mountinfo writes white space and backslashes as \ooo.
std::string unescaped(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto digit = [&](size_t k) { return i + k < text.size() ? text[i + k] - '0' : -1; };
    const bool escape = text[i] == '\\' && digit(1) >= 0 && digit(1) <= 3 && digit(2) >= 0 &&
                        digit(2) <= 7 && digit(3) >= 0 && digit(3) <= 7;
    out += escape ? static_cast<char>(digit(1) * 64 + digit(2) * 8 + digit(3)) : text[i];
    if (escape) i += 3;
  }
  return out;
}

/// 36 35 98:0 GROUP FOLDER OPTIONS OPTIONAL... - TYPE SOURCE SUPER_OPTIONS
std::vector<Mount> cpu_mounts(const std::string& root) {
  std::vector<Mount> mounts;
  std::ifstream file(root + "/proc/self/mountinfo");
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string skipped, group, folder, type, source, options;
    words >> skipped >> skipped >> skipped >> group >> folder;
    while (words >> skipped && skipped != "-") {
    }
    words >> type >> source >> options;
    const bool v2 = type == "cgroup2";
    if (v2 || (type == "cgroup" && has_item(options, "cpu"))) {
      mounts.push_back({v2, unescaped(group), unescaped(folder)});
    }
  }
  return mounts;
}

/// This process's group in the hierarchy of version 2 or in version 1's of the controller cpu.
std::optional<std::string> own_group(const std::string& root, bool v2) {
  std::ifstream file(root + "/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {  // HIERARCHY:CONTROLLERS:GROUP
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const bool match =
        v2 ? line.substr(0, first) == "0" && controllers.empty() : has_item(controllers, "cpu");
    if (match) return line.substr(second + 1);
  }
  return std::nullopt;
}

/// The path of `group` below a mount's folder: "" or "/...". A container may name its group as the
/// host does while its mount shows that group itself: then the folder is all there is.
std::string below(const Mount& mount, const std::string& group) {
  const std::string top = mount.group == "/" ? "" : mount.group;
  const bool inside = group.compare(0, top.size(), top) == 0 &&
                      (group.size() == top.size() || group[top.size()] == '/');
  std::string path = inside ? group.substr(top.size()) : "";
  while (!path.empty() && path.back() == '/') path.pop_back();
  return (path + "/").find("/../") == std::string::npos ? path : "";
}

std::optional<int64_t> cores(std::optional<int64_t> quota, std::optional<int64_t> period) {
  if (!quota || !period || *quota <= 0 || *period <= 0) return std::nullopt;  // -1: no limit
  return std::max<int64_t>(1, *quota / *period);
}

std::optional<int64_t> quota_of_group(const std::string& folder, bool v2) {
  const auto first_words = [&](const char* name) {
    std::ifstream file(folder + name);
    std::string first, second;
    file >> first >> second;
    return std::make_pair(to_number(first), to_number(second));
  };
  if (v2) {  // "max 100000": no number, no limit
    const auto [quota, period] = first_words("/cpu.max");
    return cores(quota, period);
  }
  return cores(first_words("/cpu.cfs_quota_us").first, first_words("/cpu.cfs_period_us").first);
}

}  // namespace

std::optional<int64_t> cpu_quota_cores(const std::string& root) {
  std::optional<int64_t> least;
  for (const Mount& mount : cpu_mounts(root)) {
    const std::optional<std::string> group = own_group(root, mount.v2);
    if (!group) continue;
    const std::string folder = root + mount.folder;
    for (std::string path = below(mount, *group);; path.resize(path.rfind('/'))) {
      const auto found = quota_of_group(folder + path, mount.v2);
      if (found && (!least || *found < *least)) least = found;
      if (path.empty()) break;
    }
  }
  return least;
}

}  // namespace rillkv
