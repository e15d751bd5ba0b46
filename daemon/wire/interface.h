/* SPDX-License-Identifier: MIT */
/* The names and the text of the interface that the control socket speaks; said here once. */
#ifndef WIRE_INTERFACE_H
#define WIRE_INTERFACE_H

#define INTERFACE_MANAGER "dev.handoff.Manager"
#define INTERFACE_SERVICE "org.varlink.service"

#define ERROR_FAILED INTERFACE_MANAGER ".Failed"
#define ERROR_INTERFACE_NOT_FOUND INTERFACE_SERVICE ".InterfaceNotFound"
#define ERROR_METHOD_NOT_FOUND INTERFACE_SERVICE ".MethodNotFound"
#define ERROR_INVALID_PARAMETER INTERFACE_SERVICE ".InvalidParameter"
#define ERROR_EXPECTED_MORE INTERFACE_SERVICE ".ExpectedMore"

/* The description of an interface in varlink's own syntax, or NULL. */
const char *interface_description(const char *name);

#endif
