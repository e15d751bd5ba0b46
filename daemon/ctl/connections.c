/* SPDX-License-Identifier: MIT */
/* Who is still connected, printed as it comes: there may be very many. */
#include "ctl/ctl.h"
#include "wire/interface.h"

static json_int_t number(const json_t *object, const char *key)
{
	return json_integer_value(json_object_get(object, key));
}

static void add_number(struct text *t, const json_t *object, const char *key)
{
	if (json_is_integer(json_object_get(object, key)))
		text_add(t, "%" JSON_INTEGER_FORMAT, number(object, key));
	else
		text_add(t, "-");
}

static void print_head(void)
{
	(void)printf("%4s %6s %8s %-11s %6s %6s %6s %6s  %s\n", "GEN", "WORKER", "PID", "STATE",
	        "AGE>=", "IDLE", "IN", "OUT", "PEER");
}

static void print_row(const json_t *c, unsigned columns)
{
	char worker[24], pid[24], age[24], idle[24], in[24], out[24], line[512];
	struct text w = TEXT_ON(worker), p = TEXT_ON(pid), a = TEXT_ON(age), i = TEXT_ON(idle),
	            qi = TEXT_ON(in), qo = TEXT_ON(out), t = TEXT_ON(line);

	add_number(&w, c, "worker");
	add_number(&p, c, "pid");
	add_duration(&a, json_object_get(c, "age"));
	add_duration(&i, json_object_get(c, "idle"));
	add_bytes(&qi, (double)number(c, "queued_in"));
	add_bytes(&qo, (double)number(c, "queued_out"));
	text_add(&t, "%4" JSON_INTEGER_FORMAT " %6s %8s %-11s %6s %6s %6s %6s  %s (%s)",
	        number(c, "generation"), worker, pid, member(c, "state"), age, idle, in, out,
	        member(c, "peer"), member(c, "listener"));
	put_text(stdout, line, columns);
	(void)putchar('\n');
}

/* One document, written in pieces. */
static void print_piece(const struct ctl *ctl, json_t *list, size_t printed)
{
	unsigned columns = terminal_columns();
	json_t *c;
	size_t i;

	json_array_foreach(list, i, c)
	{
		if (!ctl->json) {
			print_row(c, columns);
			continue;
		}
		(void)fputs(printed + i ? ",\n" : "\n", stdout);
		(void)json_dumpf(c, stdout, JSON_REAL_PRECISION(15));
	}
}

int command_connections(struct ctl *ctl)
{
	json_t *parameters = json_pack("{s:o}", "service", wire_string(ctl->arguments[0]));
	struct client c;
	size_t printed = 0;
	bool more = true, begun = false;
	int r = client_open(&c, ctl);

	if (r) {
		json_decref(parameters);
		return r;
	}
	if (parameters && ctl->generation)
		(void)json_object_set_new(
		        parameters, "generation", json_integer((json_int_t)ctl->generation));
	r = client_send(&c, INTERFACE_MANAGER ".Connections", parameters, true);
	while (!r && more && !ferror(stdout)) {
		_cleanup_json_ json_t *reply = NULL;
		json_t *list;

		r = client_receive(&c, &reply, &more, NULL);
		if (r)
			break;
		if (!begun && ctl->json)
			(void)fputs("{\"version\": 1, \"connections\": [", stdout);
		else if (!begun)
			print_head();
		begun = true;
		list = json_object_get(reply, "connections");
		print_piece(ctl, list, printed);
		printed += json_array_size(list);
	}
	client_close(&c);
	if (begun && ctl->json && !r)
		(void)fputs("]}\n", stdout);
	return r;
}
