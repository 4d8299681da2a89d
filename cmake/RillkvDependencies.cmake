# The other libraries. Installed too: a static librillkv passes them on to its users.
#
#   nlohmann_json::nlohmann_json   JSON
#   rillkv::sentencepiece          tokenizer.model
#   rillkv::pcre2                  the splitting regexes of tokenizer.json

find_package(nlohmann_json 3.11 REQUIRED)
find_package(PkgConfig REQUIRED)

# A pkg-config module as one imported target under our own name.
function(_rillkv_pkg_config name module)
  if(NOT TARGET rillkv::${name})
    pkg_check_modules(RILLKV_${name} REQUIRED QUIET IMPORTED_TARGET GLOBAL ${module})
    add_library(rillkv::${name} INTERFACE IMPORTED GLOBAL)
    target_link_libraries(rillkv::${name} INTERFACE PkgConfig::RILLKV_${name})
  endif()
endfunction()

_rillkv_pkg_config(sentencepiece sentencepiece)
_rillkv_pkg_config(pcre2 libpcre2-8)
