// has_isa NAME: 0 if this machine can run the kernels of that instruction set, 1 if it cannot.
#include "kernels/cpu/kernels.h"

int main(int argc, char** argv) {
  return argc == 2 && rillkv::kernels::cpu::find_kernels(argv[1]) != nullptr ? 0 : 1;
}
