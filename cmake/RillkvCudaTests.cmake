# Tests of the CUDA kernels; included by tests/CMakeLists.txt where there is nvcc.
file(GLOB RILLKV_CUDA_TEST_SOURCES CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/cuda/*.cpp")
add_executable(
  rillkv_cuda_tests
  ${RILLKV_CUDA_TEST_SOURCES} "${CMAKE_CURRENT_SOURCE_DIR}/kernels/attention_scenario.cpp"
  $<TARGET_OBJECTS:rillkv_kernels> $<TARGET_OBJECTS:rillkv_kernels_cuda> ${RILLKV_CUDA_OBJECTS})
rillkv_compile_settings(rillkv_cuda_tests)
add_dependencies(rillkv_cuda_tests rillkv_cuda_compiled)
target_compile_definitions(
  rillkv_cuda_tests
  PRIVATE RILLKV_PTX_DIR="${RILLKV_CUDA_DIR}" RILLKV_TEST_WITH_CUDA_RUNTIME
          RILLKV_CUDA_BUDGET="${CMAKE_CURRENT_SOURCE_DIR}/cuda/resource_budget.txt")
target_include_directories(rillkv_cuda_tests PRIVATE "${PROJECT_SOURCE_DIR}")
target_include_directories(rillkv_cuda_tests SYSTEM PRIVATE "${RILLKV_CUDA_INCLUDE}")
target_link_libraries(rillkv_cuda_tests PRIVATE rillkv_ptx rillkv_test_reference
                                                rillkv::cudart GTest::gtest_main)

# The stream queue alone, over a run-time library that its test plays.
file(GLOB RILLKV_CUDA_QUEUE_SOURCES CONFIGURE_DEPENDS
     "${CMAKE_CURRENT_SOURCE_DIR}/cuda_queue/*.cpp")
add_executable(rillkv_cuda_queue_tests ${RILLKV_CUDA_QUEUE_SOURCES}
                                       "${PROJECT_SOURCE_DIR}/kernels/cuda/stream_queue.cpp")
rillkv_compile_settings(rillkv_cuda_queue_tests)
target_include_directories(rillkv_cuda_queue_tests PRIVATE "${PROJECT_SOURCE_DIR}")
target_include_directories(rillkv_cuda_queue_tests SYSTEM PRIVATE "${RILLKV_CUDA_INCLUDE}")
target_link_libraries(rillkv_cuda_queue_tests PRIVATE GTest::gtest_main)
gtest_discover_tests(rillkv_cuda_queue_tests DISCOVERY_MODE PRE_TEST DISCOVERY_TIMEOUT 60
                     PROPERTIES TIMEOUT 60)

# Core and models over CUDA caches: the executor stands in for the device there, too.
file(GLOB RILLKV_CUDA_CORE_SOURCES CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/cuda_core/*.cpp")
add_executable(rillkv_cuda_core_tests ${RILLKV_CUDA_CORE_SOURCES})
rillkv_compile_settings(rillkv_cuda_core_tests)
rillkv_use_precompiled_torch(rillkv_cuda_core_tests)
target_compile_definitions(
  rillkv_cuda_core_tests PRIVATE RILLKV_PTX_DIR="${RILLKV_CUDA_DIR}"
                                 RILLKV_TEST_DATA_DIR="${PROJECT_SOURCE_DIR}/tests/data")
target_link_libraries(rillkv_cuda_core_tests PRIVATE rillkv_test_support rillkv_ptx GTest::gtest_main)

foreach(target IN ITEMS rillkv_cuda_tests rillkv_cuda_core_tests)
  foreach(label IN ITEMS ptx gpu)
    # Tests without a parameter (CudaProfileTest) read what the executor counts.
    gtest_discover_tests(
      ${target}
      DISCOVERY_MODE PRE_TEST
      DISCOVERY_TIMEOUT 60
      TEST_FILTER "$<IF:$<STREQUAL:${label},gpu>,*/gpu,-*/gpu>"
      TEST_LIST ${target}_${label}
      WORKING_DIRECTORY "${PROJECT_SOURCE_DIR}"
      PROPERTIES LABELS ${label} TIMEOUT 300)
  endforeach()
endforeach()

# Static evidence: what ptxas and the disassembler say of the objects that are linked.
list(JOIN RILLKV_CUDA_ASSEMBLED "," _rillkv_assembled)
add_test(NAME cuda_resources
         COMMAND "${CMAKE_COMMAND}" "-DREPORTS=${RILLKV_CUDA_DIR}"
                 "-DBUDGET=${CMAKE_CURRENT_SOURCE_DIR}/cuda/resource_budget.txt"
                 "-DARCHITECTURES=${_rillkv_assembled}" -P
                 "${PROJECT_SOURCE_DIR}/cmake/checks/cuda_resources.cmake")
file(GLOB _rillkv_nvidia_bin "${PROJECT_SOURCE_DIR}/.venv/lib/python3*/site-packages/nvidia/*/bin")
find_program(RILLKV_CUOBJDUMP cuobjdump HINTS "${RILLKV_CUDA_BIN}" ${_rillkv_nvidia_bin})
find_program(RILLKV_NVDISASM nvdisasm HINTS "${RILLKV_CUDA_BIN}" ${_rillkv_nvidia_bin})
add_test(NAME cuda_sass
         COMMAND "${CMAKE_COMMAND}" "-DOBJECTS=${RILLKV_CUDA_DIR}" "-DCUOBJDUMP=${RILLKV_CUOBJDUMP}"
                 "-DNVDISASM=${RILLKV_NVDISASM}" "-DWORK_DIR=${PROJECT_BINARY_DIR}/cuda_sass"
                 "-DARCHITECTURES=${_rillkv_assembled}" -P
                 "${PROJECT_SOURCE_DIR}/cmake/checks/cuda_sass.cmake")
set_tests_properties(cuda_resources cuda_sass PROPERTIES LABELS cuda_static
                                                         SKIP_REGULAR_EXPRESSION "SKIPPED: ")

# What scripts/gpu_check.sh will do on a machine with a GPU, here: without one.
if(Python3_Interpreter_FOUND AND RILLKV_BUILD_BENCHMARKS)
  add_test(NAME python.gpu COMMAND "${Python3_EXECUTABLE}" -W ignore
                                   "${CMAKE_CURRENT_SOURCE_DIR}/support/python/gpu_test.py" -v)
  set_tests_properties(
    python.gpu PROPERTIES LABELS python TIMEOUT 600 ENVIRONMENT
                          "RILLKV_GPU_BIN=${CMAKE_RUNTIME_OUTPUT_DIRECTORY}")
endif()
