# Language level, warnings, sanitizers and the compiler cache, for every target of ours.

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)

if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Build type" FORCE)
endif()
# Code that calls Torch spends its time inside Torch: -O3 would only lengthen the build. The kernels
# raise it for themselves.
string(REPLACE "-O3" "-O2" CMAKE_CXX_FLAGS_RELEASE "${CMAKE_CXX_FLAGS_RELEASE}")

find_program(RILLKV_CCACHE ccache)
if(RILLKV_CCACHE AND PROJECT_IS_TOP_LEVEL AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  # The sloppiness settings are what ccache's manual asks for to cache beside precompiled headers;
  # the base directory makes clones at different paths share results.
  set(CMAKE_CXX_COMPILER_LAUNCHER
      "${CMAKE_COMMAND}" -E env
      "CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime"
      "CCACHE_BASEDIR=${PROJECT_SOURCE_DIR}" "${RILLKV_CCACHE}")
endif()

# Everything gets the same code-generation flags, so that one precompiled header serves all.
function(rillkv_compile_settings target)
  set_target_properties(${target} PROPERTIES CXX_VISIBILITY_PRESET hidden
                                             VISIBILITY_INLINES_HIDDEN ON)
  target_compile_options(
    ${target}
    PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-Wall>
            $<$<COMPILE_LANGUAGE:CXX>:-Wextra>
            # -fPIC, not POSITION_INDEPENDENT_CODE: that means -fPIE in programs, which differs from
            # the flags of the library's precompiled header.
            $<$<COMPILE_LANGUAGE:CXX>:-fPIC>
            $<$<COMPILE_LANGUAGE:CXX>:-ffp-contract=off>
            $<$<COMPILE_LANG_AND_ID:CXX,GNU>:-fpch-preprocess>
            $<$<COMPILE_LANG_AND_ID:CXX,GNU>:-Winvalid-pch>)
  if(RILLKV_WERROR)
    target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-Werror>)
  endif()
  if(RILLKV_SANITIZE)
    target_compile_options(
      ${target} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=address,undefined>
                        $<$<COMPILE_LANGUAGE:CXX>:-fno-sanitize-recover=all>
                        $<$<COMPILE_LANGUAGE:CXX>:-fno-omit-frame-pointer>)
    # PUBLIC: whoever links sanitized objects needs the run-time library.
    target_link_options(${target} PUBLIC -fsanitize=address,undefined)
  endif()
endfunction()

# Reuses the library's precompiled Torch header in a program.
function(rillkv_use_precompiled_torch target)
  target_precompile_headers(${target} REUSE_FROM rillkv)
endfunction()
