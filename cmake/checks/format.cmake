# Fails if a tracked source differs from what clang-format makes of it.
# cmake -DSOURCE_DIR=... -DCLANG_FORMAT=... -P format.cmake
execute_process(
  COMMAND git -C "${SOURCE_DIR}" ls-files -- *.h *.cpp *.cu *.cuh
  OUTPUT_VARIABLE files
  RESULT_VARIABLE status
  ERROR_QUIET)
if(NOT status EQUAL 0)
  message("SKIPPED: ${SOURCE_DIR} is no git checkout")
  return()
endif()
string(STRIP "${files}" files)
string(REPLACE "\n" ";" files "${files}")
set(present "")
foreach(file IN LISTS files)
  if(EXISTS "${SOURCE_DIR}/${file}")  # tracked, but removed in the work tree
    list(APPEND present "${file}")
  endif()
endforeach()
execute_process(COMMAND "${CLANG_FORMAT}" --dry-run -Werror ${present}
                WORKING_DIRECTORY "${SOURCE_DIR}" RESULT_VARIABLE status)
if(NOT status EQUAL 0)
  message(FATAL_ERROR "run ${CLANG_FORMAT} -i on the files above")
endif()
list(LENGTH present count)
message(STATUS "${count} files are formatted")
