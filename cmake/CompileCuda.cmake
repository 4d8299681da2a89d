# Compiles one .cu file: NAME.o with code for every architecture of CODE, NAME.ptx from the same
# front-end pass, NAME.d (what it depends on) and NAME.ptxas.txt (registers, spills, shared memory).
#
# cmake -DNVCC= -DHOST_COMPILER= -DSOURCE= -DNAME= -DDIRECTORY= -DINCLUDE= -DCODE= -P CompileCuda.cmake
#
# The code is stored compressed, and unpacked when a program first uses CUDA: a third of the bytes.
set(kept "${DIRECTORY}/kept/${NAME}")
file(MAKE_DIRECTORY "${kept}")
execute_process(
  COMMAND
    "${NVCC}" -std=c++20 -O3 -lineinfo -ccbin "${HOST_COMPILER}" -I "${INCLUDE}"
    "-gencode=arch=compute_80,code=[${CODE}]" --Werror=all-warnings -Xptxas=-v
    -Xfatbin=-compress-all
    -Xcompiler=-fPIC,-fvisibility=hidden,-Wall --keep --keep-dir "${kept}" -MMD -MF
    "${DIRECTORY}/${NAME}.d" -MT "${DIRECTORY}/${NAME}.o" -c "${SOURCE}" -o "${DIRECTORY}/${NAME}.o"
  RESULT_VARIABLE result
  OUTPUT_VARIABLE output
  ERROR_VARIABLE output)
if(NOT result EQUAL 0)
  message(FATAL_ERROR "nvcc failed on ${SOURCE}:\n${output}")
endif()
file(WRITE "${DIRECTORY}/${NAME}.ptxas.txt" "${output}")
file(COPY_FILE "${kept}/${NAME}.ptx" "${DIRECTORY}/${NAME}.ptx")
file(REMOVE_RECURSE "${kept}")
