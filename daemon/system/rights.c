/* SPDX-License-Identifier: MIT */
#include "system/rights.h"

#include <linux/capability.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/capability.h"

static struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};

void rights_lower(void)
{
	const uint64_t used = capabilities_own();
	struct __user_cap_data_struct data[2];

	/* Without SYS_PTRACE the kernel shows us only processes that have no more than we. */
	if (syscall(SYS_capget, &header, data) < 0 ||
	        !(data[0].permitted & CAPABILITY_BIT(SYS_PTRACE)))
		return;
	data[0].effective = data[0].permitted & (uint32_t)used;
	data[1].effective = data[1].permitted & (uint32_t)(used >> 32);
	(void)syscall(SYS_capset, &header, data);
}

void rights_read(struct rights *ret)
{
	const struct passwd *p = getpwuid(geteuid());
	struct __user_cap_data_struct data[2];

	*ret = (struct rights){0};
	if (p)
		(void)snprintf(ret->user, sizeof ret->user, "%s", p->pw_name);
	else
		(void)snprintf(ret->user, sizeof ret->user, "%u", (unsigned)geteuid());
	if (syscall(SYS_capget, &header, data) == 0)
		ret->capabilities = (uint64_t)data[1].effective << 32 | data[0].effective;
}
