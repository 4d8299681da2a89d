#!/usr/bin/env python3
"""Says what a machine with a GPU has of what scripts/gpu_check.sh uses: one line each, and fails if
something is missing without which the rest cannot run.

usage: gpu_environment.py --bin DIR [--dry-run]
"""
import argparse
import pathlib
import re
import shutil
import subprocess
import sys


def first_line(command):
    """The first line with a version that a command prints; None if there is no such command."""
    program = shutil.which(command[0]) or shutil.which(command[0], path="/usr/local/cuda/bin")
    if program is None:
        return None
    result = subprocess.run([program, *command[1:]], capture_output=True, text=True, check=False, timeout=20)
    lines = [line for line in result.stdout.splitlines() if re.search(r"\d+\.\d+", line)]
    return lines[0].strip() if lines else f"exit status {result.returncode}"


def missing_libraries(programs):
    """["program: library"] of what the dynamic linker does not find."""
    found = []
    for program in programs:
        result = subprocess.run(["ldd", program], capture_output=True, text=True, check=False, timeout=60)
        found += [f"{program.name}: {line.split('=>')[0].strip()}"
                  for line in result.stdout.splitlines() if "not found" in line]
        if result.returncode != 0:
            found.append(f"{program.name}: {result.stderr.strip() or 'ldd failed'}")
    return found


def torch_problems(built):
    """Of the Python package that brings LibTorch."""
    try:
        import torch
    except ImportError as error:
        return [f"torch cannot be imported: {error}"]
    print(f"torch {torch.__version__}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}, "
          f"C++11 ABI {torch.compiled_with_cxx11_abi()}")
    problems = []
    wanted = re.search(r"^torch (\S+)", built, re.MULTILINE)
    if wanted and torch.__version__.split("+")[0] != wanted[1]:
        problems.append(f"the programs were built with torch {wanted[1]}: expected it here, found "
                        f"{torch.__version__}")
    if not torch.cuda.is_available():
        return [*problems, "torch sees no CUDA device"]
    device = torch.cuda.get_device_properties(0)
    print(f"{device.name}: compute capability {device.major}.{device.minor}, "
          f"{device.multi_processor_count} multiprocessors, {device.total_memory >> 20} MiB, "
          f"L2 {device.L2_cache_size >> 10} KiB")
    if (device.major, device.minor) != (9, 0) and "architectures 90\n" in built:
        problems.append(f"the programs hold code for sm_90 and PTX: this is sm_{device.major}{device.minor}")
    return problems


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", required=True, type=pathlib.Path)
    parser.add_argument("--dry-run", action="store_true", help="no GPU and no torch are needed")
    arguments = parser.parse_args()
    built_file = arguments.bin.parent / "built.txt"
    built = built_file.read_text() if built_file.exists() else ""
    print(f"Python {sys.version.split()[0]} at {sys.executable}; {built.strip() or 'no built.txt'}"
          .replace("\n", ", "))
    names = ["rillkv_cuda_tests", "rillkv_cuda_core_tests", "rillkv_cuda_queue_tests", "bench_attention",
             "bench_cuda", "prefill"]
    programs = [arguments.bin / name for name in names]
    problems = [f"no {program}" for program in programs if not program.exists()]
    problems += missing_libraries([program for program in programs if program.exists()])
    for command in (["nvcc", "--version"], ["ncu", "--version"], ["compute-sanitizer", "--version"]):
        print(f"{command[0]}: {first_line(command) or 'not here'}")
    try:
        import numpy
        print(f"numpy {numpy.__version__}")
    except ImportError:
        problems.append("numpy cannot be imported")
    if not arguments.dry_run:
        problems += torch_problems(built)
    for problem in problems:
        print(f"gpu_environment.py: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
