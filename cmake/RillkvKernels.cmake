# rillkv_kernels: the CPU kernels, one file an instruction set, each with its own flags. They get no
# Torch include path: they see pointers, strides and sizes.
#
# The instruction set is part of the file name: avx2*.cpp, avx512*.cpp or *_avx2.cpp, *_avx512.cpp.
# Everything else is portable code.

file(GLOB RILLKV_KERNEL_SOURCES CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/kernels/cpu/*.cpp")
set(RILLKV_AVX2_FLAGS -mavx2 -mfma -mf16c)
set(RILLKV_AVX512_FLAGS
    ${RILLKV_AVX2_FLAGS} -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vbmi -mavx512vnni
    -mavx512bf16)

add_library(rillkv_kernels OBJECT ${RILLKV_KERNEL_SOURCES})
if(NOT RILLKV_KERNEL_SOURCES)
  target_sources(rillkv_kernels PRIVATE "${PROJECT_SOURCE_DIR}/cmake/empty.cpp")
endif()
rillkv_compile_settings(rillkv_kernels)
target_include_directories(rillkv_kernels PUBLIC "${PROJECT_SOURCE_DIR}")
target_compile_options(rillkv_kernels PRIVATE $<$<CONFIG:Release,RelWithDebInfo>:-O3>)

foreach(source IN LISTS RILLKV_KERNEL_SOURCES)
  cmake_path(GET source STEM name)
  if(name MATCHES "^avx512|_avx512")
    set_source_files_properties("${source}" PROPERTIES COMPILE_OPTIONS "${RILLKV_AVX512_FLAGS}")
  elseif(name MATCHES "^avx2|_avx2")
    set_source_files_properties("${source}" PROPERTIES COMPILE_OPTIONS "${RILLKV_AVX2_FLAGS}")
  endif()
endforeach()
