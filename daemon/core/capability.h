/* SPDX-License-Identifier: MIT */
/* The kernel's capabilities by name, as bits of a number, and what they are to handoffd: what it
 * uses itself, and what its workers get. Pure. */
#ifndef CORE_CAPABILITY_H
#define CORE_CAPABILITY_H

#include "core/base.h"

/* Their numbers in the kernel, see capabilities(7). */
#define CAPABILITIES(X)                                                                            \
	X(CHOWN, "chown")                                                                          \
	X(DAC_OVERRIDE, "dac_override")                                                            \
	X(DAC_READ_SEARCH, "dac_read_search")                                                      \
	X(FOWNER, "fowner")                                                                        \
	X(FSETID, "fsetid")                                                                        \
	X(KILL, "kill")                                                                            \
	X(SETGID, "setgid")                                                                        \
	X(SETUID, "setuid")                                                                        \
	X(SETPCAP, "setpcap")                                                                      \
	X(LINUX_IMMUTABLE, "linux_immutable")                                                      \
	X(NET_BIND_SERVICE, "net_bind_service")                                                    \
	X(NET_BROADCAST, "net_broadcast")                                                          \
	X(NET_ADMIN, "net_admin")                                                                  \
	X(NET_RAW, "net_raw")                                                                      \
	X(IPC_LOCK, "ipc_lock")                                                                    \
	X(IPC_OWNER, "ipc_owner")                                                                  \
	X(SYS_MODULE, "sys_module")                                                                \
	X(SYS_RAWIO, "sys_rawio")                                                                  \
	X(SYS_CHROOT, "sys_chroot")                                                                \
	X(SYS_PTRACE, "sys_ptrace")                                                                \
	X(SYS_PACCT, "sys_pacct")                                                                  \
	X(SYS_ADMIN, "sys_admin")                                                                  \
	X(SYS_BOOT, "sys_boot")                                                                    \
	X(SYS_NICE, "sys_nice")                                                                    \
	X(SYS_RESOURCE, "sys_resource")                                                            \
	X(SYS_TIME, "sys_time")                                                                    \
	X(SYS_TTY_CONFIG, "sys_tty_config")                                                        \
	X(MKNOD, "mknod")                                                                          \
	X(LEASE, "lease")                                                                          \
	X(AUDIT_WRITE, "audit_write")                                                              \
	X(AUDIT_CONTROL, "audit_control")                                                          \
	X(SETFCAP, "setfcap")                                                                      \
	X(MAC_OVERRIDE, "mac_override")                                                            \
	X(MAC_ADMIN, "mac_admin")                                                                  \
	X(SYSLOG, "syslog")                                                                        \
	X(WAKE_ALARM, "wake_alarm")                                                                \
	X(BLOCK_SUSPEND, "block_suspend")                                                          \
	X(AUDIT_READ, "audit_read")                                                                \
	X(PERFMON, "perfmon")                                                                      \
	X(BPF, "bpf")                                                                              \
	X(CHECKPOINT_RESTORE, "checkpoint_restore")

enum capability {
#define X(name, text) CAPABILITY_##name,
	CAPABILITIES(X)
#undef X
	        CAPABILITY_COUNT
};
#define CAPABILITY_BIT(name) (UINT64_C(1) << CAPABILITY_##name)

/* What a server that is started as root uses to read its files, take its port and become another
 * user: the set that containers have by default. A worker under root has them unless told
 * otherwise, and whatever a worker executes (set-user-ID programs) cannot have more. */
#define CAPABILITIES_OF_WORKERS                                                                    \
	(CAPABILITY_BIT(CHOWN) | CAPABILITY_BIT(DAC_OVERRIDE) | CAPABILITY_BIT(FOWNER) |           \
	        CAPABILITY_BIT(FSETID) | CAPABILITY_BIT(KILL) | CAPABILITY_BIT(SETGID) |           \
	        CAPABILITY_BIT(SETUID) | CAPABILITY_BIT(SETPCAP) |                                 \
	        CAPABILITY_BIT(NET_BIND_SERVICE) | CAPABILITY_BIT(NET_RAW) |                       \
	        CAPABILITY_BIT(SYS_CHROOT) | CAPABILITY_BIT(MKNOD) | CAPABILITY_BIT(AUDIT_WRITE) | \
	        CAPABILITY_BIT(SETFCAP))

/* "sys_admin", without "cap_"; NULL: it has no name here. */
const char *capability_name(unsigned index);
/* What handoffd cannot do without it, in few words; NULL: nothing. */
const char *capability_lost(unsigned index);
/* All of which something is lost; and those that are lost to who has `bits`. */
uint64_t capabilities_own(void);
uint64_t capabilities_lost(uint64_t bits);

/* Words between commas: names, with or without "cap_" (and the '^' of cap_iab(3)), in any case.
 * False: one is unknown, and `ret` unchanged. "all" and "none" are not for here. */
bool capabilities_parse(const char *text, uint64_t *ret);
/* "chown, kill" with ", " between them, or "none". */
void capabilities_add(struct text *t, uint64_t bits, const char *between);

#endif
