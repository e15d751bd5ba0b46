/* SPDX-License-Identifier: MIT */
#include "core/record.h"

const char *record_type_to_string(enum record_type t)
{
	static const char *const names[] = {
#define X(id, name, level) [RECORD_##id] = name,
	        RECORD_TYPES(X)
#undef X
	};

	return names[t];
}

enum record_level record_level(enum record_type t)
{
	static const enum record_level levels[] = {
#define X(id, name, level) [RECORD_##id] = RECORD_##level,
	        RECORD_TYPES(X)
#undef X
	};

	return levels[t];
}
