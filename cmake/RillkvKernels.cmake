# rillkv_kernels: the CPU kernels. They get no Torch include path: they see pointers, strides and
# sizes. The folder of an instruction set is compiled with its flags, everything else for any x86-64.

file(GLOB RILLKV_KERNEL_SOURCES CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/kernels/cpu/*.cpp"
     "${PROJECT_SOURCE_DIR}/kernels/cpu/scalar/*.cpp")
add_library(rillkv_kernels OBJECT ${RILLKV_KERNEL_SOURCES})
rillkv_compile_settings(rillkv_kernels)
target_include_directories(rillkv_kernels PUBLIC "${PROJECT_SOURCE_DIR}")
target_compile_options(rillkv_kernels PRIVATE $<$<CONFIG:Release,RelWithDebInfo>:-O3>)

# rillkv_add_isa(FOLDER FLAG...)
function(rillkv_add_isa folder)
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/kernels/cpu/${folder}/*.cpp")
  target_sources(rillkv_kernels PRIVATE ${sources})
  set_source_files_properties(${sources} PROPERTIES COMPILE_OPTIONS "${ARGN}")
endfunction()

set(_rillkv_avx2_flags -mavx2 -mfma -mf16c)
rillkv_add_isa(avx2 ${_rillkv_avx2_flags})
set(_rillkv_avx512_flags ${_rillkv_avx2_flags} -mavx512f -mavx512bw -mavx512vl -mavx512dq
                         -mavx512vbmi -mavx512vnni -mavx512bf16)
rillkv_add_isa(avx512 ${_rillkv_avx512_flags})
# The tile instructions are assembly: no flag.
rillkv_add_isa(amx ${_rillkv_avx512_flags})
