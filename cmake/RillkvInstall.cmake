# cmake --install and the package that find_package(rillkv) reads.
include(CMakePackageConfigHelpers)

set(RILLKV_PACKAGE_DIR "${CMAKE_INSTALL_LIBDIR}/cmake/rillkv")

install(TARGETS rillkv rillkv_eval EXPORT rillkv-targets
        ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}"
        LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}")
install(DIRECTORY "${PROJECT_SOURCE_DIR}/include/rillkv" TYPE INCLUDE FILES_MATCHING PATTERN "*.h")
install(EXPORT rillkv-targets NAMESPACE rillkv:: DESTINATION "${RILLKV_PACKAGE_DIR}")

configure_package_config_file("${PROJECT_SOURCE_DIR}/cmake/rillkv-config.cmake.in"
                              "${PROJECT_BINARY_DIR}/rillkv-config.cmake"
                              INSTALL_DESTINATION "${RILLKV_PACKAGE_DIR}")
write_basic_package_version_file("${PROJECT_BINARY_DIR}/rillkv-config-version.cmake"
                                 COMPATIBILITY SameMinorVersion)
install(FILES "${PROJECT_BINARY_DIR}/rillkv-config.cmake"
              "${PROJECT_BINARY_DIR}/rillkv-config-version.cmake"
              "${PROJECT_SOURCE_DIR}/cmake/RillkvTorch.cmake"
              "${PROJECT_SOURCE_DIR}/cmake/RillkvDependencies.cmake"
        DESTINATION "${RILLKV_PACKAGE_DIR}")
