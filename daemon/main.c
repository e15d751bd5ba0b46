/* SPDX-License-Identifier: MIT */
/* handoffd: options and wiring. */
#include "conf/load.h"
#include "daemon.h"
#include "past.h"
#include "system/fd.h"
#include "system/log.h"
#include "upgrade.h"
#include "wire/path.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#define DEVELOPMENT "development"
#define DEFAULT_CONFIG "/etc/handoffd/handoffd.conf"
#define OPTIONS_MAX 256
#define TAKE_OVER_MAX 64

struct options {
	const char *file;
	const char *environment;
	bool check, print;
	struct config_option settings[OPTIONS_MAX];
	size_t n_settings;
	char **command; /* NULL-terminated; NULL: none */
	bool development;
	char **services; /* of development mode, the same */
	bool trial;      /* see upgrade_is_trial() */
	pid_t take_over[TAKE_OVER_MAX];
	size_t n_take_over;
};

/* ---- options ---- */

static void print_setting(void *data, const char *key, const char *value_name, const char *help)
{
	char left[64];

	(void)snprintf(left, sizeof left, "--%s %s", key, value_name);
	fprintf(data, "  %-34s %s\n", left, help);
}

static void print_help(void)
{
	printf("handoffd keeps a service's port open while the program behind it is replaced.\n"
	       "\n"
	       "  handoffd [-c FILE] [-e ENVIRONMENT] [--check | --print-config]\n"
	       "  handoffd [-c FILE] [-e ENVIRONMENT] dev [SERVICE...]\n"
	       "  handoffd -l ADDRESS [-l ADDRESS]... [OPTION]... [--] COMMAND [ARG...]\n"
	       "\n"
	       "  -c, --config FILE                  run the services of FILE (" DEFAULT_CONFIG
	       ")\n"
	       "  -e, --environment NAME             which environment blocks apply\n"
	       "      dev                            development mode: all output in this "
	       "terminal, "
	       "reloads when a\n"
	       "                                     watched file changes; --watch with one "
	       "program "
	       "is the same\n"
	       "  -l, --listen [NAME=]ADDRESS        run one program: 8080, 127.0.0.1:8080, "
	       "[::1]:8080, unix:/run/x.sock\n"
	       "      --take-over PID                begin with a server that runs unmanaged "
	       "(may be repeated)\n"
	       "      --check                        say what is wrong with the configuration, and "
	       "leave\n"
	       "      --print-config                 print the settings in force with their "
	       "origin, and leave\n"
	       "  -h, --help                         this text\n"
	       "  -V, --version                      the version\n"
	       "\n"
	       "Settings of the one program (see handoffd.conf(5)):\n");
	config_each_option(print_setting, stdout);
	printf("\n"
	       "Signals: HUP reloads, TERM stops when all connections are done, a second one at "
	       "once,\n"
	       "USR2 puts the installed handoffd in the place of the running one.\n"
	       "Ask and order a running one with handoffctl(1).\n");
}

static int usage_error(const char *format, ...) _printf_(1, 2);
static int usage_error(const char *format, ...)
{
	va_list ap;

	fprintf(stderr, "handoffd: ");
	va_start(ap, format);
	vfprintf(stderr, format, ap);
	va_end(ap);
	fprintf(stderr, "; `handoffd --help` tells the options\n");
	return CODE_USAGE;
}

static bool add_setting(struct options *o, const char *key, const char *value)
{
	if (o->n_settings == OPTIONS_MAX)
		return false;
	o->settings[o->n_settings++] = (struct config_option){key, value};
	return true;
}

/* --key VALUE or --key=VALUE for every setting: the table is conf's, so getopt_long does not know
 * it. Returns how many arguments it was, 0 if it is no setting, or -1 after a message. */
static int take_setting(struct options *o, char **argv)
{
	const char *text = argv[0] + 2, *equals = strchr(text, '='), *name, *help;
	static char keys[OPTIONS_MAX][64];
	size_t n = equals ? (size_t)(equals - text) : strlen(text);
	char *key = keys[o->n_settings < OPTIONS_MAX ? o->n_settings : 0];

	if (n >= sizeof keys[0])
		return 0;
	memcpy(key, text, n);
	key[n] = '\0';
	if (!config_is_option(key, &name, &help))
		return 0;
	if (!equals && !argv[1]) {
		(void)usage_error("--%s needs a value: %s", key, name);
		return -1;
	}
	if (!add_setting(o, key, equals ? equals + 1 : argv[1])) {
		(void)usage_error("too many options");
		return -1;
	}
	return equals ? 1 : 2;
}

struct closest {
	const char *to, *key;
	unsigned distance;
};

static void compare(void *data, const char *key, const char *value_name, const char *help)
{
	struct closest *c = data;
	unsigned d = edit_distance(c->to, key, 3);

	(void)value_name;
	(void)help;
	if (d < c->distance) {
		c->distance = d;
		c->key = key;
	}
}

static int unknown_option(const char *arg)
{
	static const char *const own[] = {"config", "environment", "listen", "check",
	        "print-config", "help", "version", "take-over"};
	char key[64];
	struct closest c = {.to = key, .distance = 4};

	if (strncmp(arg, "--", 2) != 0)
		return usage_error("%s is not an option", arg);
	(void)copy_string(key, sizeof key, arg + 2);
	key[strcspn(key, "=")] = '\0';
	config_each_option(compare, &c);
	for (size_t i = 0; i < ARRAY_SIZE(own); i++)
		compare(&c, own[i], NULL, NULL);
	if (c.key)
		return usage_error("--%s is not an option, did you mean --%s?", key, c.key);
	return usage_error("--%s is not an option", key);
}

static int add_take_over(struct options *o, const char *value)
{
	uint64_t pid;

	if (!parse_number(value, INT32_MAX, &pid) || pid == 0)
		return usage_error("--take-over takes a process id, not \"%s\"", value);
	if (o->n_take_over == TAKE_OVER_MAX)
		return usage_error("too many options");
	o->take_over[o->n_take_over++] = (pid_t)pid;
	return -1;
}

/* -1: go on; else leave with this code. */
static int one_option(struct options *o, char **argv, int *ret_taken)
{
	static const struct {
		const char *shorter, *longer;
		bool valued;
	} table[] = {
	        {"-c", "--config", true},
	        {"-e", "--environment", true},
	        {"-l", "--listen", true},
	        {NULL, "--check", false},
	        {NULL, "--print-config", false},
	        {"-h", "--help", false},
	        {"-V", "--version", false},
	        {NULL, "--take-over", true},
	};
	const char *arg = argv[0], *value = NULL;
	size_t i;

	*ret_taken = 1;
	for (i = 0; i < ARRAY_SIZE(table); i++) {
		size_t n = strlen(table[i].longer);

		if ((table[i].shorter && !strcmp(arg, table[i].shorter)) ||
		        !strcmp(arg, table[i].longer))
			break;
		if (table[i].valued && !strncmp(arg, table[i].longer, n) && arg[n] == '=') {
			value = arg + n + 1;
			break;
		}
		if (table[i].valued && table[i].shorter && !strncmp(arg, table[i].shorter, 2) &&
		        arg[2]) {
			value = arg + 2;
			break;
		}
	}
	if (i == ARRAY_SIZE(table)) {
		int n = strncmp(arg, "--", 2) ? 0 : take_setting(o, argv);

		*ret_taken = n;
		return n > 0 ? -1 : n < 0 ? CODE_USAGE : unknown_option(arg);
	}
	if (table[i].valued && !value) {
		value = argv[1];
		*ret_taken = 2;
		if (!value)
			return usage_error("%s needs a value", arg);
	}
	switch (i) {
	case 0:
		o->file = value;
		return -1;
	case 1:
		o->environment = value;
		return -1;
	case 2:
		return add_setting(o, "listen", value) ? -1 : usage_error("too many options");
	case 3:
		o->check = true;
		return -1;
	case 4:
		o->print = true;
		return -1;
	case 5:
		print_help();
		return 0;
	case 7:
		return add_take_over(o, value);
	default:
		printf("handoffd %s\n", HANDOFF_VERSION);
		return 0;
	}
}

static bool has_setting(const struct options *o, const char *key)
{
	for (size_t i = 0; i < o->n_settings; i++)
		if (!strcmp(o->settings[i].key, key))
			return true;
	return false;
}

/* Who watches a program that is none of another environment is developing it. */
static void find_environment(struct options *o)
{
	if (!o->environment || !*o->environment)
		o->environment = getenv("HANDOFF_ENVIRONMENT");
	if (o->environment && !*o->environment)
		o->environment = NULL;
	o->development |= has_setting(o, "watch") &&
	                  (!o->environment || !strcmp(o->environment, DEVELOPMENT));
	if (o->development && !o->environment)
		o->environment = DEVELOPMENT;
}

static int read_options(struct options *o, int argc, char **argv)
{
	int i = 1, taken, r;

	for (; i < argc; i += taken) {
		if (!o->development && !o->n_settings && !strcmp(argv[i], "dev")) {
			o->development = true;
			taken = 1;
			continue;
		}
		if (argv[i][0] != '-' || !argv[i][1])
			break;
		if (!strcmp(argv[i], "--")) {
			i++;
			break;
		}
		r = one_option(o, &argv[i], &taken);
		if (r >= 0)
			return r;
	}
	if (i < argc && o->development && !o->n_settings)
		o->services = &argv[i];
	else if (i < argc)
		o->command = &argv[i];
	if (o->command && o->file)
		return usage_error(
		        "a command is given by -c FILE or on the command line, not both");
	if (!o->command && o->n_settings)
		return usage_error("--%s belongs to the one-program form, and no command is given",
		        o->settings[0].key);
	find_environment(o);
	if (o->development && o->n_take_over)
		return usage_error("--take-over has no place in development mode");
	return -1;
}

/* ---- configuration ---- */

static const char *default_file(const struct options *o)
{
	if (!o->development)
		return DEFAULT_CONFIG;
	if (access("handoffd.conf", F_OK) < 0 && access("Procfile", F_OK) == 0)
		return "Procfile";
	return "handoffd.conf";
}

static int load(const struct options *o, struct config_source *source)
{
	struct mistakes mistakes = {0};
	int r;

	source->environment = o->environment;
	source->development = o->development;
	source->only = o->services;
	if (o->command) {
		r = config_from_options(o->settings, o->n_settings, o->command, o->environment,
		        &source->config, &mistakes);
	} else {
		source->file = o->file ? o->file : default_file(o);
		source->fresh = true;
		r = config_load(source->file, o->environment, &source->config, &mistakes);
	}
	if (r == 0 && o->development)
		r = config_develop(source->config, o->services, &mistakes);
	for (size_t i = 0; i < mistakes.count && !o->trial; i++)
		fprintf(stderr, "%s\n", mistakes.lines[i]);
	if (mistakes.more && !o->trial)
		fprintf(stderr, "and more\n");
	mistakes_done(&mistakes);
	return r;
}

static int print_config(const struct config *c)
{
	char *text = config_print(c);

	if (!text) {
		fprintf(stderr, "handoffd: not enough memory to print the configuration\n");
		return CODE_FAILED;
	}
	fputs(text, stdout);
	free(text);
	return CODE_DONE;
}

/* ---- wiring ---- */

static void on_timer(struct ev_loop *loop, ev_timer *timer, int events)
{
	struct event ev = {.type = EVENT_TIMER};

	(void)loop;
	(void)events;
	daemon_post(timer->data, &ev);
}

static void on_prepare(struct ev_loop *loop, ev_prepare *prepare, int events)
{
	(void)loop;
	(void)events;
	daemon_run_events(prepare->data);
}

static int open_signals(struct daemon *d, struct ho_error *e)
{
	static const int signals[] = {SIGHUP, SIGTERM, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2, SIGCHLD};
	struct sigaction ignore = {.sa_handler = SIG_IGN};
	sigset_t set;

	sigemptyset(&set);
	for (size_t i = 0; i < ARRAY_SIZE(signals); i++)
		sigaddset(&set, signals[i]);
	(void)sigaction(SIGPIPE, &ignore, NULL);
	(void)sigaction(SIGXFSZ, &ignore, NULL); /* the state is told to be too large instead */
	if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
		return ho_error_set(e, -errno, "cannot block signals: %s", strerror(errno));
	d->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (d->signal_fd < 0)
		return ho_error_set(e, -errno, "cannot receive signals: %s", strerror(errno));
	return 0;
}

static int open_control(struct daemon *d, struct past *past, struct ho_error *e)
{
	const struct config *c = d->source.config;
	bool asked = getenv("HANDOFF_CONTROL") ||
	             (!d->source.development && (c->control_socket || d->source.file));
	struct control_options options = {.path = c->control_socket,
	        .change_group = c->control_group,
	        .read_group = c->control_read_group};
	struct control_handlers handlers = daemon_control_handlers;
	char path[256];
	int r = 0;

	handlers.data = d;
	if (past->doc)
		past_load_control(d, past, &options, &handlers);
	if (d->control)
		return 0;
	if (!options.path) {
		r = control_default_path(path, sizeof path);
		options.path = path;
		if (r < 0)
			(void)ho_error_set(
			        e, r, "there is no XDG_RUNTIME_DIR for the control socket");
	}
	if (r == 0)
		r = control_new(d->loop, &options, &handlers, &d->control, e);
	if (r == 0 || asked)
		return r;
	/* a single program is not kept from running by another one's default socket */
	log_line(RECORD_WARNING,
	        "no control socket, handoffctl cannot be used: %s; --control-socket names another",
	        e->text);
	return 0;
}

static void report_unclaimed(const char *name, void *data)
{
	(void)data;
	log_line(RECORD_WARNING,
	        "the socket \"%s\" that systemd passed belongs to no service; name it as "
	        "systemd:%s",
	        name, name);
}

static int open_sockets(struct daemon *d, struct ho_error *e)
{
	const char *wanted = getenv("HANDOFF_STEERING");
	struct sockets_options options = {.no_ebpf = wanted && !strcmp(wanted, "cbpf"),
	        .n_passed = d->n_passed,
	        .passed = d->passed,
	        .passed_names = d->passed_names,
	        .stranded = d->develop ? develop_stranded : NULL,
	        .stranded_data = d};
	int r = sockets_new(d->loop, &options, &d->sockets, e);

	for (int i = 0; i < d->n_passed; i++)
		free(d->passed_names[i]);
	free(d->passed_names);
	free(d->passed);
	d->passed = NULL;
	d->passed_names = NULL;
	d->n_passed = 0;
	return r;
}

static int open_all(struct daemon *d, struct past *past, struct ho_error *e)
{
	struct process_handlers handlers = daemon_process_handlers;
	int r;

	d->last = &d->first;
	d->signal_fd = -1;
	d->loop = ev_loop_new(EVFLAG_AUTO | EVFLAG_NOSIGMASK);
	d->supervisor = supervisor_new();
	if (!d->loop || !d->supervisor)
		return ho_error_set(e, -ENOMEM, "not enough memory");
	ev_init(&d->timer, on_timer);
	ev_init(&d->monitors, daemon_on_monitors);
	d->timer.data = d->monitors.data = d;
	handlers.data = d;
	r = open_signals(d, e);
	if (r == 0 && d->source.development)
		r = develop_new(d, e);
	if (r == 0)
		r = processes_new(d->loop, &handlers, &d->processes, e);
	if (r == 0)
		r = connections_new(d->loop, &d->connections, e);
	if (r == 0)
		r = open_sockets(d, e);
	if (r == 0 && past->doc)
		r = past_load(d, past, e);
	if (r == 0)
		r = open_control(d, past, e);
	if (r == 0 && !past->doc && !d->source.development) {
		past_find_file(d, past);
		if (past->doc)
			r = past_load(d, past, e);
	}
	if (r < 0)
		return r;
	develop_begin(d);
	sockets_unclaimed(d->sockets, d->source.config, report_unclaimed, NULL);
	ev_prepare_init(&d->prepare, on_prepare);
	d->prepare.data = d;
	ev_prepare_start(d->loop, &d->prepare);
	ev_io_init(&d->signals, daemon_on_signal, d->signal_fd, EV_READ);
	d->signals.data = d;
	ev_io_start(d->loop, &d->signals);
	d->watchdog = systemd_watchdog_new(d->loop);
	rights_read(&d->rights);
	return 0;
}

static void close_all(struct daemon *d)
{
	struct posted *p;

	upgrade_free(d);
	if (d->control)
		control_flush(d->control);
	store_close(d, true);
	d->control = control_free(d->control);
	while ((p = d->first)) {
		d->first = p->next;
		if (p->ev.type == EVENT_CONFIG_LOADED)
			config_unref(p->ev.config);
		free(p);
	}
	supervisor_free(d->supervisor);
	action_list_done(&d->actions);
	changes_free(d);
	processes_free(d->processes);
	connections_free(d->connections);
	sockets_free(d->sockets);
	take_over_free(d);
	for (unsigned i = 0; i < LAST_WORDS_MAX; i++)
		free(d->words[i].text);
	kept_free(d);
	config_unref(d->source.config);
	systemd_watchdog_free(d->watchdog);
	develop_free(d);
	if (d->loop)
		ev_loop_destroy(d->loop);
	close_fd(d->signal_fd);
}

static void say_last_words(const char *expression, const char *file, int line)
{
	fprintf(stderr, "handoffd: %s:%d: this cannot be: %s\n", file, line, expression);
}

static int run(struct daemon *d, const struct options *o, struct past *past)
{
	struct event ev = {.type = EVENT_CONFIG_LOADED};
	struct ho_error error = {0};

	ho_assert_hook = say_last_words;
	if (open_all(d, past, &error) < 0 ||
	        (!past->doc && take_over_find(d, o->take_over, o->n_take_over, &error) < 0)) {
		fprintf(stderr, "handoffd: %s\n", error.text);
		upgrade_go_back(error.text);
		past_done(past);
		close_all(d);
		return CODE_FAILED;
	}
	upgrade_commit();
	if (past->doc) {
		past_resume(d, past);
	} else {
		store_open(d, d->control ? control_path(d->control) : NULL, NULL, NULL);
		ev.config = config_ref(d->source.config);
		ev.taken = d->taken;
		ev.n_taken = d->n_taken;
		daemon_post(d, &ev);
	}
	ev_run(d->loop, 0);
	close_all(d);
	return d->exit_code;
}

/* Larger pieces of memory have pages of their own, which go back when they are freed, as the text
 * of the whole state. */
#define OWN_PAGES_BYTES (32 << 10)

/* 0 to 2 must be open, or a socket would get such a number. */
static void open_standard(void)
{
	int fd;

	do
		fd = open("/dev/null", O_RDWR);
	while (fd >= 0 && fd <= STDERR_FILENO);
	close_fd(fd);
}

int main(int argc, char **argv)
{
	static struct options options;
	static struct daemon d;
	struct past past = {0};
	struct ho_error error = {0};
	struct log_options log = {.level = RECORD_INFO};
	const char *level = getenv("HANDOFF_LOG");
	int r;

	open_standard();
	(void)mallopt(M_MMAP_THRESHOLD, OWN_PAGES_BYTES);
	if (argc == 2 && !strcmp(argv[1], "--check-snapshot"))
		return upgrade_check_snapshot();
	upgrade_remember(argv);
	upgrade_receive();
	options.trial = upgrade_is_trial();
	rights_lower();
	r = read_options(&options, argc, argv);
	if (r >= 0)
		return r;
	if (level && !strcmp(level, "debug"))
		log.level = RECORD_DEBUG;
	log_open(&log);
	if (options.trial) {
		(void)load(&options, &d.source);
		return upgrade_check_snapshot();
	}
	if (!options.check && !options.print && past_find(&d, &past, &error) < 0) {
		fprintf(stderr, "handoffd: %s\n", error.text);
		return CODE_FAILED;
	}
	/* with services that run, a mistake in the file is for the next reload */
	if (load(&options, &d.source) < 0 && !past.doc)
		return CODE_USAGE;
	if (options.check || options.print) {
		r = options.print ? print_config(d.source.config) : CODE_DONE;
		if (options.check && !options.print)
			printf("the configuration is good\n");
		config_unref(d.source.config);
		return r;
	}
	return run(&d, &options, &past);
}
