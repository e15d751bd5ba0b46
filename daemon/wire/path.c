/* SPDX-License-Identifier: MIT */
#include "wire/path.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/base.h"

int control_default_path(char *buf, size_t size)
{
	const char *named = getenv("HANDOFF_CONTROL"), *runtime = getenv("XDG_RUNTIME_DIR");
	struct text t = {.p = buf, .size = size};

	buf[0] = '\0';
	if (named && *named)
		text_add(&t, "%s", named);
	else if (geteuid() == 0)
		text_add(&t, "/run/handoffd/control.sock");
	else if (runtime && *runtime)
		text_add(&t, "%s/handoffd/control.sock", runtime);
	else
		return -ENOENT;
	return t.cut ? -ENAMETOOLONG : 0;
}
