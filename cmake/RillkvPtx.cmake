# rillkv_ptx: the executor that runs nvcc's PTX on the CPU (tests/support/ptx), and
# rillkv_add_ptx_module, which compiles .cu files for it. Test support: nothing shipped links it.

# The executor loops over the 32 lanes of a warp, so wide vectors pay. It runs where it is built,
# and may use what this machine has.
set(_rillkv_ptx_flags -O3)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64" AND NOT CMAKE_CROSSCOMPILING)
  include(CheckCXXSourceRuns)
  check_cxx_source_runs(
    "int main() { return __builtin_cpu_supports(\"avx512f\") && __builtin_cpu_supports(\"avx512vl\")
      && __builtin_cpu_supports(\"avx512bw\") && __builtin_cpu_supports(\"avx512dq\") ? 0 : 1; }"
    RILLKV_HOST_HAS_AVX512)
  check_cxx_source_runs(
    "int main() { return __builtin_cpu_supports(\"avx2\") && __builtin_cpu_supports(\"fma\")
      && __builtin_cpu_supports(\"bmi2\") ? 0 : 1; }"
    RILLKV_HOST_HAS_AVX2)
  if(RILLKV_HOST_HAS_AVX512)
    list(APPEND _rillkv_ptx_flags -march=x86-64-v4)
  elseif(RILLKV_HOST_HAS_AVX2)
    list(APPEND _rillkv_ptx_flags -march=x86-64-v3)
  endif()
endif()

file(GLOB RILLKV_PTX_SOURCES CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/tests/support/ptx/*.cpp")
add_library(rillkv_ptx STATIC ${RILLKV_PTX_SOURCES})
rillkv_compile_settings(rillkv_ptx)
target_compile_options(rillkv_ptx PRIVATE ${_rillkv_ptx_flags})
target_include_directories(rillkv_ptx PUBLIC "${PROJECT_SOURCE_DIR}")

if(NOT RILLKV_NVCC)
  find_program(RILLKV_NVCC nvcc HINTS ENV CUDA_HOME ENV CUDA_PATH PATH_SUFFIXES bin
               PATHS /usr/local/cuda/bin)
endif()

# rillkv_add_ptx_module(<target> <source.cu>...): compiles each source to PTX for compute_80 and
# tells the target where the files are: RILLKV_PTX_DIR, a string literal; a.cu becomes a.ptx. Without
# nvcc it does nothing, and the definition is missing.
function(rillkv_add_ptx_module target)
  if(NOT RILLKV_NVCC)
    return()
  endif()
  set(directory "${CMAKE_CURRENT_BINARY_DIR}/${target}_ptx")
  file(MAKE_DIRECTORY "${directory}")
  set(made "")
  foreach(source IN LISTS ARGN)
    cmake_path(ABSOLUTE_PATH source BASE_DIRECTORY "${CMAKE_CURRENT_SOURCE_DIR}")
    cmake_path(GET source STEM name)
    add_custom_command(
      OUTPUT "${directory}/${name}.ptx"
      COMMAND
        "${RILLKV_NVCC}" -ptx -arch=compute_80 -std=c++20 -lineinfo -Werror all-warnings
        "-I${PROJECT_SOURCE_DIR}" -MD -MF "${directory}/${name}.d" -o "${directory}/${name}.ptx"
        "${source}"
      DEPENDS "${source}"
      DEPFILE "${directory}/${name}.d"
      COMMENT "Compiling ${name}.cu to PTX"
      VERBATIM)
    list(APPEND made "${directory}/${name}.ptx")
  endforeach()
  add_custom_target(${target}_ptx_files DEPENDS ${made})
  add_dependencies(${target} ${target}_ptx_files)
  target_compile_definitions(${target} PRIVATE RILLKV_PTX_DIR="${directory}")
endfunction()
