# Installs into a new prefix, then builds and runs a program that finds RillKV there, as a user would.
# cmake -DBUILD_DIR=... -DCONSUMER_DIR=... -DWORK_DIR=... -DCONFIG=... -DEXTRA_FLAGS=... -P ...
function(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE status OUTPUT_VARIABLE output
                  ERROR_VARIABLE output)
  if(NOT status EQUAL 0)
    list(JOIN ARGN " " command)
    message(FATAL_ERROR "${command}\nfailed (${status}):\n${output}")
  endif()
  set(output "${output}" PARENT_SCOPE)
endfunction()

set(prefix "${WORK_DIR}/prefix")
file(REMOVE_RECURSE "${WORK_DIR}")
run("${CMAKE_COMMAND}" --install "${BUILD_DIR}" --prefix "${prefix}")

# Only public headers are installed, and each can be included by a user.
file(GLOB_RECURSE headers RELATIVE "${prefix}/include" "${prefix}/include/*")
set(text "")
foreach(header IN LISTS headers)
  if(NOT header MATCHES "^rillkv/.*\\.h$")
    message(FATAL_ERROR "not a public header of ours: ${header}")
  endif()
  string(APPEND text "#include \"${header}\"\n")
endforeach()
file(WRITE "${WORK_DIR}/build/all_headers.h" "${text}")

run("${CMAKE_COMMAND}" -S "${CONSUMER_DIR}" -B "${WORK_DIR}/build" -G Ninja
    "-DCMAKE_PREFIX_PATH=${prefix}" "-DCMAKE_BUILD_TYPE=${CONFIG}"
    "-DCMAKE_CXX_FLAGS=${EXTRA_FLAGS}" "-DCMAKE_CXX_COMPILER_LAUNCHER=${LAUNCHER}")
run("${CMAKE_COMMAND}" --build "${WORK_DIR}/build")
run("${WORK_DIR}/build/consumer")
message(STATUS "${output}")
