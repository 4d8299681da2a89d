# Looks at the machine code of the fast attention kernels: tensor-core instructions, ldmatrix,
# 16-byte asynchronous copies and 16-byte global loads must be there, local memory must not.
#
# cmake -DOBJECTS=<folder of the .o files> -DCUOBJDUMP= -DNVDISASM= -DWORK_DIR=
#       -DARCHITECTURES=80,90,... -P cuda_sass.cmake
# cuobjdump and nvdisasm come with a full toolkit, or from PyPI: scripts/setup.sh installs them where
# there is nvcc. With CI=true a missing one is a failure.
if(NOT CUOBJDUMP OR NOT NVDISASM)
  if("$ENV{CI}" STREQUAL "true")
    message(FATAL_ERROR "no cuobjdump or nvdisasm: run scripts/setup.sh, then configure again")
  endif()
  message("SKIPPED: no cuobjdump or nvdisasm")
  return()
endif()
string(REPLACE "," ";" ARCHITECTURES "${ARCHITECTURES}")
file(REMOVE_RECURSE "${WORK_DIR}")
file(MAKE_DIRECTORY "${WORK_DIR}")
set(failures "")
set(summary "")
foreach(kernel IN ITEMS prefill decode)
  foreach(head_dim IN ITEMS 64 128)
    set(object "${OBJECTS}/attention_${kernel}_d${head_dim}.o")
    foreach(architecture IN LISTS ARCHITECTURES)
      execute_process(COMMAND "${CUOBJDUMP}" -xelf "sm_${architecture}" "${object}"
                      WORKING_DIRECTORY "${WORK_DIR}" OUTPUT_QUIET ERROR_QUIET)
      set(cubin "${WORK_DIR}/attention_${kernel}_d${head_dim}.sm_${architecture}.cubin")
      execute_process(COMMAND "${NVDISASM}" -c "${cubin}" RESULT_VARIABLE result
                      OUTPUT_VARIABLE sass ERROR_VARIABLE error)
      if(NOT result EQUAL 0)
        string(APPEND failures "${object} sm_${architecture}: cannot be disassembled: ${error}\n")
        continue()
      endif()
      foreach(dtype IN ITEMS bf16 fp16)
        set(entry "rillkv_${kernel}_d${head_dim}_${dtype}")
        # The text of one entry: from its section to the next.
        string(FIND "${sass}" ".text.${entry}:" begin)
        string(SUBSTRING "${sass}" ${begin} -1 body)
        string(FIND "${body}" "//---------------------" end)
        string(SUBSTRING "${body}" 0 ${end} body)
        set(line "${entry} sm_${architecture}:")
        # What must be there at least. Prefill, a tile: head_dim x 128 x 16 x 2 products a warp in
        # pieces of 16 x 8 x 16, an ldmatrix feeds two of them, and there is one set of them for
        # packed tiles and one for dense ones. Decode: scores of two steps (12), values of two
        # operands (head_dim / 8), and what tiles of uncompressed tokens take, an ldmatrix each.
        # Copies: keys, rotation and values, before the loop and in it. Wide loads: the tables of
        # rotations, packed rows of sinks, and both dense segments.
        math(EXPR products "2 * ${head_dim}")
        set(matrices ${products})
        if(kernel STREQUAL "decode")
          math(EXPR matrices "${head_dim} / 8")
          math(EXPR products "12 + 2 * ${matrices}")
        endif()
        foreach(demand IN ITEMS "HMMA\\.16816\\.F32:${products}" "LDSM\\.16\\.M:${matrices}"
                                "LDGSTS\\.E\\.[A-Z.]*128:6" "LDG\\.E\\.128:20" "STS\\.64:8"
                                "LDL:0" "STL:0")
          string(REGEX REPLACE ":.*" "" pattern "${demand}")
          string(REGEX REPLACE ".*:" "" least "${demand}")
          string(REGEX MATCHALL "${pattern}" hits "${body}")
          list(LENGTH hits count)
          string(REGEX REPLACE "\\\\.*" "" short "${pattern}")
          string(APPEND line " ${short} ${count}")
          if((least EQUAL 0 AND count GREATER 0) OR count LESS least)
            string(APPEND failures
                   "${entry} sm_${architecture}: ${count} of ${pattern}, expected ${least}\n")
          endif()
        endforeach()
        string(APPEND summary "${line}\n")
      endforeach()
    endforeach()
  endforeach()
endforeach()
# rillkv_ingest_*: at least eight loads of squared queries are under way before the first is used. The
# loop is the basic block with the most squares (FMUL of a register with itself) that loads without
# predicates; none of the registers loaded so far may be an operand of what stands before the eighth
# load.
foreach(architecture IN LISTS ARCHITECTURES)
  set(object "${OBJECTS}/ingest.o")
  execute_process(COMMAND "${CUOBJDUMP}" -xelf "sm_${architecture}" "${object}"
                  WORKING_DIRECTORY "${WORK_DIR}" OUTPUT_QUIET ERROR_QUIET)
  execute_process(COMMAND "${NVDISASM}" -c "${WORK_DIR}/ingest.sm_${architecture}.cubin"
                  RESULT_VARIABLE result OUTPUT_VARIABLE sass ERROR_VARIABLE error)
  if(NOT result EQUAL 0)
    string(APPEND failures "${object} sm_${architecture}: cannot be disassembled: ${error}\n")
    continue()
  endif()
  foreach(dtype IN ITEMS bf16 fp16 fp32)
    set(entry "rillkv_ingest_${dtype}")
    string(FIND "${sass}" ".text.${entry}:" begin)
    string(SUBSTRING "${sass}" ${begin} -1 body)
    string(FIND "${body}" "//---------------------" end)
    string(SUBSTRING "${body}" 0 ${end} body)
    string(REGEX MATCHALL "\n(\\.L_[^\n]*|[^\n]*/\\*[0-9a-f]+\\*/ [^;\n]*)" lines "${body}")
    list(APPEND lines "\n.L_end:")
    set(most_squares 0)
    set(longest 0)  # loads before the first use in the block with the most squares
    set(squares 0)
    set(run 0)
    set(used FALSE)
    set(loaded "")
    foreach(line IN LISTS lines)
      if(line MATCHES "^\n\\.L_")
        if(run GREATER 0 AND squares GREATER most_squares)
          set(most_squares ${squares})
          set(longest ${run})
        endif()
        set(squares 0)
        set(run 0)
        set(used FALSE)
        set(loaded "")
        continue()
      endif()
      if(line MATCHES " FMUL R[0-9]+, R([0-9]+)(\\.reuse)?, R([0-9]+)" AND CMAKE_MATCH_1 EQUAL
                                                                         CMAKE_MATCH_3)
        math(EXPR squares "${squares} + 1")
      endif()
      if(used)
        continue()
      endif()
      list(JOIN loaded "|" pattern)
      if(run GREATER 0 AND NOT line MATCHES " LDG" AND line MATCHES "[ ,|-]R(${pattern})([^0-9]|$)")
        set(used TRUE)
      endif()
      # The matched register must be that of the condition's last match.
      if(NOT line MATCHES " @" AND line MATCHES " LDG\\.[^ ]+ R([0-9]+),")
        math(EXPR run "${run} + 1")
        list(APPEND loaded "${CMAKE_MATCH_1}")
      endif()
    endforeach()
    string(APPEND summary "${entry} sm_${architecture}: ${longest} loads before the first use\n")
    if(most_squares LESS 24)
      string(APPEND failures
             "${entry} sm_${architecture}: no loop of squares, the most in a block: ${most_squares}\n")
    endif()
    if(longest LESS 8)
      string(APPEND failures
             "${entry} sm_${architecture}: ${longest} loads before the first use, expected 8\n")
    endif()
  endforeach()
endforeach()
message("${summary}")
if(failures)
  message(FATAL_ERROR "SASS:\n${failures}")
endif()
