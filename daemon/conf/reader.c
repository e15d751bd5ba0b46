/* SPDX-License-Identifier: MIT */
/* Drives libconfuse and records what it meets as it meets it. The parser's own tree is not used: it
 * knows no lines, and a block with a title seen before replaces the first one. So every option is a
 * list of strings with a callback at each value; a hidden list with a default tells that a block
 * opens (its default is parsed right then), the validator of the block that it closes.
 *
 * The parser stops at its first mistake. For unknown keys and settings without a value, the setting
 * is blanked and the text parsed again, so that all of them are found; other breaks of the syntax
 * end the reading, and what was met before is still checked. */
#include "conf/reader.h"

#include <confuse.h>
#include <errno.h>
#include <string.h>

#include "conf/guard.h"
#include "conf/keys.h"

#define OPENING "__open"
static char opening_default[] = "{x}";
#define MAX_NESTING 6  /* service, environment, listen and one too many */
#define MAX_BLOCKS 512 /* in a service */
#define MAX_REREADS (CONF_MAX_MISTAKES + 1)
#define MAX_REREAD_BYTES ((size_t)2 << 20) /* so that a hostile file costs seconds at most */

struct level {
	cfg_t *cfg;
	struct raw_block *block;
	const char *section; /* "drain": part of its block, not a block of its own */
	struct raw_setting *current;
	int line;
	size_t blocks;
};

struct reader {
	const char *file;
	struct mistakes *m;
	struct guarded guarded;
	struct config *arena;
	struct raw_block *root;
	struct level levels[MAX_NESTING];
	size_t depth;
	bool oom, said, whole, sentinel;
	char blank[CONFIG_MAX_NAME]; /* what to take out before the next reading, or "" */
	int blank_line;
	bool blank_without_value;
};

/* libconfuse hands no pointer of ours to its callbacks. */
static struct reader *reading;

static struct level *top(void)
{
	return &reading->levels[reading->depth - 1];
}

static int fail_memory(void)
{
	reading->oom = true;
	return -1;
}

static int fail(int line, const char *what)
{
	mistakes_add(reading->m, reading->file, line, "%s", what);
	reading->said = true;
	return -1;
}

static bool kind_of(const char *name, enum raw_kind *ret)
{
	if (!strcmp(name, "service"))
		*ret = RAW_SERVICE;
	else if (!strcmp(name, "environment"))
		*ret = RAW_ENVIRONMENT;
	else if (!strcmp(name, "listen"))
		*ret = RAW_LISTEN;
	else
		return false;
	return true;
}

static void open_block(cfg_t *cfg)
{
	struct level *parent = top(), *level;
	enum raw_kind kind;

	if (reading->depth == MAX_NESTING) {
		(void)fail(cfg->line, "blocks are nested too deeply");
		return;
	}
	parent->blocks++;
	level = &reading->levels[reading->depth++];
	*level = (struct level){.cfg = cfg, .block = parent->block, .line = cfg->line};
	if (kind_of(cfg_name(cfg), &kind))
		level->block =
		        raw_block_add(reading->arena, parent->block, kind, cfg->title, cfg->line);
	else
		level->section = cfg_name(cfg);
	if (!level->block) {
		(void)fail_memory();
		level->block = parent->block;
	}
}

/* Called for the default of OPENING when a block opens. Must not fail: the parser would abort. */
static int on_open(cfg_t *cfg, cfg_opt_t *opt, const char *value, void *result)
{
	(void)opt;
	(void)value;
	*(const char **)result = "";
	if (top()->cfg == cfg)
		return fail(cfg->line, "unknown key \"" OPENING "\"");
	open_block(cfg);
	return 0;
}

static bool is_own(cfg_t *cfg, const cfg_opt_t *opt)
{
	return opt >= cfg->opts && opt < cfg->opts + cfg_num(cfg);
}

/* Called when a block closes; `cfg` is the one around it. */
static int on_close(cfg_t *cfg, cfg_opt_t *opt)
{
	size_t limit;

	if (reading->oom || reading->said)
		return -1;
	if (reading->depth < 2 || reading->levels[reading->depth - 2].cfg != cfg ||
	        !is_own(cfg, opt))
		return fail(top()->line, "write a block inside of the one that it belongs to");
	reading->depth--;
	limit = reading->depth == 1 ? CONFIG_MAX_SERVICES : MAX_BLOCKS;
	if (top()->blocks > limit)
		return fail(cfg->line, reading->depth == 1 ? "there are more than 4096 services"
		                                           : "there are too many blocks");
	return 0;
}

/* Called for every value. */
static int on_value(cfg_t *cfg, cfg_opt_t *opt, const char *value, void *result)
{
	struct level *level = top();
	const struct key *key;

	*(const char **)result = "";
	if (reading->oom || reading->said)
		return -1;
	if (level->cfg != cfg || !is_own(cfg, opt))
		return fail(cfg->line, "write a key inside of the block that it belongs to");
	key = key_find(level->block->kind, level->section, opt->name);
	HO_ASSERT(key);
	/* A new assignment begins with the first value of the parser's list; "+=" goes on with it.
	 */
	if (opt->nvalues == 1 || level->current->key != key) {
		struct raw_setting *before = raw_setting_find(level->block, key);

		level->current = before;
		if (opt->nvalues > 1)
			HO_ASSERT(before);
		else if (!before)
			level->current = raw_setting_add(
			        reading->arena, level->block, key, key->name, cfg->line);
		else if (!before->twice)
			mistakes_add(reading->m, reading->file, cfg->line,
			        "%s: was already set at line %d; keep one of them", key->name,
			        before->line);
		if (!level->current)
			return fail_memory();
		if (opt->nvalues == 1)
			level->current->twice = before != NULL;
	}
	if (level->current->twice)
		return 0;
	if (!raw_value_add(reading->arena, level->current, value, cfg->line))
		return fail_memory();
	return 0;
}

static int on_sentinel(cfg_t *cfg, cfg_opt_t *opt, const char *value, void *result)
{
	(void)opt;
	(void)value;
	*(const char **)result = "";
	if (cfg->line <= reading->guarded.last_line)
		return fail(cfg->line, "unknown key \"" GUARD_SENTINEL "\"");
	reading->sentinel = true;
	return 0;
}

static const char *block_words(const struct level *level, char *buffer, size_t size)
{
	static const char *const kinds[] = {
	        [RAW_ROOT] = "",
	        [RAW_SERVICE] = "service",
	        [RAW_ENVIRONMENT] = "environment",
	        [RAW_LISTEN] = "listen",
	};
	char title[SHOWN_SIZE];
	struct text t = {.p = buffer, .size = size};

	buffer[0] = '\0';
	if (level->section)
		text_add(&t, " in block \"%s\"", level->section);
	else if (level->block->kind != RAW_ROOT)
		text_add(&t, " in %s \"%s\"", kinds[level->block->kind],
		        shown(level->block->title, title));
	return buffer;
}

/* The block that a key belongs into which stands in the wrong place. */
static const struct key *misplaced(const char *name)
{
	size_t n;
	const struct key *keys = keys_of(RAW_SERVICE, &n);

	for (size_t i = 0; i < n; i++) {
		const char *option = keys[i].option ? keys[i].option : "";

		if (key_section_length(&keys[i]) && keys[i].type != KEY_LIMIT &&
		        (!strcmp(key_leaf(&keys[i]), name) || !strcmp(keys[i].name, name) ||
		                !strcmp(option, name)))
			return &keys[i];
	}
	return NULL;
}

static void unknown_key(cfg_t *cfg, const char *name)
{
	struct nearest nearest = {.word = name}, inner = {.word = name};
	size_t n;
	const struct key *keys = keys_of(RAW_SERVICE, &n), *other = misplaced(name);
	char where[160], buffer[SHOWN_SIZE], hint[160];
	struct text t = TEXT_ON(hint);

	for (unsigned i = 0; i < cfg_num(cfg); i++)
		if (strncmp(cfg->opts[i].name, "__", 2) != 0)
			nearest_try(&nearest, cfg->opts[i].name);
	for (size_t i = 0; reading->depth == 1 && i < n; i++)
		if (!key_section_length(&keys[i]))
			nearest_try(&inner, keys[i].name);
	if (nearest.best)
		text_add(&t, "did you mean \"%s\"?", nearest.best);
	else if (inner.best)
		text_add(
		        &t, "did you mean \"%s\", inside of service \"NAME\" { ... }?", inner.best);
	else if (other && !top()->section && top()->block->kind != RAW_LISTEN)
		text_add(&t, "in a service, write %.*s { %s = ... }",
		        (int)key_section_length(other), other->name, key_leaf(other));
	else
		text_add(&t, "take it out, or see handoffd.conf(5) for the keys there are");
	mistakes_add(reading->m, reading->file, cfg->line, "unknown key \"%s\"%s; %s",
	        shown(name, buffer), block_words(top(), where, sizeof where), hint);
}

/* What libconfuse says, and what handoffd says instead. */
static const struct {
	const char *format, *words;
	bool without_value, can_go_on;
} complaints[] = {
        {"missing equal sign after option '%s'", "needs a value; write %s = ...", true, true},
        {"missing opening brace for section '%s'", "is a block; write %s { ... }", false, true},
        {"missing title for section '%s'", "needs a name; write %s \"NAME\" { ... }", false, true},
        {"unexpected token '%s'", "is not expected here; look for a missing quote, comma or brace",
                false, false},
        {"premature end of file", "the file ends too early; is it cut?", false, false},
};

static void go_on_without(const char *name, int line, bool without_value)
{
	if (!copy_string(reading->blank, sizeof reading->blank, name))
		reading->blank[0] = '\0';
	reading->blank_line = line;
	reading->blank_without_value = without_value;
}

static void complain(size_t i, cfg_t *cfg, const char *name)
{
	char buffer[SHOWN_SIZE], words[200];
	struct text t = TEXT_ON(words);
	const char *rest = strstr(complaints[i].words, "%s");
	size_t n = rest ? (size_t)(rest - complaints[i].words) : strlen(complaints[i].words);
	int line = cfg->line;

	(void)shown(name, buffer);
	text_add_bytes(&t, complaints[i].words, n);
	if (rest)
		text_add(&t, "%s%s", buffer, rest + 2);
	if (complaints[i].can_go_on) {
		go_on_without(name, line, complaints[i].without_value);
		/* The parser has read on to the next word; the one meant is on a line before it. */
		if (reading->blank[0] && guard_blank(&reading->guarded, name, line,
		                                 complaints[i].without_value, &line))
			reading->blank_line = -line;
		else
			reading->blank[0] = '\0';
	}
	if (*name)
		mistakes_add(reading->m, reading->file, line, "\"%s\" %s", buffer, words);
	else
		mistakes_add(reading->m, reading->file, line, "%s", words);
}

static void on_error(cfg_t *cfg, const char *format, va_list ap) _printf_(2, 0);
static void on_error(cfg_t *cfg, const char *format, va_list ap)
{
	const char *name = "";

	if (reading->said || reading->oom)
		return;
	reading->said = true;
	if (!strcmp(format, "no such option '%s'")) {
		name = va_arg(ap, const char *);
		unknown_key(cfg, name);
		go_on_without(name, cfg->line, false);
		return;
	}
	for (size_t i = 0; i < ARRAY_SIZE(complaints); i++) {
		if (strcmp(format, complaints[i].format) != 0)
			continue;
		if (strstr(format, "%s"))
			name = va_arg(ap, const char *);
		complain(i, cfg, name);
		return;
	}
	mistakes_add(reading->m, reading->file, cfg->line,
	        "this is not understood; look for a missing quote, comma or brace");
}

static cfg_opt_t *options_of(enum raw_kind kind, const char *section, size_t extra, size_t *ret_n)
{
	size_t n;
	const struct key *keys = keys_of(kind, &n);
	cfg_opt_t *opts = config_alloc(reading->arena, (n + extra + 2) * sizeof *opts);
	const size_t length = section ? strlen(section) : 0;

	*ret_n = 0;
	if (!opts)
		return NULL;
	if (kind != RAW_ROOT)
		opts[(*ret_n)++] =
		        (cfg_opt_t)CFG_STR_LIST_CB(OPENING, opening_default, CFGF_NONE, on_open);
	for (size_t i = 0; i < n; i++)
		if (key_section_length(&keys[i]) == length &&
		        (!length || !memcmp(keys[i].name, section, length)))
			opts[(*ret_n)++] = (cfg_opt_t)CFG_STR_LIST_CB(
			        key_leaf(&keys[i]), NULL, CFGF_NODEFAULT, on_value);
	return opts;
}

static void add_section(cfg_opt_t *opts, size_t *n, const char *name, cfg_opt_t *sub, int flags)
{
	opts[*n] = (cfg_opt_t)CFG_SEC(name, sub, CFGF_MULTI | flags);
	opts[(*n)++].validcb = on_close;
}

/* The options of a service, or with `environments` of one that has environments. */
static cfg_opt_t *service_options(cfg_opt_t *environments)
{
	static const char *const sections[] = {"ready", "drain", "rollout", "dev", "limits"};
	size_t n, ignored;
	cfg_opt_t *opts = options_of(RAW_SERVICE, NULL, 7, &n), *sub;

	if (!opts)
		return NULL;
	for (size_t i = 0; i < ARRAY_SIZE(sections); i++) {
		sub = options_of(RAW_SERVICE, sections[i], 0, &ignored);
		if (!sub)
			return NULL;
		add_section(opts, &n, sections[i], sub, 0);
	}
	sub = options_of(RAW_LISTEN, NULL, 0, &ignored);
	if (!sub)
		return NULL;
	add_section(opts, &n, "listen", sub, CFGF_TITLE);
	if (environments)
		add_section(opts, &n, "environment", environments, CFGF_TITLE);
	return opts;
}

static cfg_opt_t *root_options(void)
{
	cfg_opt_t *environment = service_options(NULL);
	cfg_opt_t *service = environment ? service_options(environment) : NULL;
	size_t n;
	cfg_opt_t *opts = service ? options_of(RAW_ROOT, NULL, 2, &n) : NULL;

	if (!opts)
		return NULL;
	add_section(opts, &n, "service", service, CFGF_TITLE);
	opts[n] = (cfg_opt_t)CFG_STR_LIST_CB(GUARD_SENTINEL, NULL, CFGF_NODEFAULT, on_sentinel);
	return opts;
}

static int read_once(struct reader *r, cfg_opt_t *opts)
{
	cfg_t *cfg = cfg_init(opts, CFGF_NONE);
	int result;

	if (!cfg)
		return -ENOMEM;
	(void)cfg_set_error_function(cfg, on_error);
	r->root = raw_block_add(r->arena, NULL, RAW_ROOT, NULL, 0);
	r->levels[0] = (struct level){.cfg = cfg, .block = r->root};
	r->depth = 1;
	r->said = r->sentinel = false;
	r->blank[0] = '\0';
	result = r->root ? cfg_parse_buf(cfg, r->guarded.text) : CFG_PARSE_ERROR;
	(void)cfg_free(cfg);
	if (r->oom || !r->root)
		return -ENOMEM;
	if (result != CFG_SUCCESS && !r->said)
		mistakes_add(r->m, r->file, r->levels[r->depth - 1].line,
		        "the block that begins here is not understood");
	else if (result == CFG_SUCCESS && !r->sentinel)
		mistakes_add(r->m, r->file, r->guarded.last_line,
		        "the file ends in the middle of a block; is it cut?");
	return result == CFG_SUCCESS && r->sentinel ? 0 : -EINVAL;
}

/* Takes out what the parser stopped at; false if it cannot go on. */
static bool step_over(struct reader *r)
{
	int line;

	if (!r->blank[0])
		return false;
	if (r->blank_line < 0) /* done when it was complained of */
		return true;
	return guard_blank(&r->guarded, r->blank, r->blank_line, r->blank_without_value, &line);
}

int reader_read(const char *file, const char *text, size_t length, struct config *arena,
        struct raw_block **ret, bool *ret_whole, struct mistakes *m)
{
	struct reader r = {.file = file, .m = m, .arena = arena, .whole = true};
	size_t bytes = 0;
	int e = guard_prepare(&r.guarded, file, text, length, m);
	cfg_opt_t *opts;

	reading = &r;
	opts = e < 0 ? NULL : root_options();
	if (e == 0 && !opts)
		e = -ENOMEM;
	for (int i = 0; e == 0 && i < MAX_REREADS; i++) {
		e = read_once(&r, opts);
		bytes += length;
		if (e != -EINVAL)
			break;
		r.whole = false;
		e = 0; /* what was read up to there is checked all the same */
		if (!step_over(&r))
			break;
		if (bytes > MAX_REREAD_BYTES) {
			m->more = true;
			break;
		}
	}
	reading = NULL;
	guard_done(&r.guarded);
	if (e < 0)
		return e;
	*ret = r.root;
	*ret_whole = r.whole;
	return 0;
}
