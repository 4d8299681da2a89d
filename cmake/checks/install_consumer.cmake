# Installs into a new prefix, then builds and runs programs that find RillKV there, as a user would:
# tests/support/consumer and the tutorial.
# cmake -DBUILD_DIR=... -DSOURCE_DIR=... -DWORK_DIR=... -DCONFIG=... -DEXTRA_FLAGS=... -P ...
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

# Who only compresses a cache links no evaluation.
file(GLOB libraries "${prefix}/lib*/librillkv.*")
if(NOT libraries)
  message(FATAL_ERROR "no librillkv in ${prefix}")
endif()
foreach(library IN LISTS libraries)
  file(STRINGS "${library}" found REGEX "N6rillkv4eval" LIMIT_COUNT 1)
  if(found)
    message(FATAL_ERROR "${library} holds code of rillkv::eval: ${found}")
  endif()
endforeach()

function(build source directory)
  run("${CMAKE_COMMAND}" -S "${source}" -B "${directory}" -G Ninja
      "-DCMAKE_PREFIX_PATH=${prefix}" "-DCMAKE_BUILD_TYPE=${CONFIG}"
      "-DCMAKE_CXX_FLAGS=${EXTRA_FLAGS}" "-DCMAKE_CXX_COMPILER_LAUNCHER=${LAUNCHER}")
  run("${CMAKE_COMMAND}" --build "${directory}")
endfunction()

# expect(<regex> <command>...): runs it and looks for the regex in its output.
function(expect regex)
  run(${ARGN})
  message(STATUS "${output}")
  if(NOT output MATCHES "${regex}")
    list(JOIN ARGN " " command)
    message(FATAL_ERROR "${command}\nsaid nothing that matches \"${regex}\"")
  endif()
endfunction()

build("${SOURCE_DIR}/tests/support/consumer" "${WORK_DIR}/build")
expect("2 tokens cached" "${WORK_DIR}/build/consumer")

set(model "${WORK_DIR}/model")
file(GLOB tokenizer "${SOURCE_DIR}/tests/data/tokenizers/smollm/*")
file(COPY ${tokenizer} DESTINATION "${model}")
run("${WORK_DIR}/build/make_checkpoint" "${model}")

build("${SOURCE_DIR}/examples/tutorial" "${WORK_DIR}/tutorial")
string(REPEAT "Once upon a time there was a cache. " 20 prompt)
expect("[0-9]+ \\+ 32 tokens" "${WORK_DIR}/tutorial/generate" "${model}" "${prompt}")
expect("1024 tokens: [0-9]+ bytes for [0-9]+, outputs off by [0-9]" "${WORK_DIR}/tutorial/attend")
expect("128 tokens in [0-9]+.*off by [0-9]" "${WORK_DIR}/tutorial/sealed_block")
