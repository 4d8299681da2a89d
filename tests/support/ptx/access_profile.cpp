#include "tests/support/ptx/access_profile.h"

#include <algorithm>
#include <set>

namespace rillkv::ptx {
namespace {

constexpr uint32_t kBanks = 32;
constexpr uint32_t kBankBytes = 4;
constexpr uint32_t kSectorBytes = 32;

}  // namespace

AccessProfile::AccessProfile(const Program& program)
    : program_(program), shared_(program.site_ops.size()), global_(program.site_ops.size()) {}

void AccessProfile::shared_access(int site, uint32_t active, const uint32_t* at, uint32_t bytes) {
  Counters& counters = shared_[static_cast<size_t>(site)];
  ++counters.executions;
  const int lanes_a_pass = bytes <= kBankBytes ? kLanes : static_cast<int>(128 / bytes);
  for (int first = 0; first < kLanes; first += lanes_a_pass) {
    // Different words of one bank need a pass each; equal words are broadcast.
    uint32_t words[kLanes * 4];
    size_t count = 0;
    for (int lane = first; lane < first + lanes_a_pass; ++lane) {
      if ((active >> lane & 1) == 0) continue;
      const uint32_t last = (at[lane] + bytes - 1) / kBankBytes;
      for (uint32_t word = at[lane] / kBankBytes; word <= last; ++word) words[count++] = word;
    }
    if (count == 0) continue;
    std::sort(words, words + count);
    count = static_cast<size_t>(std::unique(words, words + count) - words);
    uint32_t load[kBanks] = {};
    for (size_t i = 0; i < count; ++i) ++load[words[i] % kBanks];
    counters.cost += *std::max_element(load, load + kBanks);
    counters.minimum += (count + kBanks - 1) / kBanks;
  }
}

void AccessProfile::global_access(int site, uint32_t active, const uint64_t* at, uint32_t bytes) {
  Counters& counters = global_[static_cast<size_t>(site)];
  ++counters.executions;
  uint64_t starts[kLanes];
  size_t count = 0;
  for (int lane = 0; lane < kLanes; ++lane) {
    if ((active >> lane & 1) != 0) starts[count++] = at[lane];
  }
  std::sort(starts, starts + count);
  count = static_cast<size_t>(std::unique(starts, starts + count) - starts);
  uint64_t previous = ~uint64_t{0};
  for (size_t i = 0; i < count; ++i) {
    const uint64_t last = (starts[i] + bytes - 1) / kSectorBytes;
    for (uint64_t sector = starts[i] / kSectorBytes; sector <= last; ++sector) {
      if (sector != previous) ++counters.cost;
      previous = sector;
    }
  }
  counters.minimum += (count * bytes + kSectorBytes - 1) / kSectorBytes;
}

std::vector<SiteProfile> AccessProfile::results() const {
  std::vector<SiteProfile> list;
  for (size_t site = 0; site < program_.site_ops.size(); ++site) {
    SiteProfile profile;
    profile.source = program_.describe(program_.site_ops[site]);
    if (shared_[site].executions > 0) {
      profile.shared = true;
      profile.executions = shared_[site].executions;
      profile.wavefronts = shared_[site].cost;
      profile.min_wavefronts = shared_[site].minimum;
      list.push_back(profile);
    }
    if (global_[site].executions > 0) {
      SiteProfile global;
      global.source = profile.source;
      global.executions = global_[site].executions;
      global.sectors = global_[site].cost;
      global.min_sectors = global_[site].minimum;
      list.push_back(global);
    }
  }
  return list;
}

}  // namespace rillkv::ptx
