# rillkv_kernels_cuda: the CUDA kernels, or the stub that says the build has none.
#
# Sets RILLKV_HAS_CUDA and RILLKV_CUDA_LIBRARIES (what the library then links).

set(RILLKV_HAS_CUDA OFF)
set(RILLKV_CUDA_LIBRARIES "")

file(GLOB RILLKV_CUDA_SOURCES CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/kernels/cuda/no_cuda.cpp")
add_library(rillkv_kernels_cuda OBJECT ${RILLKV_CUDA_SOURCES})
if(NOT RILLKV_CUDA_SOURCES)
  target_sources(rillkv_kernels_cuda PRIVATE "${PROJECT_SOURCE_DIR}/cmake/empty.cpp")
endif()
rillkv_compile_settings(rillkv_kernels_cuda)
target_include_directories(rillkv_kernels_cuda PUBLIC "${PROJECT_SOURCE_DIR}")
