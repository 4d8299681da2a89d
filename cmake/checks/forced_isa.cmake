# Runs a test program with the kernels of one instruction set.
# cmake -DPROBE=... -DISA=... -DTESTS=... -DFILTER=... -P forced_isa.cmake
execute_process(COMMAND "${PROBE}" "${ISA}" RESULT_VARIABLE missing)
if(missing EQUAL 1)
  message("SKIPPED: this machine lacks ${ISA}")
  return()
elseif(NOT missing EQUAL 0)
  message(FATAL_ERROR "${PROBE} ${ISA} failed: ${missing}")
endif()
set(ENV{RILLKV_ISA} "${ISA}")
execute_process(COMMAND "${TESTS}" --gtest_brief=1 "--gtest_filter=${FILTER}" RESULT_VARIABLE status)
if(NOT status EQUAL 0)
  message(FATAL_ERROR "${TESTS} failed with RILLKV_ISA=${ISA}: ${status}")
endif()
