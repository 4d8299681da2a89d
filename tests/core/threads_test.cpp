// How many threads: quotas of made-up control groups, and what this machine says.
#include "rillkv/threads.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <stdlib.h>

#include <optional>
#include <string>

#include "core/cpu_quota.h"
#include "tests/support/temporary_folder.h"

namespace rillkv {
namespace {

constexpr std::nullopt_t kNone = std::nullopt;

/// A root folder with the files that the kernel would show.
class CpuQuota : public ::testing::Test {
 protected:
  void groups(const std::string& text) { root_.write("proc/self/cgroup", text); }
  void mounts(const std::string& text) {
    root_.write("proc/self/mountinfo",
                "21 1 259:1 / / rw,relatime shared:1 - ext4 /dev/root rw\n"
                "22 21 0:20 / /proc rw,nosuid - proc proc rw\n" +
                    text);
  }
  /// A group of version 2 mounted at /sys/fs/cgroup.
  void v2(const std::string& group = "/") {
    mounts("30 21 0:26 " + group + " /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n");
  }
  void limit(const std::string& group, const std::string& cpu_max) {
    root_.write("sys/fs/cgroup" + group + "/cpu.max", cpu_max);
  }
  void limit_v1(const std::string& folder, const std::string& quota, const std::string& period) {
    root_.write(folder + "/cpu.cfs_quota_us", quota);
    root_.write(folder + "/cpu.cfs_period_us", period);
  }
  std::optional<int64_t> quota() const { return cpu_quota_cores(root_.path()); }

  testing::TemporaryFolder root_;
};

TEST_F(CpuQuota, NothingIsNoQuota) {
  EXPECT_EQ(quota(), kNone);
  EXPECT_EQ(cpu_quota_cores(root_.file("missing")), kNone);
  groups("0::/a\n");
  EXPECT_EQ(quota(), kNone);
  v2();
  EXPECT_EQ(quota(), kNone);
}

TEST_F(CpuQuota, Version2) {
  groups("0::/a/b/c\n");
  v2();
  limit("/a/b/c", "250000 100000\n");
  EXPECT_EQ(quota(), 2);
  limit("/a/b/c", "50000 100000\n");  // less than a core is one
  EXPECT_EQ(quota(), 1);
  limit("/a/b/c", "max 100000\n");
  EXPECT_EQ(quota(), kNone);
  limit("/a/b/c", "300000 100000\n");
  EXPECT_EQ(quota(), 3);
  limit("/a/b", "max 100000\n");
  EXPECT_EQ(quota(), 3);
  limit("/a", "400000 200000\n");  // any level up
  EXPECT_EQ(quota(), 2);
  limit("", "100000 100000\n");  // the mount's own, as in a container
  EXPECT_EQ(quota(), 1);
  limit("/a/other", "1 100000\n");
  limit("/a/b/c/below", "1 100000\n");
  groups("0::/a\n");
  limit("", "max 100000\n");
  EXPECT_EQ(quota(), 2);
}

TEST_F(CpuQuota, ContainersWithAndWithoutANamespace) {
  limit("", "200000 100000\n");
  // A namespace of its own: the group is the root, wherever the host has it.
  groups("0::/\n");
  v2();
  EXPECT_EQ(quota(), 2);
  // Without: the group is named as on the host, and the mount begins there.
  groups("0::/machine/box\n");
  v2("/machine/box");
  EXPECT_EQ(quota(), 2);
  groups("0::/machine/box/inner\n");
  limit("/inner", "100000 100000\n");
  EXPECT_EQ(quota(), 1);
  // A name that the mount does not have, or outside of it: the mount's own group.
  groups("0::/machine/boxes\n");
  EXPECT_EQ(quota(), 2);
  groups("0::/../../elsewhere\n");
  v2();
  EXPECT_EQ(quota(), 2);
  groups("0::/not/there\n");
  EXPECT_EQ(quota(), 2);
}

TEST_F(CpuQuota, Version1) {
  groups("12:cpuset:/x\n4:cpu,cpuacct:/a/b\n1:name=systemd:/y\n");
  mounts(
      "31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw shared:5 master:2 - cgroup cgroup "
      "rw,cpu,cpuacct\n"
      "32 30 0:28 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n");
  const std::string folder = "sys/fs/cgroup/cpu,cpuacct";
  limit_v1("sys/fs/cgroup/cpuset/x", "100000", "100000");  // another controller's
  EXPECT_EQ(quota(), kNone);
  limit_v1(folder + "/a/b", "-1\n", "100000\n");
  EXPECT_EQ(quota(), kNone);
  limit_v1(folder + "/a/b", "350000\n", "50000\n");
  EXPECT_EQ(quota(), 7);
  limit_v1(folder + "/a", "150000\n", "50000\n");
  EXPECT_EQ(quota(), 3);
}

TEST_F(CpuQuota, BothVersionsAtOnce) {
  groups("4:cpu:/a\n0::/b\n");
  mounts(
      "31 30 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
      "33 30 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n");
  limit_v1("sys/fs/cgroup/cpu/a", "200000", "100000");
  EXPECT_EQ(quota(), 2);
  root_.write("sys/fs/cgroup/unified/b/cpu.max", "100000 100000");
  EXPECT_EQ(quota(), 1);
}

TEST_F(CpuQuota, FoldersWithSpaces) {
  groups("0::/my group\n");
  mounts("30 21 0:26 / /sys/fs/my\\040cgroup rw - cgroup2 cgroup2 rw\n");
  root_.write("sys/fs/my cgroup/my group/cpu.max", "200000 100000");
  EXPECT_EQ(quota(), 2);
}

TEST_F(CpuQuota, GarbageIsNoQuota) {
  v2();
  groups("0::/a\n");
  for (const char* text :
       {"", "\n", "100000", "100000 \n", "x y", "-5 100000", "100000 0", "100000 -1", "0 100000",
        "1e5 100000", "99999999999999999999 1", "100000 99999999999999999999", "max", "\xff\xfe"}) {
    limit("/a", text);
    EXPECT_EQ(quota(), kNone) << text;
  }
  limit("/a", "9223372036854775807 1");
  EXPECT_EQ(quota(), INT64_MAX);
  limit("/a", "200000 100000");
  for (const char* text : {"", "\n\n", "0", "0:", ":", "::", "0:x:/a", "1::/a", "x::/a"}) {
    groups(text);
    EXPECT_EQ(quota(), kNone) << text;
  }
  groups("garbage\n0::/a");
  EXPECT_EQ(quota(), 2);
  for (const char* text :
       {"", " \n", "30 21 0:26 / /sys/fs/cgroup", "- - - -", "a b c d e f - cgroup",
        "30 21 0:26 / /sys/fs/cgroup rw cgroup2 cgroup2 rw"}) {
    mounts(text);
    EXPECT_EQ(quota(), kNone) << text;
  }
  mounts("30 21 0:26 / /sys/fs/cgroup\\04 rw - cgroup2 cgroup2 rw");  // no such escape
  EXPECT_EQ(quota(), kNone);
}

TEST(AvailableCores, AtMostTheAffinityMask) {
  cpu_set_t before;
  ASSERT_EQ(sched_getaffinity(0, sizeof before, &before), 0);
  const int all = available_cores();
  EXPECT_GE(all, 1);
  EXPECT_LE(all, CPU_COUNT(&before));
  cpu_set_t one;
  CPU_ZERO(&one);
  for (int cpu = 0; cpu < CPU_SETSIZE && CPU_COUNT(&one) == 0; ++cpu) {
    if (CPU_ISSET(cpu, &before)) CPU_SET(cpu, &one);
  }
  ASSERT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
  EXPECT_EQ(available_cores(), 1);
  ASSERT_EQ(sched_setaffinity(0, sizeof before, &before), 0);
  EXPECT_EQ(available_cores(), all);
}

TEST(DefaultThreads, OmpNumThreadsDecides) {
  const int before = at::get_num_threads();
  const char* set = getenv("OMP_NUM_THREADS");
  const std::string saved = set != nullptr ? set : "";
  const int more = available_cores() + 3;  // not many: Torch makes them at once
  at::set_num_threads(more);
  setenv("OMP_NUM_THREADS", std::to_string(more).c_str(), 1);
  EXPECT_EQ(default_threads(), more);
  setenv("OMP_NUM_THREADS", "", 1);
  EXPECT_EQ(default_threads(), available_cores());
  unsetenv("OMP_NUM_THREADS");
  EXPECT_EQ(default_threads(), available_cores());
  at::set_num_threads(1);  // Torch's own choice may be less
  EXPECT_EQ(default_threads(), 1);
  if (set != nullptr) setenv("OMP_NUM_THREADS", saved.c_str(), 1);
  at::set_num_threads(before);
}

}  // namespace
}  // namespace rillkv
