# Finds LibTorch and imports what RillKV links:
#
#   rillkv::torch      headers, torch_cpu, c10, OpenMP
#   rillkv::cudart     the CUDA run-time library, and
#   rillkv::c10_cuda   c10's CUDA streams and allocator on top of it, where the LibTorch has them
#
# find_package(Torch) is not used: with a CUDA build of LibTorch it demands a CUDA toolkit, though
# libtorch_cpu itself needs only the cudart and cupti libraries.
#
# Where it looks, first hit wins:
#   1. RILLKV_TORCH_ROOT: a LibTorch folder, or the torch folder of a Python installation
#   2. CMAKE_PREFIX_PATH: such a folder, or what torch.utils.cmake_prefix_path prints
#   3. .venv in the project's folder (scripts/setup.sh makes it), then an active virtual environment
#   4. RILLKV_TORCH_HINT: for the installed package, where it was built against
# The same file is installed and finds LibTorch for the users of the installed package.

set(RILLKV_TORCH_ROOT "" CACHE PATH "LibTorch folder, or a Python installation's torch folder")

function(_rillkv_torch_candidates out)
  set(found "")
  if(RILLKV_TORCH_ROOT)
    set(${out} "${RILLKV_TORCH_ROOT}" PARENT_SCOPE)  # no silent fallback from an explicit choice
    return()
  endif()
  cmake_path(CONVERT "$ENV{CMAKE_PREFIX_PATH}" TO_CMAKE_PATH_LIST environment)
  foreach(prefix IN LISTS CMAKE_PREFIX_PATH environment)
    list(APPEND found "${prefix}" "${prefix}/../..")
  endforeach()
  set(virtual_environments "$ENV{VIRTUAL_ENV}")
  if(DEFINED PROJECT_SOURCE_DIR)
    list(PREPEND virtual_environments "${PROJECT_SOURCE_DIR}/.venv")
  endif()
  foreach(environment IN LISTS virtual_environments)
    if(environment)
      file(GLOB packages "${environment}/lib/python3*/site-packages/torch")
      list(APPEND found ${packages})
    endif()
  endforeach()
  if(RILLKV_TORCH_HINT)
    list(APPEND found "${RILLKV_TORCH_HINT}")
  endif()
  set(${out} "${found}" PARENT_SCOPE)
endfunction()

function(_rillkv_import_torch root)
  file(REAL_PATH "${root}" root)
  set(lib "${root}/lib")

  # The libraries that libtorch_cpu needs and the wheel does not carry lie in sibling wheels.
  file(GLOB needed_dirs LIST_DIRECTORIES true "${root}/../nvidia/*/lib")
  set(link_dirs "${lib}")
  foreach(dir IN LISTS needed_dirs)
    file(REAL_PATH "${dir}" dir)
    list(APPEND link_dirs "${dir}")
  endforeach()
  list(TRANSFORM link_dirs PREPEND "-Wl,-rpath-link," OUTPUT_VARIABLE link_options)

  # One ABI of std::string for the library and its users: the one LibTorch was compiled with.
  file(STRINGS "${lib}/libc10.so" new_abi REGEX "_ZN3c105Error.*__cxx11" LIMIT_COUNT 1)
  set(abi 0)
  if(new_abi)
    set(abi 1)
  endif()

  add_library(rillkv::c10 SHARED IMPORTED GLOBAL)
  set_target_properties(rillkv::c10 PROPERTIES IMPORTED_LOCATION "${lib}/libc10.so")
  add_library(rillkv::torch_cpu SHARED IMPORTED GLOBAL)
  set_target_properties(rillkv::torch_cpu PROPERTIES IMPORTED_LOCATION "${lib}/libtorch_cpu.so")

  # at::parallel_for is an inline function: compiled without -fopenmp it silently runs serially. The
  # run-time library is the one that libtorch_cpu loads; a second one would mean a second thread
  # pool. LibTorch's own copy has the plain soname or a mangled one.
  file(GLOB gomp "${lib}/libgomp.so.1" "${lib}/libgomp-*.so*" "${root}/../torch.libs/libgomp*.so*")
  if(gomp)
    list(GET gomp 0 gomp)
    add_library(rillkv::gomp SHARED IMPORTED GLOBAL)
    set_target_properties(rillkv::gomp PROPERTIES IMPORTED_LOCATION "${gomp}")
    set(openmp rillkv::gomp)
  else()
    set(openmp gomp)
  endif()

  add_library(rillkv::torch INTERFACE IMPORTED GLOBAL)
  target_include_directories(rillkv::torch INTERFACE "${root}/include"
                                                     "${root}/include/torch/csrc/api/include")
  target_compile_definitions(rillkv::torch INTERFACE _GLIBCXX_USE_CXX11_ABI=${abi})
  target_compile_options(rillkv::torch INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-fopenmp>)
  target_link_options(rillkv::torch INTERFACE ${link_options})
  target_link_libraries(rillkv::torch INTERFACE rillkv::torch_cpu rillkv::c10 ${openmp}
                                                Threads::Threads)

  if(EXISTS "${lib}/libc10_cuda.so")
    # The run-time library that LibTorch itself loads: in a sibling wheel or in LibTorch's folder; a
    # toolkit's where LibTorch brings none.
    file(GLOB cudart "${root}/../nvidia/*/lib/libcudart.so.*" "${lib}/libcudart.so.*"
         "${lib}/libcudart-*.so*")
    if(NOT cudart)
      find_library(RILLKV_CUDART cudart HINTS ENV CUDA_HOME ENV CUDA_PATH PATHS /usr/local/cuda
                   PATH_SUFFIXES lib64 lib)
      set(cudart "${RILLKV_CUDART}")
    endif()
    list(GET cudart 0 cudart)
    if(cudart)
      file(REAL_PATH "${cudart}" cudart)
      add_library(rillkv::cudart SHARED IMPORTED GLOBAL)
      set_target_properties(rillkv::cudart PROPERTIES IMPORTED_LOCATION "${cudart}")
      add_library(rillkv::c10_cuda SHARED IMPORTED GLOBAL)
      set_target_properties(rillkv::c10_cuda PROPERTIES IMPORTED_LOCATION "${lib}/libc10_cuda.so")
      target_link_libraries(rillkv::c10_cuda INTERFACE rillkv::c10 rillkv::cudart)
    endif()
  endif()
endfunction()

# "2.11.0": from the three numbers in version.h.
function(_rillkv_torch_version root out)
  set(version "unknown")
  foreach(header IN ITEMS torch/headeronly/version.h torch/csrc/api/include/torch/version.h)
    if(version STREQUAL "unknown" AND EXISTS "${root}/include/${header}")
      file(READ "${root}/include/${header}" text)
      if(text MATCHES "TORCH_VERSION_MAJOR ([0-9]+).*TORCH_VERSION_MINOR ([0-9]+).*TORCH_VERSION_PATCH ([0-9]+)")
        set(version "${CMAKE_MATCH_1}.${CMAKE_MATCH_2}.${CMAKE_MATCH_3}")
      endif()
    endif()
  endforeach()
  set(${out} "${version}" PARENT_SCOPE)
endfunction()

if(NOT TARGET rillkv::torch)
  find_package(Threads REQUIRED)
  set(RILLKV_TORCH_DIR "")
  _rillkv_torch_candidates(_rillkv_candidates)
  foreach(_rillkv_root IN LISTS _rillkv_candidates)
    if(EXISTS "${_rillkv_root}/lib/libtorch_cpu.so"
       AND EXISTS "${_rillkv_root}/include/torch/csrc/api/include/torch/torch.h")
      file(REAL_PATH "${_rillkv_root}" RILLKV_TORCH_DIR)
      break()
    endif()
  endforeach()
  if(NOT RILLKV_TORCH_DIR)
    list(JOIN _rillkv_candidates ", " _rillkv_candidates)
    message(FATAL_ERROR "RillKV: no LibTorch found (looked in: ${_rillkv_candidates}). Run "
                        "scripts/setup.sh, or set CMAKE_PREFIX_PATH to a LibTorch folder.")
  endif()
  _rillkv_torch_version("${RILLKV_TORCH_DIR}" RILLKV_TORCH_VERSION)
  _rillkv_import_torch("${RILLKV_TORCH_DIR}")
  message(STATUS "RillKV: LibTorch ${RILLKV_TORCH_VERSION} in ${RILLKV_TORCH_DIR}")
endif()
