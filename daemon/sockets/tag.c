/* SPDX-License-Identifier: MIT */
/* See tag.h. The order of the bits is our own affair: nothing but this file knows it. */
#include "sockets/tag.h"

#include <errno.h>
#include <linux/inet_diag.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

static const struct {
	int option;
	bool inverted; /* a fresh socket has it set */
} bits[] = {
        {IP_MULTICAST_LOOP, true},
        {IP_FREEBIND, false},
        {IP_BIND_ADDRESS_NO_PORT, false},
        {IP_RECVERR_RFC4884, false},
};

int tag_set(int fd, uint8_t tag)
{
	HO_ASSERT(tag < TAG_COUNT);
	for (size_t i = 0; i < ARRAY_SIZE(bits); i++) {
		int on = ((tag >> i) & 1) != bits[i].inverted;

		if (setsockopt(fd, SOL_IP, bits[i].option, &on, sizeof on) < 0)
			return -errno;
	}
	return 0;
}

uint8_t tag_get(int fd)
{
	unsigned tag = 0;

	for (size_t i = 0; i < ARRAY_SIZE(bits); i++) {
		int on = 0;
		socklen_t n = sizeof on;

		if (getsockopt(fd, SOL_IP, bits[i].option, &on, &n) < 0)
			return TAG_NONE;
		tag |= (unsigned)((on != 0) != bits[i].inverted) << i;
	}
	return (uint8_t)tag;
}

uint8_t tag_from_sockopt(const uint8_t *bytes, size_t n)
{
	struct inet_diag_sockopt o;

	if (n < sizeof o)
		return TAG_NONE;
	memcpy(&o, bytes, sizeof o);
	return (uint8_t)((o.mc_loop ? 0 : 1) | (o.freebind ? 2 : 0) |
	                 (o.bind_address_no_port ? 4 : 0) | (o.recverr_rfc4884 ? 8 : 0));
}
