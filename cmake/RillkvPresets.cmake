# Compiles configs/presets/*.json in, so that a preset's name works wherever the library is linked.
foreach(preset IN ITEMS seed balanced quality compact extreme dense)
  set(file "${PROJECT_SOURCE_DIR}/configs/presets/${preset}.json")
  file(READ "${file}" RILLKV_PRESET_${preset})
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${file}")
endforeach()
configure_file("${PROJECT_SOURCE_DIR}/src/core/presets.cpp.in" "${PROJECT_BINARY_DIR}/presets.cpp" @ONLY)
