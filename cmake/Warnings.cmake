# SPDX-License-Identifier: MIT
# House flags, for gcc 12 and clang 14; hardening in optimised builds.
add_compile_definitions(_GNU_SOURCE HANDOFF_VERSION="${PROJECT_VERSION}")
add_compile_options(-Wall -Wextra -Werror -Wshadow -Wvla -Wformat=2 -Wmissing-prototypes
                    -Wstrict-prototypes -Wswitch-enum -Wpointer-arith -Wwrite-strings -Wundef)
if(HANDOFF_SANITIZE)
  add_compile_options(-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer)
  add_link_options(-fsanitize=address,undefined)
else()
  add_compile_options(-fstack-protector-strong -fstack-clash-protection)
  add_link_options(-Wl,-z,relro,-z,now,-z,noexecstack)
  if(NOT CMAKE_BUILD_TYPE STREQUAL "Debug")
    add_compile_options(-U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=3)
  endif()
endif()
# Position-independent executables need the linker's word as well.
include(CheckPIESupported)
check_pie_supported(LANGUAGES C)
