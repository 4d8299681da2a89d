#include "tests/support/ptx/executor.h"

#include <algorithm>
#include <fstream>
#include <numeric>
#include <random>
#include <sstream>

#include "tests/support/ptx/block.h"
#include "tests/support/ptx/device.h"
#include "tests/support/ptx/module_data.h"

namespace rillkv::ptx {

// ---- modules ----

ModuleMemory::ModuleMemory(const std::vector<Variable>& variables) {
  for (const Variable& v : variables) {
    if (v.space != Space::kGlobal && v.space != Space::kConst) continue;
    char* memory = static_cast<char*>(allocate_device_memory(v.bytes));
    std::memset(memory, 0, v.bytes);
    std::copy_n(v.initial.begin(), std::min<size_t>(v.initial.size(), v.bytes), memory);
    if (v.space == Space::kConst) register_memory(memory, v.bytes, false);
    addresses_[v.name] = memory;
  }
}

ModuleMemory::~ModuleMemory() {
  for (const auto& [name, address] : addresses_) free_device_memory(address);
}

const char* ModuleMemory::find(const std::string& name) const {
  const auto found = addresses_.find(name);
  return found == addresses_.end() ? nullptr : found->second;
}

Module Module::parse(const std::string& text, const std::string& name) {
  Module module;
  module.data_ = std::make_shared<ModuleData>(parse_ptx(text, name));
  return module;
}

Module Module::load(const std::string& path) {
  static std::mutex mutex;
  static std::map<std::string, Module> cache;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = cache.find(path);
  if (found != cache.end()) return found->second;
  std::ifstream file(path, std::ios::binary);
  if (!file) throw ModuleError("cannot read the PTX file '" + path + "'");
  std::ostringstream text;
  text << file.rdbuf();
  const size_t slash = path.find_last_of('/');
  return cache[path] =
             parse(text.str(), slash == std::string::npos ? path : path.substr(slash + 1));
}

std::vector<std::string> Module::entries() const {
  std::vector<std::string> names;
  for (const auto& [name, function] : data_->tree.functions) {
    if (function.is_entry) names.push_back(name);
  }
  return names;
}

bool Module::has_entry(const std::string& name) const {
  const auto found = data_->tree.functions.find(name);
  return found != data_->tree.functions.end() && found->second.is_entry;
}

std::shared_ptr<const Program> Module::program(const std::string& entry) const {
  if (!has_entry(entry)) {
    throw ModuleError(data_->tree.name + " has no entry '" + entry + "'");
  }
  const std::lock_guard<std::mutex> lock(data_->mutex);
  std::shared_ptr<const Program>& program = data_->programs[entry];
  if (!program) {
    const Function flat = inline_calls(data_->tree, data_->tree.functions.at(entry));
    program = decode(*data_, flat);
  }
  return program;
}

// ---- reports ----

bool Report::has(Finding::Kind kind) const {
  return std::any_of(findings.begin(), findings.end(),
                     [kind](const Finding& f) { return f.kind == kind; });
}

uint64_t Report::bank_conflicts() const {
  uint64_t sum = 0;
  for (const SiteProfile& site : sites) sum += site.wavefronts - site.min_wavefronts;
  return sum;
}

uint64_t Report::excess_sectors() const {
  uint64_t sum = 0;
  for (const SiteProfile& site : sites) sum += site.sectors - site.min_sectors;
  return sum;
}

std::string Report::to_string() const {
  static const char* const kNames[] = {"race",
                                       "uninitialised read",
                                       "pending copy",
                                       "out of bounds",
                                       "misaligned",
                                       "divergent barrier",
                                       "divergent collective",
                                       "bad lane",
                                       "trap",
                                       "runaway"};
  std::ostringstream out;
  for (const Finding& f : findings) {
    out << kNames[static_cast<int>(f.kind)] << ": " << f.message;
    if (f.count > 1) out << " (" << f.count << " times)";
    out << '\n';
  }
  for (const SiteProfile& site : sites) {
    out << site.source << ": " << site.executions << " x, ";
    if (site.shared) {
      out << site.wavefronts << " wavefronts (least " << site.min_wavefronts << ")\n";
    } else {
      out << site.sectors << " sectors (least " << site.min_sectors << ")\n";
    }
  }
  return out.str();
}

// ---- launching ----

Launcher::Launcher(Module module, std::string entry)
    : module_(std::move(module)), entry_(std::move(entry)) {}

Launcher& Launcher::grid(Dim3 grid) { return grid_ = grid, *this; }
Launcher& Launcher::block(Dim3 block) { return block_ = block, *this; }
Launcher& Launcher::shared(size_t bytes) { return shared_bytes_ = bytes, *this; }
Launcher& Launcher::seed(uint64_t seed) { return seed_ = seed, *this; }
Launcher& Launcher::profile(bool on) { return profile_ = on, *this; }
Launcher& Launcher::check(bool on) { return check_ = on, *this; }
Launcher& Launcher::instruction_limit(uint64_t limit) { return instruction_limit_ = limit, *this; }

Report Launcher::checked(Report report) {
  if (!report.findings.empty()) throw Fault(std::move(report));
  return report;
}

namespace {

constexpr uint64_t kMaxThreads = 1024;

std::vector<char> parameter_block(const Program& program,
                                  const std::vector<std::pair<const void*, size_t>>& args) {
  if (args.size() != program.params.size()) {
    throw ModuleError(program.name + " takes " + std::to_string(program.params.size()) +
                      " parameters, got " + std::to_string(args.size()));
  }
  std::vector<char> block(program.param_bytes);
  for (size_t i = 0; i < args.size(); ++i) {
    if (args[i].second != program.params[i].bytes) {
      throw ModuleError("parameter " + std::to_string(i) + " of " + program.name + " has " +
                        std::to_string(program.params[i].bytes) + " bytes, got " +
                        std::to_string(args[i].second));
    }
    std::memcpy(block.data() + program.params[i].offset, args[i].first, args[i].second);
  }
  return block;
}

}  // namespace

Report Launcher::collect_raw(const std::vector<std::pair<const void*, size_t>>& args) const {
  const std::shared_ptr<const Program> program = module_.program(entry_);
  const std::vector<char> params = parameter_block(*program, args);
  if (block_.count() == 0 || block_.count() > kMaxThreads || grid_.count() == 0) {
    throw ModuleError(entry_ + ": a launch of " + std::to_string(grid_.count()) + " blocks of " +
                      std::to_string(block_.count()) + " threads is impossible");
  }
  AccessProfile profile(*program);
  Findings findings(*program);
  Report report;
  Block block(*program, grid_, block_, shared_bytes_, params.data(), check_,
              profile_ ? &profile : nullptr, &findings, seed_);
  std::vector<uint64_t> executions(profile_ ? program->ops.size() : 0);
  if (profile_) block.executions = executions.data();
  std::vector<uint64_t> order(grid_.count());
  std::iota(order.begin(), order.end(), uint64_t{0});
  if (seed_ != 0) {
    std::mt19937_64 random(seed_);
    std::shuffle(order.begin(), order.end(), random);
  }
  try {
    for (const uint64_t i : order) {
      block.run({static_cast<uint32_t>(i % grid_.x), static_cast<uint32_t>(i / grid_.x % grid_.y),
                 static_cast<uint32_t>(i / grid_.x / grid_.y)},
                static_cast<int64_t>(instruction_limit_));
    }
    report.completed = true;
  } catch (const StopLaunch&) {  // a finding says why
    report.completed = false;
  }
  report.findings = findings.take();
  report.warp_instructions = static_cast<uint64_t>(block.instructions);
  if (profile_) report.sites = profile.results();
  for (size_t i = 0; i < executions.size(); ++i) {
    if (executions[i] > 0) report.opcodes[program->opcodes[i]] += executions[i];
  }
  return report;
}

void ExecutorDevice::launch(const KernelLaunch& launch) {
  for (const Module& module : modules_) {
    if (!module.has_entry(launch.entry)) continue;
    reports_.push_back(Launcher(module, launch.entry)
                           .grid(launch.grid)
                           .block(launch.block)
                           .shared(launch.shared_bytes)
                           .seed(seed_)
                           .profile(profile_)
                           .run_raw(launch.params, launch.params_bytes));
    return;
  }
  throw ModuleError("no PTX module has the entry '" + launch.entry + "'");
}

}  // namespace rillkv::ptx
