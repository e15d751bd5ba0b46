#!/bin/sh
# SPDX-License-Identifier: MIT
# The core may use memory and text functions of libc and nothing else: no system call, no clock, no output.
set -eu
nm=$1
archive=$2
allowed='abort|calloc|malloc|realloc|free|strdup|memcpy|memset|memcmp|memmove|strlen|strcmp|strncmp|strncasecmp|strcspn|strchr|snprintf|vsnprintf|sigabbrev_np|__stack_chk_fail|__(v)?snprintf_chk|__mem(cpy|set|move)_chk|__asan_.*|__ubsan_.*|_GLOBAL_OFFSET_TABLE_|__sanitizer_.*'
defined=$(mktemp)
trap 'rm -f "$defined"' EXIT
"$nm" --defined-only --extern-only -f posix "$archive" | awk 'NF >= 3 {print $1}' | sort -u > "$defined"
strangers=$("$nm" -u -f posix "$archive" | awk 'NF >= 2 && $2 ~ /^[Uw]$/ {print $1}' | sort -u |
	grep -vxF -f "$defined" | grep -vxE "$allowed" || true)
if [ -n "$strangers" ]; then
	echo "the core uses what it must not:"
	echo "$strangers"
	exit 1
fi
includes=$(grep -hE '^#include' "$(dirname "$0")"/../../daemon/core/*.[ch] |
	grep -vE '"core/|<(assert|errno|inttypes|limits|stdarg|stdbool|stddef|stdint|stdio|stdlib|string)\.h>' || true)
if [ -n "$includes" ]; then
	echo "the core includes what it must not:"
	echo "$includes"
	exit 1
fi
echo "core is pure"
