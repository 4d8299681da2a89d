# Fails if a tracked source differs from what clang-format makes of it, or has a comment beyond column
# 100: clang-format leaves comments as they are (ReflowComments).
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
string(REPEAT "." 101 too_long)
set(offenders "")
foreach(file IN LISTS present)
  file(STRINGS "${SOURCE_DIR}/${file}" lines REGEX "^${too_long}")
  foreach(line IN LISTS lines)
    if(line MATCHES "^ *//" AND NOT line MATCHES "https?://")
      string(APPEND offenders "\n  ${file}: ${line}")
    endif()
  endforeach()
endforeach()
if(offenders)
  message(FATAL_ERROR "comments longer than 100 columns:${offenders}")
endif()
list(LENGTH present count)
message(STATUS "${count} files are formatted")
