/* SPDX-License-Identifier: MIT */
/* The commands that ask for something and wait until it is so: reload, deploy, rollback, stop, wait
 * and their like. */
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ctl/ctl.h"
#include "wire/interface.h"

static bool terminal; /* for a handler of signals */

/* One line; of one that is not well also what else its text says, and where the link leads. */
static void print_result(const json_t *r)
{
	json_int_t code = json_integer_value(json_object_get(r, "exit_code"));
	json_int_t cut = json_integer_value(json_object_get(r, "cut"));
	const json_t *generation = json_object_get(r, "generation");
	const char *text = member(r, "text"), *rest = strchr(text, '\n');
	FILE *f = code ? stderr : stdout;
	char line[2048];
	struct text t = TEXT_ON(line);

	text_add(&t, "%s: %s -> %s", member(r, "service"), member(r, "request"),
	        member(r, "outcome"));
	if (json_is_integer(generation))
		text_add(&t, ", generation %" JSON_INTEGER_FORMAT, json_integer_value(generation));
	if (code == CODE_GENERATION_FAILED)
		text_add(&t, "; the old one goes on serving");
	if (*text)
		text_add(&t, ": ");
	text_add_bytes(&t, text, rest ? (size_t)(rest - text) : strlen(text));
	if (cut)
		text_add(&t, " (%" JSON_INTEGER_FORMAT " connection%s cut)", cut,
		        cut == 1 ? "" : "s");
	put_text(f, line, 0);
	(void)fputc('\n', f);
	if (rest)
		put_lines(f, "    ", rest + 1);
	if (*member(r, "release_link")) {
		(void)fputs("release link: ", f);
		put_lines(f, "", member(r, "release_link"));
	}
}

/* `document` is what a good reply and the error Failed have in common. */
static void print_results(const struct ctl *ctl, const json_t *document, int code)
{
	json_t *results = json_object_get(document, "results"), *result;
	const char *text = member(document, "text");
	size_t i;

	if (ctl->json) {
		_cleanup_json_ json_t *j = json_pack(
		        "{s:i, s:i, s:O}", "version", 1, "exit_code", code, "results", results);

		if (j && !json_array_size(results) && *text)
			(void)json_object_set_new(j, "text", wire_string(text));
		if (j)
			put_json(j);
	}
	json_array_foreach(results, i, result)
	{
		if (!ctl->json || json_integer_value(json_object_get(result, "exit_code")))
			print_result(result);
	}
	if (code && !json_array_size(results))
		(void)complain(code, "%s", *text ? text : "handoffd did not say why it failed");
}

/* A failure of our own, which was told in words: a document for those who want one. */
static int explained(const struct ctl *ctl, int code)
{
	_cleanup_json_ json_t *j = NULL;

	if (ctl->json)
		j = json_pack("{s:i, s:i, s:[], s:o}", "version", 1, "exit_code", code, "results",
		        "text", wire_string(last_complaint()));
	if (j)
		put_json(j);
	return code;
}

/* The status as it comes, while the line of a terminal shows it. */
static void show_status(struct client *monitor, struct progress *p, bool ended)
{
	_cleanup_json_ json_t *reply = NULL;
	int r = ended ? CODE_UNREACHABLE : client_receive_now(monitor, &reply, NULL, NULL);

	if (!r)
		progress_status(p, json_object_get(reply, "status"));
	else if (r != CLIENT_NOTHING)
		client_close(monitor);
}

/* Until the last reply. On a terminal with numbers out of the status, from a second connection. */
static int follow(const struct ctl *ctl, struct client *c, struct progress *p, json_t **ret,
        json_t **ret_failure)
{
	struct client monitor = {.fd = -1};
	bool more = true;
	int r = 0;

	if (progress_wants_status(p))
		(void)client_follow(&monitor, ctl, INTERFACE_MANAGER ".Monitor", json_object());
	while (!r && more) {
		_cleanup_json_ json_t *reply = NULL;
		struct pollfd fds[] = {
		        {.fd = c->fd, .events = POLLIN}, {.fd = monitor.fd, .events = POLLIN}};

		r = client_receive_now(c, &reply, &more, ret_failure);
		if (!r && more)
			progress_show(p, json_object_get(reply, "progress"));
		else if (!r)
			*ret = json_incref(reply);
		if (r != CLIENT_NOTHING)
			continue;
		r = 0;
		(void)poll(fds, ARRAY_SIZE(fds), -1);
		if (fds[1].revents)
			show_status(&monitor, p, fds[1].revents & (POLLHUP | POLLERR));
	}
	client_close(&monitor);
	return r;
}

/* Whoever goes away, by Ctrl-C perhaps, has not undone anything. */
static void on_end(int signo)
{
	static const char words[] =
	        "\nhandoffctl: not waited for any more; the work goes on: `handoffctl status` "
	        "shows it, `handoffctl abort` undoes a roll-out\n";
	size_t skip = terminal ? 0 : 1; /* the line of the progress ends */

	if (write(STDERR_FILENO, words + skip, sizeof words - 1 - skip) < 0) {
		/* nobody reads it */
	}
	(void)raise(signo); /* the handler was for one time */
}

static void catch_end(void)
{
	static const int ends[] = {SIGINT, SIGTERM};
	const struct sigaction end = {.sa_handler = on_end, .sa_flags = (int)SA_RESETHAND};
	struct sigaction before;

	terminal = terminal_columns() > 0;
	for (size_t i = 0; i < ARRAY_SIZE(ends); i++)
		if (!sigaction(ends[i], NULL, &before) && before.sa_handler == SIG_DFL)
			(void)sigaction(ends[i], &end, NULL);
}

/* Takes the reference to `parameters`. */
static int run(struct ctl *ctl, const char *method, json_t *parameters)
{
	_cleanup_json_ json_t *reply = NULL, *failure = NULL;
	struct progress *progress = ctl->json ? NULL : progress_new();
	struct client c;
	int r;

	for (int i = 0; i < ctl->n_arguments; i++)
		progress_expect(progress, ctl->arguments[i]);
	if (ctl->timeout != USEC_INFINITY)
		(void)json_object_set_new(parameters, "timeout",
		        json_real((double)ctl->timeout / (double)USEC_PER_SEC));
	if (strcmp(ctl->command, "wait") != 0)
		catch_end();
	r = client_follow(&c, ctl, method, parameters);
	if (r) {
		(void)progress_free(progress);
		return explained(ctl, r);
	}
	r = follow(ctl, &c, progress, &reply, &failure);
	progress = progress_free(progress);
	client_close(&c);
	/* Nothing but its own word means that it is done. */
	if (!r && (!json_is_integer(json_object_get(reply, "exit_code")) ||
	                  json_integer_value(json_object_get(reply, "exit_code")) != CODE_DONE ||
	                  !json_is_array(json_object_get(reply, "results"))))
		return explained(ctl, complain(CODE_FAILED, "handoffd answered without a result"));
	if (r && !failure)
		return explained(ctl, r);
	print_results(ctl, failure ? failure : reply, r);
	return r;
}

static void add_seconds(json_t *parameters, const char *key, usec_t t)
{
	double seconds = t == USEC_INFINITY ? 1e9 : (double)t / (double)USEC_PER_SEC;

	(void)json_object_set_new(parameters, key, json_real(seconds));
}

static void add_roll(const struct ctl *ctl, json_t *parameters)
{
	if (ctl->has_canary)
		(void)json_object_set_new(
		        parameters, "canary", json_real(ctl->canary * 100. / SHARE_ALL));
	if (ctl->has_hold)
		add_seconds(parameters, "hold", ctl->hold);
	if (ctl->has_keep_warm)
		add_seconds(parameters, "keep_warm", ctl->keep_warm);
}

static int run_service(struct ctl *ctl, const char *method, const char *release)
{
	json_t *parameters = json_pack("{s:o}", "service", wire_string(ctl->arguments[0]));

	if (parameters && ctl->wait)
		(void)json_object_set_new(parameters, "wait", wire_string(ctl->wait));
	if (parameters && release)
		(void)json_object_set_new(parameters, "release", wire_string(release));
	add_roll(ctl, parameters);
	return run(ctl, method, parameters);
}

int command_deploy(struct ctl *ctl)
{
	_cleanup_free_ char *here = NULL;
	_cleanup_free_ char *path = NULL;

	if (!ctl->release || !*ctl->release)
		return complain(CODE_USAGE, "deploy needs --release DIR");
	if (strlen(ctl->release) >= PATH_MAX)
		return complain(CODE_USAGE, "the path of the release is longer than any can be");
	if (ctl->release[0] == '/')
		return run_service(ctl, INTERFACE_MANAGER ".Deploy", ctl->release);
	here = getcwd(NULL, 0);
	if (!here || asprintf(&path, "%s/%s", here, ctl->release) < 0)
		return complain(CODE_FAILED, "cannot find out where \"%s\" is", ctl->release);
	return run_service(ctl, INTERFACE_MANAGER ".Deploy", path);
}

int command_promote(struct ctl *ctl)
{
	return run_service(ctl, INTERFACE_MANAGER ".Promote", NULL);
}

int command_abort(struct ctl *ctl)
{
	return run_service(ctl, INTERFACE_MANAGER ".Abort", NULL);
}

int command_rollback(struct ctl *ctl)
{
	return run_service(ctl, INTERFACE_MANAGER ".Rollback", NULL);
}

int command_scale(struct ctl *ctl)
{
	json_t *parameters = json_pack("{s:o}", "service", wire_string(ctl->arguments[0]));
	uint64_t n;

	if (!parse_number(ctl->arguments[1], CONFIG_MAX_WORKERS, &n) || !n) {
		json_decref(parameters);
		return complain(CODE_USAGE,
		        "scale takes a number of workers from 1 to %d, not \"%s\"",
		        CONFIG_MAX_WORKERS, ctl->arguments[1]);
	}
	if (parameters && ctl->wait)
		(void)json_object_set_new(parameters, "wait", wire_string(ctl->wait));
	(void)json_object_set_new(parameters, "workers", json_integer((json_int_t)n));
	return run(ctl, INTERFACE_MANAGER ".Scale", parameters);
}

static int run_services(struct ctl *ctl, const char *method)
{
	json_t *services = json_array(), *parameters;

	for (int i = 0; i < ctl->n_arguments; i++)
		(void)json_array_append_new(services, wire_string(ctl->arguments[i]));
	parameters = json_pack("{s:o}", "services", services);
	if (parameters && ctl->wait)
		(void)json_object_set_new(parameters, "wait", wire_string(ctl->wait));
	add_roll(ctl, parameters);
	return run(ctl, method, parameters);
}

int command_reload(struct ctl *ctl)
{
	return run_services(ctl, INTERFACE_MANAGER ".Reload");
}

int command_stop(struct ctl *ctl)
{
	return run_services(ctl, INTERFACE_MANAGER ".Stop");
}

int command_start(struct ctl *ctl)
{
	return run_services(ctl, INTERFACE_MANAGER ".Start");
}

int command_restart(struct ctl *ctl)
{
	return run_services(ctl, INTERFACE_MANAGER ".Restart");
}

int command_upgrade(struct ctl *ctl)
{
	int r = run(ctl, INTERFACE_MANAGER ".Upgrade", json_object());

	if (!r && !ctl->json)
		(void)puts("handoffd was replaced");
	return r;
}

int command_wait(struct ctl *ctl)
{
	json_t *parameters = json_pack("{s:o}", "service", wire_string(ctl->arguments[0]));

	if (parameters && ctl->wait)
		(void)json_object_set_new(parameters, "for", wire_string(ctl->wait));
	return run(ctl, INTERFACE_MANAGER ".Wait", parameters);
}
