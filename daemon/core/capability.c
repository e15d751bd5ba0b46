/* SPDX-License-Identifier: MIT */
#include "core/capability.h"

#include <string.h>

static const char *const names[] = {
#define X(name, text) text,
        CAPABILITIES(X)
#undef X
};

/* handoffd(8) has the same table at length. */
static const char *const lost[CAPABILITY_COUNT] = {
        [CAPABILITY_BPF] = "TCP is steered by classic BPF",
        [CAPABILITY_NET_BIND_SERVICE] = "no ports below 1024",
        [CAPABILITY_SETUID] = "no other users",
        [CAPABILITY_SETGID] = "no other groups",
        [CAPABILITY_KILL] = "workers of other users cannot be told to stop",
        [CAPABILITY_SYS_PTRACE] = "no sockets of other users' programs",
        [CAPABILITY_SYS_ADMIN] = "no set-user-ID programs where sockets are adopted",
        [CAPABILITY_NET_ADMIN] = "drains are counted more often under high load",
        [CAPABILITY_SYS_RESOURCE] = "no limits above its own",
        [CAPABILITY_SYS_NICE] = "no nice below its own",
        [CAPABILITY_CHOWN] = "no other owners of UNIX sockets",
        [CAPABILITY_FOWNER] = "no modes of files of other users",
        [CAPABILITY_DAC_OVERRIDE] = "no files that their modes forbid",
        [CAPABILITY_SETPCAP] = "workers under root keep all that it has",
};

const char *capability_name(unsigned index)
{
	return index < ARRAY_SIZE(names) ? names[index] : NULL;
}

const char *capability_lost(unsigned index)
{
	return index < ARRAY_SIZE(lost) ? lost[index] : NULL;
}

uint64_t capabilities_own(void)
{
	uint64_t bits = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(lost); i++)
		bits |= lost[i] ? UINT64_C(1) << i : 0;
	return bits;
}

uint64_t capabilities_lost(uint64_t bits)
{
	if (bits & CAPABILITY_BIT(SYS_ADMIN))
		bits |= CAPABILITY_BIT(BPF); /* which was a part of it once */
	return capabilities_own() & ~bits;
}

static bool parse_one(const char *word, size_t length, uint64_t *bits)
{
	if (length > 0 && *word == '^') {
		word++;
		length--;
	}
	if (length > 4 && !strncasecmp(word, "cap_", 4)) {
		word += 4;
		length -= 4;
	}
	for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
		if (strlen(names[i]) != length || strncasecmp(names[i], word, length) != 0)
			continue;
		*bits |= UINT64_C(1) << i;
		return true;
	}
	return false;
}

bool capabilities_parse(const char *text, uint64_t *ret)
{
	uint64_t bits = 0;

	for (;;) {
		size_t length = strcspn(text, ",");

		if (!parse_one(text, length, &bits))
			return false;
		if (!text[length])
			break;
		text += length + 1;
	}
	*ret = bits;
	return true;
}

void capabilities_add(struct text *t, uint64_t bits, const char *between)
{
	const char *before = "";

	for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
		if (!(bits >> i & 1))
			continue;
		text_add(t, "%s%s", before, names[i]);
		before = between;
	}
	if (!bits)
		text_add(t, "none");
}
