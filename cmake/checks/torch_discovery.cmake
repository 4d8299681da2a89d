# Configures the project, without building it, against a LibTorch that only CMAKE_PREFIX_PATH knows,
# then against a folder that holds none.
# cmake -DSOURCE_DIR=... -DTORCH_DIR=... -DWORK_DIR=... -P torch_discovery.cmake
file(REMOVE_RECURSE "${WORK_DIR}")
# A folder of its own with the LibTorch's content, so that finding any other shows.
set(copy "${WORK_DIR}/libtorch")
file(MAKE_DIRECTORY "${copy}")
foreach(part IN ITEMS lib include)
  file(CREATE_LINK "${TORCH_DIR}/${part}" "${copy}/${part}" SYMBOLIC)
endforeach()
foreach(sibling IN ITEMS nvidia torch.libs)
  if(EXISTS "${TORCH_DIR}/../${sibling}")
    file(CREATE_LINK "${TORCH_DIR}/../${sibling}" "${WORK_DIR}/${sibling}" SYMBOLIC)
  endif()
endforeach()

function(configure folder)
  execute_process(
    COMMAND "${CMAKE_COMMAND}" -S "${SOURCE_DIR}" -B "${WORK_DIR}/${folder}" -G Ninja
            -DRILLKV_CUDA=OFF -DRILLKV_BUILD_TESTS=OFF ${ARGN}
    RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
  set(status "${status}" PARENT_SCOPE)
  set(output "${output}" PARENT_SCOPE)
endfunction()

configure(prefix "-DCMAKE_PREFIX_PATH=${copy}")
file(REAL_PATH "${copy}" expected)
string(FIND "${output}" "in ${expected}\n" at)
if(NOT status EQUAL 0 OR at EQUAL -1)
  message(FATAL_ERROR "expected LibTorch to be found in ${expected}:\n${output}")
endif()

configure(none "-DRILLKV_TORCH_ROOT=${WORK_DIR}/none")
string(FIND "${output}" "no LibTorch found" at)
if(status EQUAL 0 OR at EQUAL -1)
  message(FATAL_ERROR "expected an explicit folder without LibTorch to be refused:\n${output}")
endif()
message(STATUS "found in ${expected}, refused elsewhere")
