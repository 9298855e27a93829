# {{ model }}: {{ file }}.cpp with its kernels as one program, which needs the driver of CUDA only when it runs.
#
#     cmake -B build && cmake --build build && ./{{ file }} --help

cmake_minimum_required(VERSION 3.16)
project("{{ file }}" LANGUAGES CXX)

if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()

add_executable(program {{ file }}.cpp)
target_compile_features(program PRIVATE cxx_std_17)
target_link_libraries(program PRIVATE ${CMAKE_DL_LIBS})
# It is called as the model, and lies beside its weights.
set_target_properties(program PROPERTIES
  OUTPUT_NAME "{{ file }}"
  RUNTIME_OUTPUT_DIRECTORY "${CMAKE_CURRENT_SOURCE_DIR}")

# The cubins are part of it: the assembler reads them, and other ones make it anew.
target_compile_definitions(program PRIVATE "FUSEC_KERNELS=\"${CMAKE_CURRENT_SOURCE_DIR}/kernels/\"")
file(GLOB cubins CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/kernels/*.cubin")
set_source_files_properties({{ file }}.cpp PROPERTIES OBJECT_DEPENDS "${cubins}")
