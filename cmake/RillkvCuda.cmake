# rillkv_kernels_cuda: the CUDA kernels, or the stub that says the build has none.
#
# RILLKV_CUDA=AUTO takes them where nvcc and a LibTorch with CUDA are found, ON demands them, OFF
# leaves them out. Sets RILLKV_HAS_CUDA, RILLKV_CUDA_OBJECTS (nvcc's, to link beside
# $<TARGET_OBJECTS:rillkv_kernels_cuda>: CMake leaves foreign objects out of that; who links them
# links rillkv::cudart), RILLKV_CUDA_LIBRARIES (what the library links: c10's part of LibTorch's CUDA,
# which needs nothing but cudart), RILLKV_CUDA_INCLUDE (the toolkit's headers) and RILLKV_CUDA_DIR
# (the folder of the PTX files, which the tests execute on the CPU). Who links the objects depends on
# rillkv_cuda_compiled.
#
# nvcc is called directly, not as CMake's CUDA language: its one front-end pass for compute_80 makes
# the PTX that is assembled for every architecture, and that very PTX is kept for the tests.

set(RILLKV_HAS_CUDA OFF)
set(RILLKV_CUDA_LIBRARIES "")
set(RILLKV_CUDA_OBJECTS "")
set(_rillkv_cuda_made "")
set(RILLKV_CUDA_ARCHITECTURES 80 86 89 90 100 120 CACHE STRING "Architectures to assemble for")

file(GLOB RILLKV_CUDA_PORTABLE CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/kernels/cuda/*plan.cpp"
     "${PROJECT_SOURCE_DIR}/kernels/cuda/half_rotations.cpp")
add_library(rillkv_kernels_cuda OBJECT ${RILLKV_CUDA_PORTABLE})
rillkv_compile_settings(rillkv_kernels_cuda)
target_include_directories(rillkv_kernels_cuda PUBLIC "${PROJECT_SOURCE_DIR}")

# Why the build has no CUDA; empty if it has.
set(_rillkv_no_cuda "")
if(NOT RILLKV_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "RillKV: RILLKV_CUDA must be AUTO, ON or OFF, got ${RILLKV_CUDA}")
elseif(RILLKV_CUDA STREQUAL "OFF")
  set(_rillkv_no_cuda "RILLKV_CUDA=OFF")
else()
  find_program(RILLKV_NVCC nvcc HINTS ENV CUDA_HOME ENV CUDA_PATH PATH_SUFFIXES bin
               PATHS /usr/local/cuda/bin)
  if(RILLKV_NVCC)
    file(REAL_PATH "${RILLKV_NVCC}" _rillkv_nvcc)
    cmake_path(GET _rillkv_nvcc PARENT_PATH _rillkv_toolkit)
    cmake_path(GET _rillkv_toolkit PARENT_PATH _rillkv_toolkit)
    execute_process(COMMAND "${RILLKV_NVCC}" --version OUTPUT_VARIABLE _rillkv_nvcc_version)
    string(REGEX MATCH "release ([0-9]+)" _rillkv_nvcc_version "${_rillkv_nvcc_version}")
    set(_rillkv_nvcc_version "${CMAKE_MATCH_1}")
    set(_rillkv_cudart "")
    if(TARGET rillkv::cudart)
      get_target_property(_rillkv_cudart rillkv::cudart IMPORTED_LOCATION)
    endif()
    string(REGEX MATCH "\\.so\\.([0-9]+)" _rillkv_cudart_version "${_rillkv_cudart}")
    set(_rillkv_cudart_version "${CMAKE_MATCH_1}")
  endif()
  if(NOT RILLKV_NVCC)
    set(_rillkv_no_cuda "no nvcc")
  elseif(NOT TARGET rillkv::c10_cuda)
    set(_rillkv_no_cuda "nvcc, but no LibTorch with CUDA")
  elseif(NOT _rillkv_nvcc_version STREQUAL _rillkv_cudart_version)
    # Objects of one major version and the run-time library of another do not fit together.
    set(_rillkv_no_cuda
        "nvcc of CUDA ${_rillkv_nvcc_version}, but LibTorch with CUDA ${_rillkv_cudart_version}")
  elseif(NOT EXISTS "${_rillkv_toolkit}/include/cuda_runtime_api.h")
    set(_rillkv_no_cuda "nvcc, but no CUDA headers")
  endif()
  if(_rillkv_no_cuda AND RILLKV_CUDA STREQUAL "ON")
    message(FATAL_ERROR "RillKV: RILLKV_CUDA=ON, but ${_rillkv_no_cuda} was found")
  endif()
endif()

if(_rillkv_no_cuda)
  message(STATUS "RillKV: no CUDA kernels (${_rillkv_no_cuda})")
  target_sources(rillkv_kernels_cuda PRIVATE "${PROJECT_SOURCE_DIR}/kernels/cuda/no_cuda.cpp")
  add_custom_target(rillkv_cuda_compiled)
  return()
endif()

set(RILLKV_HAS_CUDA ON)
list(APPEND RILLKV_CUDA_LIBRARIES rillkv::c10_cuda)
execute_process(COMMAND "${RILLKV_NVCC}" --list-gpu-code OUTPUT_VARIABLE _rillkv_known)
set(RILLKV_CUDA_CODE compute_80)
set(RILLKV_CUDA_ASSEMBLED "")
foreach(architecture IN LISTS RILLKV_CUDA_ARCHITECTURES)
  if(_rillkv_known MATCHES "sm_${architecture}[\r\n]")
    list(APPEND RILLKV_CUDA_CODE "sm_${architecture}")
    list(APPEND RILLKV_CUDA_ASSEMBLED ${architecture})
  endif()
endforeach()
list(JOIN RILLKV_CUDA_CODE "," RILLKV_CUDA_CODE)
message(STATUS "RillKV: CUDA kernels by ${RILLKV_NVCC} for ${RILLKV_CUDA_CODE}")

set(RILLKV_CUDA_DIR "${PROJECT_BINARY_DIR}/cuda")
file(GLOB _rillkv_cuda_sources CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/kernels/cuda/*.cu")
# What a source that is gone has left would still be found: the tests load every .ptx, and the resource
# check reads every report.
file(GLOB _rillkv_cuda_left "${RILLKV_CUDA_DIR}/*.ptx" "${RILLKV_CUDA_DIR}/*.ptxas.txt")
foreach(left IN LISTS _rillkv_cuda_left)
  cmake_path(GET left STEM name)
  if(NOT EXISTS "${PROJECT_SOURCE_DIR}/kernels/cuda/${name}.cu")
    file(REMOVE "${left}")
  endif()
endforeach()
foreach(source IN LISTS _rillkv_cuda_sources)
  cmake_path(GET source STEM name)
  set(object "${RILLKV_CUDA_DIR}/${name}.o")
  set(ptx "${RILLKV_CUDA_DIR}/${name}.ptx")
  add_custom_command(
    OUTPUT "${object}" "${ptx}" "${RILLKV_CUDA_DIR}/${name}.ptxas.txt"
    COMMAND
      "${CMAKE_COMMAND}" "-DNVCC=${RILLKV_NVCC}" "-DHOST_COMPILER=${CMAKE_CXX_COMPILER}"
      "-DSOURCE=${source}" "-DNAME=${name}" "-DDIRECTORY=${RILLKV_CUDA_DIR}"
      "-DINCLUDE=${PROJECT_SOURCE_DIR}" "-DCODE=${RILLKV_CUDA_CODE}" -P
      "${PROJECT_SOURCE_DIR}/cmake/CompileCuda.cmake"
    DEPENDS "${source}" "${PROJECT_SOURCE_DIR}/cmake/CompileCuda.cmake"
    DEPFILE "${RILLKV_CUDA_DIR}/${name}.d"
    COMMENT "Compiling CUDA kernels ${name}.cu"
    VERBATIM)
  list(APPEND RILLKV_CUDA_OBJECTS "${object}")
  list(APPEND _rillkv_cuda_made "${object}" "${ptx}")
endforeach()
add_custom_target(rillkv_cuda_compiled DEPENDS ${_rillkv_cuda_made})
target_sources(rillkv_kernels_cuda PRIVATE "${PROJECT_SOURCE_DIR}/kernels/cuda/stream_queue.cpp")
set(RILLKV_CUDA_INCLUDE "${_rillkv_toolkit}/include")
set(RILLKV_CUDA_BIN "${_rillkv_toolkit}/bin")
target_include_directories(rillkv_kernels_cuda SYSTEM PRIVATE "${RILLKV_CUDA_INCLUDE}")
