# SPDX-License-Identifier: MIT
# Debian packages: handoffd, libhandoff0 and libhandoff-dev, built by contrib/build-packages.
set(CPACK_GENERATOR DEB)
set(CPACK_COMPONENTS_ALL handoffd library development)
set(CPACK_COMPONENTS_GROUPING ONE_PER_GROUP)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_PACKAGE_CONTACT "The handoffd developers <developers@handoff.dev>")
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_GENERATE_SHLIBS ON)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
set(CPACK_DEBIAN_COMPRESSION_TYPE xz)
set(CPACK_PRE_BUILD_SCRIPTS ${PROJECT_SOURCE_DIR}/cmake/DebianFiles.cmake)

set(CPACK_DEBIAN_HANDOFFD_PACKAGE_NAME handoffd)
set(CPACK_DEBIAN_HANDOFFD_PACKAGE_SECTION admin)
set(CPACK_COMPONENT_HANDOFFD_DESCRIPTION "A master process holds the listening sockets of services, starts a new
generation of their program on a reload, turns new connections to it when it
is ready, and lets the old one finish what it has. Works with servers in any
language, also with those that know nothing of it.")
set(CPACK_DEBIAN_HANDOFFD_PACKAGE_RECOMMENDS systemd)
set(CPACK_DEBIAN_HANDOFFD_PACKAGE_CONTROL_EXTRA
    "${PROJECT_SOURCE_DIR}/contrib/debian/postinst;${PROJECT_SOURCE_DIR}/contrib/debian/prerm;${PROJECT_SOURCE_DIR}/contrib/debian/postrm")

set(CPACK_DEBIAN_LIBRARY_PACKAGE_NAME libhandoff${PROJECT_VERSION_MAJOR})
set(CPACK_DEBIAN_LIBRARY_PACKAGE_SECTION libs)
set(CPACK_DEBIAN_LIBRARY_PACKAGE_CONTROL_EXTRA ${PROJECT_SOURCE_DIR}/contrib/debian/triggers)
set(CPACK_COMPONENT_LIBRARY_DESCRIPTION "This is the library for workers that are written in C: connections in flight
are counted, drained and passed on, memory is kept over reloads.")

set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_NAME libhandoff-dev)
set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_SECTION libdevel)
set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_DEPENDS
    "libhandoff${PROJECT_VERSION_MAJOR} (= ${PROJECT_VERSION}), libev-dev")
set(CPACK_COMPONENT_DEVELOPMENT_DESCRIPTION "Header, pkg-config and CMake files, and manual pages of libhandoff.")
include(CPack)
