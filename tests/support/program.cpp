#include "tests/support/program.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <stdexcept>
#include <thread>

#include "rillkv/files.h"
#include "tests/support/temporary_folder.h"

namespace rillkv::testing {
namespace {

void redirect(const std::string& path, int target) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  ::dup2(fd, target);
  ::close(fd);
}

bool has_content(const std::string& path) {
  std::error_code error;
  const auto size = std::filesystem::file_size(path, error);
  return !error && size > 0;
}

}  // namespace

ProgramResult run_program(const std::string& name, const std::vector<std::string>& arguments,
                          const std::string& interrupt_when) {
  const TemporaryFolder folder;
  const std::string program = std::string(RILLKV_BINARY_DIR) + "/" + name;
  const std::string out = folder.file("out"), err = folder.file("err");
  std::vector<std::string> words{program};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> pointers;
  for (std::string& word : words) pointers.push_back(word.data());
  pointers.push_back(nullptr);

  const pid_t child = ::fork();
  if (child < 0) throw std::runtime_error("cannot fork");
  if (child == 0) {
    redirect(out, STDOUT_FILENO);
    redirect(err, STDERR_FILENO);
    ::execv(program.c_str(), pointers.data());
    ::_exit(127);
  }
  int status = 0;
  bool interrupted = interrupt_when.empty();
  while (::waitpid(child, &status, interrupted ? 0 : WNOHANG) == 0) {
    if (has_content(interrupt_when)) {
      ::kill(child, SIGINT);
      interrupted = true;
    } else {
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
  }
  ProgramResult result;
  result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  result.out = read_file(out);
  result.err = read_file(err);
  return result;
}

}  // namespace rillkv::testing
