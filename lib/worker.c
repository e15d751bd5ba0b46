/* SPDX-License-Identifier: MIT */
/* Who this process is for handoffd: its variables, believed only where they are well formed. */
#include "handoff.h"

#include <limits.h>
#include <stdlib.h>

#include "internal.h"

bool read_number(const char *text, unsigned long max, unsigned long *ret)
{
	unsigned long value = 0;

	if (!text || !*text)
		return false;
	for (; *text; text++) {
		unsigned long digit = (unsigned long)(unsigned char)*text - '0';

		if (digit > 9 || value > max / 10 || value * 10 > max - digit)
			return false;
		value = value * 10 + digit;
	}
	*ret = value;
	return true;
}

static const char *variable(const char *name)
{
	const char *value = getenv(name);

	return value && *value ? value : NULL;
}

const char *handoff_version(void)
{
	return HANDOFF_VERSION;
}

unsigned handoff_generation(void)
{
	unsigned long n;

	return read_number(getenv("HANDOFF_GENERATION"), UINT_MAX, &n) ? (unsigned)n : 0;
}

int handoff_worker(void)
{
	unsigned long n;

	return read_number(getenv("HANDOFF_WORKER"), INT_MAX, &n) ? (int)n : -1;
}

const char *handoff_service(void)
{
	return variable("HANDOFF_SERVICE");
}

const char *handoff_release(void)
{
	return variable("HANDOFF_RELEASE");
}

const char *handoff_environment(void)
{
	return variable("HANDOFF_ENVIRONMENT");
}

unsigned handoff_previous(void)
{
	unsigned long n;

	return read_number(getenv("HANDOFF_PREVIOUS"), UINT_MAX, &n) ? (unsigned)n : 0;
}

const char *handoff_previous_release(void)
{
	return variable("HANDOFF_PREVIOUS_RELEASE");
}
